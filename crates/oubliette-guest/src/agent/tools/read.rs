//! Reading a text file by lines.

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;

use super::resolve;
use crate::agent::text;

/// The most lines of one answer.
pub(super) const MAX_LINES: usize = 2000;
/// The most bytes of one answer.
pub(super) const MAX_BYTES: usize = 256 * 1024;
/// The longest line that is shown, in bytes.
const MAX_LINE: usize = 8 * 1024;
/// A zero byte among the first of these makes a file binary.
const SNIFF: usize = 8 * 1024;

/// Which part of which file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arguments {
    pub(super) path: String,
    /// From 1.
    #[serde(default = "first")]
    pub(super) offset: usize,
    #[serde(default)]
    limit: Option<usize>,
}

/// The lines asked for, numbered.
pub(super) fn read(cwd: &Path, arguments: &Arguments) -> Result<String, String> {
    let mut reader = BufReader::with_capacity(SNIFF, open(cwd, &arguments.path)?);
    let failed = |error: std::io::Error| format!("cannot read `{}`: {error}", arguments.path);
    if reader.fill_buf().map_err(failed)?.contains(&0) {
        return Err(format!(
            "`{}` is a binary file; look at it with `run`, for example with `file` or `xxd`",
            arguments.path
        ));
    }
    let offset = arguments.offset.max(1);
    let limit = arguments.limit.unwrap_or(MAX_LINES).clamp(1, MAX_LINES);
    let mut out = String::new();
    let mut number = 0;
    let mut line = Vec::new();
    while let Some(length) = next_line(&mut reader, &mut line).map_err(failed)? {
        number += 1;
        if number < offset {
            continue;
        }
        let shown = text::clean(&line);
        let more = if length > line.len() {
            format!("[... {} bytes more in this line]", length - line.len())
        } else {
            String::new()
        };
        if number >= offset + limit || out.len() + shown.len() + more.len() + 8 > MAX_BYTES {
            let last = number - 1;
            let _infallible = writeln!(out, "[more lines follow {last}; go on with offset {number}]");
            return Ok(out);
        }
        let _infallible = writeln!(out, "{number:>6}\t{shown}{more}");
    }
    match (number, out.is_empty()) {
        (0, _) => Ok("[the file is empty]\n".to_owned()),
        (lines, true) => Err(format!("`{}` has only {lines} lines", arguments.path)),
        _ => Ok(out),
    }
}

/// Opens a regular file; anything else would block or never end.
pub(super) fn open(cwd: &Path, path: &str) -> Result<File, String> {
    let resolved = resolve(cwd, path);
    let refused = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => match near(&resolved) {
            Some(near) => format!("`{path}` does not exist; did you mean `{near}`?"),
            None => format!("`{path}` does not exist"),
        },
        _ => format!("cannot open `{path}`: {error}"),
    };
    let metadata = std::fs::metadata(&resolved).map_err(refused)?;
    if metadata.is_dir() {
        return Err(format!("`{path}` is a folder; use `list`"));
    }
    if !metadata.is_file() {
        return Err(format!("`{path}` is not a regular file"));
    }
    File::open(&resolved).map_err(refused)
}

/// The name in the same folder that is most like the one that does not exist.
fn near(path: &Path) -> Option<String> {
    let wanted = path.file_name()?.to_str()?;
    let folder = path.parent()?;
    let names = std::fs::read_dir(folder)
        .ok()?
        .take(1000)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let likeness = |name: &str| similar::TextDiff::from_chars(wanted, name).ratio();
    let (ratio, name) =
        names.map(|name| (likeness(&name), name)).max_by(|one, two| one.0.total_cmp(&two.0))?;
    (ratio >= 0.7).then(|| folder.join(name).display().to_string())
}

/// The next line without its end, cut at [`MAX_LINE`]; its whole length. `None` at the end.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<Option<usize>> {
    line.clear();
    let mut length = 0;
    let mut is_any = false;
    loop {
        let available = match reader.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if available.is_empty() {
            return Ok(is_any.then_some(length));
        }
        is_any = true;
        let end = available.iter().position(|&byte| byte == b'\n');
        let taken = &available[..end.unwrap_or(available.len())];
        length += taken.len();
        line.extend_from_slice(&taken[..taken.len().min(MAX_LINE - line.len())]);
        let used = end.map_or(available.len(), |end| end + 1);
        reader.consume(used);
        if end.is_some() {
            return Ok(Some(length));
        }
    }
}

fn first() -> usize {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_with(content: &[u8], offset: usize, limit: Option<usize>) -> Result<String, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("f"), content).expect("it is writable");
        read(folder.path(), &Arguments { path: "f".to_owned(), offset, limit })
    }

    #[test]
    fn lines_are_numbered_and_a_missing_last_end_does_not_matter() {
        assert_eq!(read_with(b"a\n\nb", 1, None).as_deref(), Ok("     1\ta\n     2\t\n     3\tb\n"));
        assert_eq!(read_with(b"", 1, None).as_deref(), Ok("[the file is empty]\n"));
    }

    #[test]
    fn a_part_says_how_to_go_on() {
        let content = b"1\n2\n3\n4\n";
        let part = "     2\t2\n     3\t3\n[more lines follow 3; go on with offset 4]\n";
        assert_eq!(read_with(content, 2, Some(2)).as_deref(), Ok(part));
        assert_eq!(read_with(content, 4, Some(2)).as_deref(), Ok("     4\t4\n"));
        assert_eq!(read_with(content, 5, None), Err("`f` has only 4 lines".to_owned()));
    }

    #[test]
    fn answers_are_bounded_in_lines_and_bytes() {
        let many = read_with("x\n".repeat(5000).as_bytes(), 1, Some(4000)).expect("it is text");
        assert!(many.ends_with("[more lines follow 2000; go on with offset 2001]\n"));
        let wide = read_with(format!("{}\n", "y".repeat(1000)).repeat(1000).as_bytes(), 1, None)
            .expect("it is text");
        assert!(wide.len() <= MAX_BYTES + 100 && wide.contains("go on with offset"));
        let endless = read_with("z".repeat(1 << 20).as_bytes(), 1, None).expect("it is text");
        assert!(endless.len() < 2 * MAX_LINE && endless.contains("bytes more in this line"));
    }

    #[test]
    fn what_is_no_text_file_is_refused_with_a_way_on() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let refusal = |path: &str| {
            read(folder.path(), &Arguments { path: path.to_owned(), offset: 1, limit: None })
                .expect_err("no text")
        };
        std::fs::write(folder.path().join("settings.toml"), b"\x7fELF\0\0").expect("it is writable");
        assert!(refusal("settings.toml").contains("binary file"));
        assert!(refusal("setings.toml").ends_with("settings.toml`?"));
        assert!(refusal("other").ends_with("does not exist"));
        assert!(refusal(".").contains("use `list`"));
        assert!(refusal("/dev/zero").contains("not a regular file"));
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_shown_as_such() {
        assert_eq!(read_with(b"caf\xe9\n", 1, None).as_deref(), Ok("     1\tcaf\u{fffd}\n"));
    }
}
