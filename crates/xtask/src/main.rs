//! `cargo xtask NAME`: runs a chore of this repository.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use xtask::bench;
use xtask::tidy;

const USAGE: &str = "\
usage: cargo xtask tidy [ROOT]   checks what the compiler does not: layers, words, house rules
       cargo xtask bench [NAME]  measures, prints and writes target/bench/figures.json; NAME: only these programs";

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["tidy"] => tidy_up(&workspace_root()?),
        ["tidy", root] => tidy_up(Path::new(root)),
        ["bench", only @ ..] => bench::run(&workspace_root()?, only).map(|()| ExitCode::SUCCESS),
        _ => {
            writeln!(std::io::stderr(), "{USAGE}")?;
            Ok(ExitCode::from(2))
        }
    }
}

fn tidy_up(root: &Path) -> anyhow::Result<ExitCode> {
    let report = tidy::run(root)?;
    write!(std::io::stdout().lock(), "{report}")?;
    Ok(if report.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn workspace_root() -> anyhow::Result<std::path::PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map(Path::to_owned).context("this crate is two folders below the root")
}
