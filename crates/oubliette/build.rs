//! Embeds the guest: the file that `OUBLIETTE_GUEST` names (`make build` sets it), or nothing; and the commit that
//! `OUBLIETTE_COMMIT` names.

use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

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
    fs::write(out.join("guest.rs"), format!("/// The guest's program, if this build has one.\npub(crate) const GUEST: Option<&[u8]> = {source};\n"))
        .expect("cargo's output folder is writable");
}

fn embed(path: &Path, out: &Path) -> String {
    // Copied, so that what is embedded is what was there when this ran.
    fs::copy(path, out.join("guest")).expect("the guest is readable and the output folder is writable");
    "Some(include_bytes!(concat!(env!(\"OUT_DIR\"), \"/guest\")))".to_owned()
}
