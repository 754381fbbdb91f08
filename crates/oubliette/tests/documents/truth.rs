//! Pages speak only of what there is.
//!
//! W59: documents, images and units that still described what had been removed. Here each command, key, variable, route
//! and file that one of them names is looked up where it is defined.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

use crate::links::documents;
use crate::read;
use crate::root;

/// Pages that speak of other versions.
const OF_OTHERS: [&str; 2] = ["docs/runbooks.md", "CHANGELOG.md"];

/// Names with a place for a name in them.
const FORMS: [&str; 2] = ["OUBLIETTE_", "OUBLIETTE_SECTION__KEY"];

/// What was there in other versions and never will be here.
const REMOVED: [&str; 4] = ["credentials.json", "bcrypt", "Dockerfile.server", "oubliette-relay"];

static CODE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"`([^`\n]+)`").unwrap());
static COMMAND: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?:^|[\s($])oubliette((?: [a-z][a-z-]*)*)").unwrap());
static KEY: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^[a-z]+(?:\.[a-zA-Z_<>]+)+$").unwrap());
static VARIABLE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\bOUBLIETTE_[A-Z_]+\b").unwrap());
static ROUTE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^(?:GET|POST|DELETE) (/[a-z0-9/{}_]+)").unwrap());
static FILE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^(?:crates|docs|scripts|deploy|fuzz)/[A-Za-z0-9_./-]+$").unwrap());

/// What is in backticks or in blocks of a page: what readers take literally.
fn literal(page: &str) -> Vec<String> {
    let (mut found, mut is_block) = (Vec::new(), false);
    for line in page.lines() {
        if line.starts_with("```") {
            is_block = !is_block;
        } else if is_block {
            found.push(line.to_owned());
        } else {
            found.extend(CODE.captures_iter(line).map(|code| code[1].to_owned()));
        }
    }
    found
}

/// Every command by its words, and the first words of those that have commands of their own.
fn commands() -> BTreeSet<String> {
    let page = read("docs/cli.md");
    let headings = page.lines().filter_map(|line| line.strip_prefix("## `oubliette")?.strip_suffix('`'));
    headings.map(|words| words.trim().to_owned()).collect()
}

/// What a text says that is not so.
fn untruths(text: &str, commands: &BTreeSet<String>) -> Vec<String> {
    let keys: Vec<String> = ob_config::reference().into_iter().map(|key| key.path).collect();
    let later = ob_config::reference_later();
    let sections: BTreeSet<&str> = keys.iter().filter_map(|key| key.split('.').next()).collect();
    let http = read("docs/http.md");
    let mut found = Vec::new();
    for code in literal(text) {
        for words in COMMAND.captures_iter(&code) {
            // `docker exec oubliette oubliette doctor`: a user or a container may be called so as well.
            let words: Vec<&str> =
                words[1].split_whitespace().skip_while(|word| *word == "oubliette").collect();
            let [first, ..] = words[..] else { continue };
            let has_more = commands.iter().any(|command| command.starts_with(&format!("{first} ")));
            let second = words.get(1).copied().unwrap_or_default();
            if !commands.contains(first)
                || (has_more && !second.is_empty() && !commands.contains(&format!("{first} {second}")))
            {
                found.push(format!("command `{code}`"));
            }
        }
        if KEY.is_match(&code) && sections.contains(code.split('.').next().unwrap()) {
            let is_known = |key: &String| *key == code || key.starts_with(&format!("{code}."));
            let is_operation = http.contains(&format!("`{code}`"));
            if !keys.iter().any(is_known) && !later.iter().any(is_known) && !is_operation {
                found.push(format!("key `{code}`"));
            }
        }
        for name in VARIABLE.find_iter(&code).map(|name| name.as_str()) {
            let path = name.trim_start_matches("OUBLIETTE_").to_lowercase().replace("__", ".");
            let is_key = name.contains("__") && keys.iter().any(|key| key.to_lowercase() == path);
            if !is_key
                && !ob_config::VARIABLES.iter().any(|variable| variable.name == name)
                && !FORMS.contains(&name)
            {
                found.push(format!("variable `{name}`"));
            }
        }
        if let Some(route) = ROUTE.captures(&code)
            && !http.contains(&route[1])
        {
            found.push(format!("route `{code}`"));
        }
        if FILE.is_match(&code) && !root().join(&code).exists() {
            found.push(format!("file `{code}`"));
        }
    }
    found.extend(REMOVED.iter().filter(|word| text.contains(**word)).map(|word| format!("removed: {word}")));
    found
}

#[test]
fn w59_no_page_speaks_of_what_is_not_there() {
    let commands = commands();
    assert!(commands.len() > 20, "{commands:?}");
    for page in documents() {
        let name = page.to_str().unwrap();
        if !OF_OTHERS.contains(&name) && !name.starts_with("docs/design") {
            let found = untruths(&read(name), &commands);
            assert!(found.is_empty(), "{name}: {found:#?}");
        }
    }
}

/// The positive control: each kind of untruth is found, and the truth is not.
#[test]
fn what_is_not_there_is_found() {
    let commands = commands();
    for (text, is_found) in [
        ("`oubliette session list`", false),
        ("```sh\noubliette frobnicate\n```", true),
        ("`oubliette session frobnicate`", true),
        ("oubliette frobnicates, outside of code", false),
        ("`sandbox.idle_s` and `models.models.<name>.apiKey`", false),
        ("`sandbox.idle_seconds`", true),
        ("`OUBLIETTE_SANDBOX__MEMORY=8G`", false),
        ("`OUBLIETTE_SANDBOX__MEMROY=8G`", true),
        ("`OUBLIETTE_HOUSE`", true),
        ("`GET /health`", false),
        ("`GET /healthz`", true),
        ("`crates/ob-core`", false),
        ("`crates/ob-nothing`", true),
        ("passwords are kept with bcrypt", true),
    ] {
        assert_eq!(
            !untruths(text, &commands).is_empty(),
            is_found,
            "{text}: {:?}",
            untruths(text, &commands)
        );
    }
}
