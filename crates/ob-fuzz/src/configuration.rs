//! Configuration files: every mistake has a place in the file, and no message holds a key.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ob_config::LoadOptions;

use crate::Control;

/// A key in the corpus. Messages and origins never hold it.
const CANARY: &str = "sk-fuzz-canary-0123456789abcdefghijklmn";

pub(crate) const WORDS: &[&str] = &[
    CANARY,
    "\"credentials\"",
    "\"providers\"",
    "\"api_key\"",
    "\"base_url\"",
    "\"server\"",
    "\"address\"",
    "//",
    "/*",
    "*/",
    "\"models\"",
    "\"sandbox\"",
    "\"limits\"",
    "\"memory\"",
    "\"4G\"",
    "null",
    "1e999",
    "\\u0000",
    "\u{feff}",
    "- ",
    "&a",
    "*a",
    ": ",
];

thread_local! {
    /// The home that this thread writes its files into, in memory where there is such a place.
    static HOME: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
}

/// First byte: the layout of the home. The rest is the file.
pub(crate) fn run(data: &[u8]) {
    let mut control = Control::new(data);
    let name = if control.byte().is_multiple_of(2) { "config/oubliette.jsonc" } else { "config.yaml" };
    HOME.with(|home| {
        let home = home.get_or_init(|| {
            let shared = Path::new("/dev/shm");
            let folder = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
            folder.expect("a folder")
        });
        load(home.path(), name, control.rest);
    });
}

fn load(home: &Path, name: &str, content: &[u8]) {
    let file = home.join(name);
    fs::create_dir_all(file.parent().expect("it is in the home")).expect("made");
    fs::write(&file, content).expect("written");
    let options = LoadOptions {
        dir: Some(home.to_owned()),
        config_file: None,
        env: BTreeMap::new(),
        cwd: home.to_owned(),
        uid: 0,
    };
    let loaded = ob_config::load(&options);
    fs::remove_file(&file).expect("removed");
    let hidden = |text: &str| assert!(!text.contains(CANARY), "a key is shown: {text}");
    match loaded {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| hidden(warning));
            loaded.origins.iter().for_each(|(_, origin)| hidden(origin));
        }
        Err(mistakes) => {
            assert!(!mistakes.0.is_empty(), "a refusal has a reason");
            let text = String::from_utf8_lossy(content);
            for mistake in &mistakes.0 {
                hidden(&mistake.to_string());
                assert!(!mistake.what.is_empty(), "{mistake:?}");
                in_file(&mistake.place, &file.display().to_string(), &text);
            }
        }
    }
}

/// A place `FILE:LINE:COLUMN…` is in the file, or one behind its end.
fn in_file(place: &str, file: &str, text: &str) {
    let Some(rest) = place.strip_prefix(file).and_then(|rest| rest.strip_prefix(':')) else { return };
    let mut numbers = rest.split(':').map(|part| part.trim().parse::<usize>());
    let (Some(Ok(line)), Some(Ok(column))) = (numbers.next(), numbers.next()) else { return };
    // In YAML a carriage return ends a line as well.
    let is_yaml = file.ends_with(".yaml");
    let text = if is_yaml { text.replace("\r\n", "\n").replace('\r', "\n") } else { text.to_owned() };
    let lines: Vec<&str> = text.split('\n').collect();
    assert!((1..=lines.len()).contains(&line), "{place}: the file has {} lines", lines.len());
    let length = lines[line - 1].chars().count();
    assert!((1..=length + 1).contains(&column), "{place}: the line has {length} characters");
}
