//! What sandboxes get of the machine.

use super::*;

#[test]
fn a_sandbox_gets_no_more_than_the_machine_has() {
    let small = Machine { memory: 1 << 30, cpu_millis: 2000 };
    let silent = load_on(&Place::new("{}").options, small).expect("fine");
    assert_eq!(silent.settings.sandbox.memory, Some(1 << 30));
    assert_eq!(silent.settings.sandbox.cpu_millis, Some(2000));
    assert_eq!(silent.warnings, Vec::<String>::new(), "a default is clamped without a word");
    let place = Place::new(r#"{"sandbox": {"memory": "8G", "cpus": 8}}"#);
    let told = load_on(&place.options, small).expect("fine");
    assert_eq!(told.settings.sandbox.memory, Some(1 << 30));
    assert_eq!(told.warnings.len(), 2);
    assert!(told.warnings[0].contains("this machine has 1 GiB"), "{:?}", told.warnings);
}

fn rust_of(person: &Path) {
    for folder in [".rustup/toolchains/stable", ".cargo/bin", ".cargo/registry"] {
        fs::create_dir_all(person.join(folder)).expect("a folder");
    }
    for file in [".cargo/bin/cargo", ".cargo/credentials.toml"] {
        fs::write(person.join(file), "").expect("a file");
    }
}

#[test]
fn rust_is_shown_to_sandboxes_without_cargos_keys() {
    let place = Place::new("{}");
    let person = place.dir.path().join("nobody");
    rust_of(&person);
    let sandbox = place.load().expect("fine").settings.sandbox;
    assert_eq!(sandbox.read_only, [person.join(".rustup"), person.join(".cargo/bin")]);
    assert_eq!(sandbox.path, [person.join(".cargo/bin")]);
    assert_eq!(sandbox.env["RUSTUP_HOME"], person.join(".rustup").to_string_lossy());
    assert_eq!(sandbox.env["CARGO_HOME"], "/home/agent/.cargo");
    for folder in &sandbox.read_only {
        assert!(!person.join(".cargo/credentials.toml").starts_with(folder));
    }
    let off = place.env("OUBLIETTE_SANDBOX__TOOLCHAINS", "off").load().expect("fine").settings.sandbox;
    assert_eq!((off.read_only.len(), off.path.len(), off.env.len()), (0, 0, 0));
}

#[test]
fn rust_elsewhere_is_found_and_a_wild_rustup_home_is_not_followed() {
    let place = Place::new(r#"{"sandbox": {"env": {"CARGO_HOME": "/workspace/.cargo"}}}"#);
    let other = place.dir.path().join("opt");
    rust_of(&other);
    let place = place
        .env("RUSTUP_HOME", &other.join(".rustup").to_string_lossy())
        .env("CARGO_HOME", &other.join(".cargo").to_string_lossy());
    let sandbox = place.load().expect("fine").settings.sandbox;
    assert_eq!(sandbox.read_only, [other.join(".rustup"), other.join(".cargo/bin")]);
    assert_eq!(sandbox.env["CARGO_HOME"], "/workspace/.cargo", "the operator's word stands");

    // The person's whole folder, or ours, does not become visible because a variable says so.
    let person = place.dir.path().join("nobody");
    fs::create_dir_all(person.join("toolchains")).expect("a folder");
    fs::create_dir_all(place.dir.path().join("home/toolchains")).expect("a folder");
    for wild in [person, place.dir.path().join("home")] {
        let place = Place { options: place.options.clone(), dir: TempDir::new().expect("a folder") };
        let place = place.env("RUSTUP_HOME", &wild.to_string_lossy());
        let sandbox = place.load().expect("fine").settings.sandbox;
        assert!(!sandbox.read_only.contains(&wild), "{}", wild.display());
    }
}

#[test]
fn folders_with_secrets_cannot_be_shown_and_others_can() {
    let place = Place::new("{}");
    let person = place.dir.path().join("nobody");
    for folder in [".ssh", ".cargo/registry", "code/lib"] {
        fs::create_dir_all(person.join(folder)).expect("a folder");
    }
    std::os::unix::fs::symlink("/", place.dir.path().join("home/link")).expect("a link");
    let try_folder = |folder: &str| {
        let mut place = Place { options: place.options.clone(), dir: TempDir::new().expect("a folder") };
        let list = serde_json_string(folder);
        place = place.env("OUBLIETTE_SANDBOX__READ_ONLY", &format!("[{list}]"));
        place.load().map(|loaded| loaded.settings.sandbox.read_only)
    };
    for folder in ["/", "/proc", "/etc", "~/", "~/.ssh", "~/.cargo", ".", "config", "link", "/nowhere-at-all"]
    {
        let text = try_folder(folder).expect_err(folder).to_string();
        assert!(text.contains("cannot be shown") || text.contains("does not exist"), "{folder}: {text}");
    }
    assert_eq!(try_folder("/usr").expect("harmless"), [Path::new("/usr")]);
    assert_eq!(try_folder("~/code/lib").expect("harmless"), [person.join("code/lib")]);
    assert_eq!(try_folder("~/.cargo/registry").expect("harmless"), [person.join(".cargo/registry")]);
}

fn serde_json_string(text: &str) -> String {
    format!("{text:?}")
}
