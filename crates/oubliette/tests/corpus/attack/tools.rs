//! What attempts have in common: how an answer of the kernel is judged.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use super::sys;
use crate::case::Verdict;
use crate::case::Verdict::Got;
use crate::case::Verdict::Held;
use crate::case::Verdict::Missing;
use crate::place::Place;

/// How long a connection may take. What is not there is refused at once.
pub(super) const DIAL: Duration = Duration::from_secs(2);
/// The most bytes that are read in search of the canary.
const READ_MAX: u64 = 1 << 20;

/// Whether an error says that there is no such thing here, rather than that it is not allowed.
fn is_lacking(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENOENT
                | libc::ENOSYS
                | libc::ENODEV
                | libc::ENXIO
                | libc::EAFNOSUPPORT
                | libc::ESOCKTNOSUPPORT
                | libc::EPROTONOSUPPORT
                | libc::EOPNOTSUPP
        )
    )
}

/// Whether an error says no, rather than that the arguments were wrong.
fn is_refusal(error: &io::Error) -> bool {
    is_lacking(error)
        || matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EROFS | libc::ESRCH))
}

/// The verdict on an error.
pub(super) fn stopped(place: &Place, error: &io::Error) -> Verdict {
    if place.is_control && is_lacking(error) { Missing(error.to_string()) } else { Held(error.to_string()) }
}

/// A thing is got if it can be done.
pub(super) fn done<T>(place: &Place, result: io::Result<T>) -> Verdict {
    match result {
        Ok(_) => Got("done".to_owned()),
        Err(error) => stopped(place, &error),
    }
}

/// The same for rustix.
pub(super) fn did<T>(place: &Place, result: rustix::io::Result<T>) -> Verdict {
    done(place, result.map_err(io::Error::from))
}

/// A call is got if the kernel looks at its arguments. Calls that would harm the machine are made with arguments that
/// it must find wrong.
pub(super) fn reached(place: &Place, number: i64, arguments: &[usize]) -> Verdict {
    match sys::call(number, arguments) {
        Ok(answer) => Got(format!("the kernel did it: {answer}")),
        Err(error) if is_refusal(&error) => stopped(place, &error),
        Err(error) => Got(format!("the kernel looked at it: {error}")),
    }
}

/// A file is got if it holds the canary.
pub(super) fn reads(place: &Place, path: impl AsRef<Path>) -> Verdict {
    let text = File::open(path).and_then(|file| text_of(file, READ_MAX));
    match text {
        Ok(text) => holds(place, &text),
        Err(error) => stopped(place, &error),
    }
}

/// The text of a file, up to so many bytes.
pub(super) fn text_of(file: File, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Text is got if it holds the canary.
pub(super) fn holds(place: &Place, text: &str) -> Verdict {
    if text.contains(&place.canary) {
        Got("the canary".to_owned())
    } else {
        Held(format!("no canary in {} bytes", text.len()))
    }
}

/// A file of the kernel's is got if it can be opened, nothing is written to it.
pub(super) fn opens(place: &Place, path: &str, write: bool) -> Verdict {
    done(place, OpenOptions::new().read(!write).write(write).open(path))
}

/// A file of the kernel's is got if it says something.
pub(super) fn says(place: &Place, path: &str) -> Verdict {
    match File::open(path).and_then(|file| text_of(file, 256)) {
        Ok(text) if text.trim().is_empty() => Held("it is empty".to_owned()),
        Ok(text) => Got(text),
        Err(error) => stopped(place, &error),
    }
}

/// What the other end of a connection says is got if it holds the canary.
pub(super) fn hears(place: &Place, stream: io::Result<impl io::Read>) -> Verdict {
    match stream {
        Ok(mut stream) => {
            let mut bytes = [0; 256];
            match stream.read(&mut bytes) {
                Ok(count) => holds(place, &String::from_utf8_lossy(&bytes[..count])),
                Err(error) => Held(format!("connected, and then {error}")),
            }
        }
        Err(error) => stopped(place, &error),
    }
}
