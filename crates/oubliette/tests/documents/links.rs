//! Links between documents lead somewhere, and indexes list what there is.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use crate::read;
use crate::root;

/// Every Markdown document of the repository's root and of `docs`.
pub(crate) fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "docs", "docs/design"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
                found.push(Path::new(folder).join(name));
            }
        }
    }
    assert!(found.len() > 10, "{found:?}");
    found
}

/// The targets of `[text](target)` outside of code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut code = false;
    for line in text.lines() {
        code ^= line.starts_with("```");
        if !code {
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            found.extend(targets.map(|(target, _)| target.to_owned()));
        }
    }
    found
}

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn every_link_leads_somewhere() {
    let mut dead = Vec::new();
    for document in documents() {
        let text = read(document.to_str().unwrap());
        for link in links(&text).iter().filter(|link| !link.contains("://")) {
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            let there = root().join(&target);
            let found = there.exists()
                && (fragment.is_empty()
                    || std::fs::read_to_string(&there).is_ok_and(|text| {
                        text.lines().any(|line| {
                            line.starts_with('#') && anchor(line.trim_start_matches('#')) == fragment
                        })
                    }));
            if !found {
                dead.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(dead.is_empty(), "links that lead nowhere: {dead:#?}");
}

#[test]
fn the_index_of_the_design_notes_is_whole() {
    let pages: BTreeSet<String> = documents()
        .iter()
        .filter_map(|document| document.strip_prefix("docs/design").ok())
        .map(|name| name.to_str().unwrap().to_owned())
        .filter(|name| name != "README.md")
        .collect();
    let listed = links(&read("docs/design/README.md"));
    let unique: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(unique, pages);
    assert_eq!(listed.len(), unique.len(), "a page is listed once");
}

#[test]
fn every_page_for_users_is_found_from_the_front_page() {
    let front: BTreeSet<String> = links(&read("README.md")).into_iter().collect();
    for document in documents() {
        let Ok(name) = document.strip_prefix("docs") else { continue };
        if name.components().count() == 1 {
            let path = document.to_str().unwrap();
            assert!(front.contains(path), "README.md has no link to {path}");
        }
    }
}

/// The source of the program, without these tests.
fn source() -> String {
    let mut text = String::new();
    let mut open = vec![root().join("crates")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("tests") && !path.ends_with("target") {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    text
}

#[test]
fn every_symptom_is_something_that_the_program_says() {
    let page = read("docs/troubleshooting.md");
    let quoted: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    assert!(quoted.len() > 10, "{quoted:?}");
    let source = source();
    let unsaid: Vec<_> = quoted
        .iter()
        .filter(|symptom| !symptom.split('…').all(|part| source.contains(part.trim())))
        .collect();
    assert!(unsaid.is_empty(), "nothing says: {unsaid:#?}");
    assert!(!source.contains("a symptom that nothing has"), "the positive control");
}
