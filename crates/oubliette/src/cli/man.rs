//! `oubliette man`: manual pages, made from the arguments and their help.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use ob_core::Refusal;

use super::OK;
use super::args;
use super::args::ManArgs;
use super::failed;
use super::output::Output;
use super::text;

/// Runs the command.
pub(crate) fn command(man: &ManArgs, cwd: &Path, output: &Output) -> Result<u8, Refusal> {
    let pages = pages().map_err(|error| failed("make the pages", &error))?;
    let Some(out) = &man.out else {
        output.bytes(&pages[0].1);
        return Ok(OK);
    };
    let folder = cwd.join(out);
    let write = || {
        fs::create_dir_all(&folder)?;
        pages.iter().try_for_each(|(name, page)| fs::write(folder.join(name), page))
    };
    write().map_err(|error| failed(&format!("write to {}", folder.display()), &error))?;
    let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
    output.data(&serde_json::json!({ "folder": folder, "pages": names }), || {
        format!(
            "wrote {} to {}\n",
            text::plural(names.len(), "page"),
            text::one_line(&folder.display().to_string())
        )
    });
    Ok(OK)
}

/// File names and contents: the program's own page first, then one for each command.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = args::command();
    program.build();
    let mut pages = Vec::new();
    add(&program, "oubliette", &mut pages)?;
    Ok(pages)
}

fn add(command: &Command, name: &str, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let mut page = Vec::new();
    // A page is called as `man` finds it; what is typed has blanks.
    clap_mangen::Man::new(command.clone().display_name(name.to_owned())).render(&mut page)?;
    pages.push((format!("{name}.1"), page));
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        add(inner, &format!("{name}-{}", inner.get_name()), pages)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_each_command_and_it_is_the_same_each_time() {
        let made = pages().expect("pages");
        let names: Vec<&str> = made.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[0], "oubliette.1");
        for name in [
            "oubliette-run.1",
            "oubliette-session.1",
            "oubliette-session-events.1",
            "oubliette-token-create.1",
        ] {
            assert!(names.contains(&name), "{names:?}");
        }
        assert_eq!(made, pages().expect("pages"));
        for (name, page) in &made {
            let page = String::from_utf8_lossy(page);
            assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{name}: {page}");
        }
        let run = made.iter().find(|(name, _)| name == "oubliette-run.1").expect("a page of `run`");
        assert!(String::from_utf8_lossy(&run.1).contains("Ctrl\\-C"), "what stands under the help is there");
    }

    #[test]
    fn pages_are_written_into_a_folder_that_need_not_be_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = Output::memory(true);
        let man = ManArgs { out: Some("share/man1".into()) };
        assert_eq!(command(&man, folder.path(), &output), Ok(OK));
        assert!(folder.path().join("share/man1/oubliette-session-list.1").is_file());
        let said: serde_json::Value = serde_json::from_str(&output.kept().0).expect("JSON");
        assert!(said["pages"].as_array().is_some_and(|pages| pages.len() > 20), "{said}");
        // Where a file stands in the way it is said.
        fs::write(folder.path().join("file"), "").expect("written");
        let refusal = command(&ManArgs { out: Some("file".into()) }, folder.path(), &output);
        assert!(refusal.is_err_and(|refusal| refusal.message.contains("file")));
    }
}
