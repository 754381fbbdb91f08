//! Embeds the guest: the file that `OUBLIETTE_GUEST` names (`make build` sets it), or nothing; and the commit that
//! `OUBLIETTE_COMMIT` names.

use std::env;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;

fn main() {
    fn tell(line: &str) {
        println!("cargo::{line}");
    }
    tell("rerun-if-env-changed=OUBLIETTE_GUEST");
    tell("rerun-if-env-changed=OUBLIETTE_COMMIT");
    let commit = env::var("OUBLIETTE_COMMIT").ok().filter(|commit| !commit.is_empty());
    let built_from =
        commit.map_or_else(|| "development build".to_owned(), |commit| format!("commit {commit}"));
    tell(&format!("rustc-env=OUBLIETTE_BUILT_FROM={built_from}"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let guest = env::var_os("OUBLIETTE_GUEST").map(PathBuf::from).filter(|path| !path.as_os_str().is_empty());
    let source = match guest {
        None => "None".to_owned(),
        Some(path) => {
            tell(&format!("rerun-if-changed={}", path.display()));
            if path.is_file() {
                embed(&path, &out)
            } else {
                // A plain `cargo build` with the variable of an earlier make in its environment still works.
                tell(&format!(
                    "warning=no guest at {}: sandboxes will be refused; run `make build`",
                    path.display()
                ));
                "None".to_owned()
            }
        }
    };
    fs::write(out.join("guest.rs"), format!("/// The guest's program in gzip's form, if this build has one.\npub(crate) const GUEST: Option<&[u8]> = {source};\n"))
        .expect("cargo's output folder is writable");
}

/// In gzip's form, which is less than half as large.
fn embed(path: &Path, out: &Path) -> String {
    let program = fs::read(path).expect("the guest is readable");
    let file = fs::File::create(out.join("guest.gz")).expect("cargo's output folder is writable");
    let mut packed = GzEncoder::new(file, Compression::best());
    packed.write_all(&program).and_then(|()| packed.finish()).expect("cargo's output folder has room");
    "Some(include_bytes!(concat!(env!(\"OUT_DIR\"), \"/guest.gz\")))".to_owned()
}
