//! Where the folders of the home are.

use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use ob_core::Home;
use ob_core::home::Folders;

use super::Resolver;
use crate::home;
use crate::home::resolve_links;

// === impl Resolver ===

impl Resolver<'_> {
    pub(super) fn paths(&mut self) -> Home {
        let folders = Folders {
            data: self.folder("data"),
            logs: self.folder("logs"),
            projects: self.folder("projects"),
        };
        let runtime = self.runtime();
        Home::new(self.home.root.clone(), self.home.layout, runtime).with_folders(folders)
    }

    fn folder(&mut self, name: &'static str) -> Option<PathBuf> {
        let path = self.text(&["paths", name])?;
        let folder = Path::new(&path.value);
        let leaves = folder.is_absolute() || folder.components().any(|part| part == Component::ParentDir);
        if path.in_file && !self.home.is_trusted && leaves {
            self.mistake(
                &path.place,
                &format!("paths.{name}"),
                "a file that was found in the working directory may not name a folder outside it; name the home once \
                 with `--dir .`",
            );
            return None;
        }
        let folder = resolve_links(&self.home.root.join(folder));
        if folder.is_file() {
            self.mistake(&path.place, &format!("paths.{name}"), format!("{} is a file", folder.display()));
        }
        Some(folder)
    }

    fn runtime(&mut self) -> PathBuf {
        let usual = self.home.runtime.clone();
        let Some(sockets) = self.text(&["paths", "sockets"]) else { return usual };
        // Whoever wrote an untrusted file could have made the folder, and listen where our server does.
        if sockets.in_file && !self.home.is_trusted {
            self.out.warnings.push(format!(
                "{}: paths.sockets: is not used, for this file was found in the working directory; sockets are in {}",
                sockets.place,
                usual.display()
            ));
            return usual;
        }
        let folder = resolve_links(&self.home.root.join(&sockets.value));
        home::sockets_folder(&folder, &self.home.root).unwrap_or_else(|| {
            self.out.warnings.push(format!(
                "{}: paths.sockets: {} is too long for the path of a socket; sockets are in {}",
                sockets.place,
                folder.display(),
                usual.display()
            ));
            usual
        })
    }
}
