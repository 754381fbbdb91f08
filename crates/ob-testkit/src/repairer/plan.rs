//! The plan, written as if the tools answered at once. [`Replay`] cuts it where the conversation ends.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::json;

use super::failure::Run;
use super::history::Replay;
use super::history::Step;
use super::mutate::mutations;
use super::report;
use super::source::Function;
use super::source::Source;
use super::source::is_source_path;
use super::source::is_test_path;
use super::source::listed;

/// How many changes are tried. With two calls for each that stays far under what an agent allows in a turn.
const MAX_ATTEMPTS: usize = 24;
/// How many files are read.
const MAX_FILES: usize = 8;
/// How many names are searched for at once.
const MAX_NAMES: usize = 16;
/// Seconds that one run of the tests may take.
const TEST_TIMEOUT: u32 = 600;
/// The tools that it needs.
const TOOLS: [&str; 5] = ["list", "read", "search", "edit", "run"];
/// What every conversation begins with.
const WHO: &str = "I am the scripted demonstration model, not a language model: I find and repair small faults by running \
                   the tests and changing one line at a time.";

/// A change that was made.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    pub(super) path: String,
    /// Counted from 0.
    pub(super) line: usize,
    old: String,
    new: String,
    pub(super) old_line: String,
    pub(super) new_line: String,
}

/// A change that may be the repair.
#[derive(Clone, Debug, PartialEq)]
struct Candidate {
    path: String,
    line: usize,
    function: String,
    new_line: String,
    score: usize,
}

struct Plan {
    replay: Replay,
    files: Vec<String>,
    sources: BTreeMap<String, Source>,
    command: String,
    runs: usize,
    attempts: usize,
}

/// What the model answers to this conversation, given these tools.
pub fn next_step(messages: &[Value], tools: &[Value]) -> Step {
    let offered = |name: &str| tools.iter().any(|tool| tool["function"]["name"].as_str() == Some(name));
    let missing: Vec<&str> = TOOLS.into_iter().filter(|name| !offered(name)).collect();
    if !missing.is_empty() {
        return Step::Say(format!("{WHO} I need tools that I am not offered: `{}`.", missing.join("`, `")));
    }
    let plan = Plan {
        replay: Replay::of(messages),
        files: Vec::new(),
        sources: BTreeMap::new(),
        command: String::new(),
        runs: 0,
        attempts: 0,
    };
    match plan.repair() {
        Ok(said) => Step::Say(said),
        Err(step) => step,
    }
}

// === impl Plan ===

impl Plan {
    fn repair(mut self) -> Result<String, Step> {
        let shown = self.replay.call(
            format!("{WHO} First I look at what is here."),
            "list",
            json!({"path": ".", "depth": 4}),
        )?;
        self.files = listed(&shown);
        let Some(command) = self.test_command()? else {
            return Ok("I found no way to run tests here (no Cargo.toml, Makefile with a `test` target, package.json, \
                       Python tests or test script), so I changed nothing."
                .to_string());
        };
        self.command = command;
        let mut run = self.run("Now I run the tests.".to_string())?;
        if run.1.contains("No module named pytest") {
            self.command = "python3 -m unittest discover -v 2>&1".to_string();
            run = self.run("There is no pytest, so I use unittest.".to_string())?;
        }
        let (first, _) = run;
        if first.is_green() {
            return Ok(format!("All tests pass already (`{}`), so I changed nothing.", self.command));
        }
        if first.cannot_run() {
            return Ok(format!(
                "I cannot run the tests here: `{}` did not start or did not end. I changed nothing.",
                self.command
            ));
        }
        if first.broken {
            return Ok(format!(
                "The tests do not build: {}. That is more than a small fault in one line, so I changed nothing.",
                first.reasons.first().map_or("see the output", |reason| reason.trim_end_matches('.'))
            ));
        }
        self.search_for_repair(first)
    }

    /// Tries candidates until the tests pass, nothing is left to try, or enough was tried.
    fn search_for_repair(mut self, first: Run) -> Result<String, Step> {
        let mut kept: Vec<Edit> = Vec::new();
        let mut tried: Vec<String> = Vec::new();
        let mut now = first.clone();
        'better: loop {
            let candidates = self.candidates(&now)?;
            for candidate in candidates {
                if self.attempts == MAX_ATTEMPTS {
                    break 'better;
                }
                let Some(edit) = self.edit_of(&candidate) else { continue };
                let label = format!("`{}:{}` `{}`", edit.path, edit.line + 1, edit.new_line.trim());
                if tried.contains(&label) {
                    continue;
                }
                self.attempts += 1;
                let why = format!(
                    "Attempt {}: in `{}`, `{}` might have to be `{}`.",
                    self.attempts,
                    candidate.function,
                    edit.old_line.trim(),
                    edit.new_line.trim()
                );
                tried.push(label);
                if !self.apply(why, &edit)? {
                    continue;
                }
                let (run, _) = self.run("I run the tests again.".to_string())?;
                if run.is_green() {
                    kept.push(edit);
                    return Ok(report::success(&first, &kept, self.attempts, &self.command));
                }
                if run.is_better_than(&now) {
                    kept.push(edit);
                    now = run;
                    continue 'better;
                }
                let undone = self.apply("Still red, so I take that back.".to_string(), &edit.undo())?;
                if !undone {
                    return Ok(report::stuck(&edit));
                }
            }
            break;
        }
        for edit in kept.iter().rev() {
            if !self.apply("That helped only in part, so I take it back too.".to_string(), &edit.undo())? {
                return Ok(report::stuck(edit));
            }
        }
        Ok(report::failure(&first, &tried))
    }

    /// How tests run here.
    fn test_command(&mut self) -> Result<Option<String>, Step> {
        let has = |files: &[String], name: &str| files.iter().any(|file| file == name);
        if has(&self.files, "Cargo.toml") {
            // All test programs, also those after one that fails: else one fault hides another.
            return Ok(Some("cargo test --offline --no-fail-fast 2>&1".to_string()));
        }
        if let Some(makefile) =
            ["Makefile", "makefile", "GNUmakefile"].into_iter().find(|n| has(&self.files, n))
        {
            let rules = self.read(makefile, "There is a Makefile; I look for its tests.")?;
            for target in ["test", "check"] {
                if rules.lines.iter().any(|line| line.starts_with(&format!("{target}:"))) {
                    return Ok(Some(format!("make {target} 2>&1")));
                }
            }
        }
        if has(&self.files, "package.json") {
            let package = self.read("package.json", "There is a package.json; I look for its tests.")?;
            if package.lines.iter().any(|line| line.contains("\"test\":")) {
                return Ok(Some("npm test 2>&1".to_string()));
            }
        }
        if self.files.iter().any(|file| is_test_path(file) && file.ends_with(".py")) {
            return Ok(Some("python3 -m pytest -q 2>&1".to_string()));
        }
        let script = self.files.iter().find(|file| is_test_path(file) && file.ends_with(".sh"));
        Ok(script.map(|script| format!("sh {script} 2>&1")))
    }

    /// Runs the tests. A result that was lost on the way is asked for once more.
    fn run(&mut self, say: String) -> Result<(Run, String), Step> {
        for say in [say, "The result was lost; I run them once more.".to_string()] {
            self.runs += 1;
            // The number makes each call its own: an agent may stop a model that repeats itself.
            let command = format!("{} # run {}", self.command, self.runs);
            let output =
                self.replay.call(say, "run", json!({"command": command, "timeout_s": TEST_TIMEOUT}))?;
            let run = Run::parse(&output);
            if run.code.is_some() || !output.contains("interrupted") {
                return Ok((run, output));
            }
        }
        Ok((Run::default(), String::new()))
    }

    fn read(&mut self, path: &str, say: &str) -> Result<Source, Step> {
        if let Some(source) = self.sources.get(path) {
            return Ok(source.clone());
        }
        if self.sources.len() >= MAX_FILES {
            return Ok(Source { path: path.to_string(), lines: Vec::new() });
        }
        let shown = self.replay.call(say, "read", json!({"path": path, "offset": 1, "limit": 2000}))?;
        let source = Source::parse(path, &shown);
        self.sources.insert(path.to_string(), source.clone());
        Ok(source)
    }

    /// Where the fault may be, the likeliest first.
    fn candidates(&mut self, run: &Run) -> Result<Vec<Candidate>, Step> {
        let (mut suspects, names) = self.named_by_failure(run)?;
        self.add_defined(&mut suspects, &names)?;
        // What the suspects call may be at fault as well.
        let called: Vec<String> = suspects
            .iter()
            .flat_map(|f| self.sources.get(&f.path).map(|s| s.calls(f.start..f.end)).unwrap_or_default())
            .filter(|name| !names.contains(name) && !suspects.iter().any(|known| known.name == *name))
            .collect();
        self.add_defined(&mut suspects, &called)?;
        if suspects.is_empty() {
            self.add_everything(&mut suspects)?;
        }
        let mut candidates = Vec::new();
        for (rank, function) in suspects.iter().enumerate() {
            let Some(source) = self.sources.get(&function.path) else { continue };
            for line in function.start..function.end {
                let text = &source.lines[line];
                candidates.extend(mutations(&function.path, text).into_iter().map(|mutation| Candidate {
                    path: function.path.clone(),
                    line,
                    function: function.name.clone(),
                    new_line: mutation.line,
                    score: 2 * mutation.cost + rank,
                }));
            }
        }
        candidates.sort_by_key(|candidate| candidate.score);
        Ok(candidates)
    }

    /// Functions that a failure happened in, and names that the failing tests call, the nearest first.
    fn named_by_failure(&mut self, run: &Run) -> Result<(Vec<Function>, Vec<String>), Step> {
        let mut suspects = Vec::new();
        let (mut near, mut far) = (Vec::new(), Vec::new());
        let mut places = run.places.clone();
        if places.is_empty() {
            // A script may only say what it expected; then its files are the place.
            let scripts = self.files.iter().filter(|file| is_test_path(file) && is_source_path(file));
            places = scripts.take(3).map(|file| (file.clone(), 0)).collect();
        }
        for (printed, line) in places {
            let Some(path) = self.resolve(&printed) else { continue };
            let source = self.read(&path, &format!("The failure points to `{path}`; I read it."))?;
            if line == 0 {
                far.extend(source.calls(0..source.lines.len()));
                continue;
            }
            let line = line - 1;
            near.extend(source.calls(line..(line + 3).min(source.lines.len())));
            let Some(function) = source.function_at(line) else { continue };
            if source.is_test(&function) {
                far.extend(source.calls(function.start..function.end));
            } else if !suspects.contains(&function) {
                suspects.push(function);
            }
        }
        let mut names: Vec<String> = Vec::new();
        for name in near.into_iter().chain(far) {
            if !names.contains(&name) && !run.failed.iter().any(|failed| failed.ends_with(&name)) {
                names.push(name);
            }
        }
        Ok((suspects, names))
    }

    /// Adds the functions with these names that are not tests, in the order of the names.
    fn add_defined(&mut self, suspects: &mut Vec<Function>, names: &[String]) -> Result<(), Step> {
        let names: Vec<&str> = names.iter().map(String::as_str).take(MAX_NAMES).collect();
        if names.is_empty() {
            return Ok(());
        }
        let any = names.join("|");
        let pattern = format!(
            r"\b(fn|def|func|function)\s+({any})\b|^[A-Za-z_][\w\s\*]*\b({any})\s*\([^;]*$|^\s*({any})\s*\(.*\{{\s*$"
        );
        let few = names.iter().take(4).copied().collect::<Vec<_>>().join("`, `");
        let say = format!("I look for what the tests call: `{few}`.");
        let found = self.replay.call(say, "search", json!({"pattern": pattern, "path": "."}))?;
        let mut paths: Vec<String> = Vec::new();
        for line in found.lines() {
            let path = line.split(':').next().unwrap_or_default().trim_start_matches("./").to_string();
            if is_source_path(&path) && !is_test_path(&path) && !paths.contains(&path) {
                paths.push(path);
            }
        }
        let mut functions = Vec::new();
        for path in paths {
            let source = self.read(&path, &format!("The function is in `{path}`; I read it."))?;
            functions.extend(source.functions().into_iter().filter(|function| !source.is_test(function)));
        }
        for name in names {
            for function in functions.iter().filter(|function| function.name == name) {
                if !suspects.contains(function) {
                    suspects.push(function.clone());
                }
            }
        }
        Ok(())
    }

    /// Adds all that is no test: nothing better is known.
    fn add_everything(&mut self, suspects: &mut Vec<Function>) -> Result<(), Step> {
        let paths: Vec<String> =
            self.files.iter().filter(|f| is_source_path(f) && !is_test_path(f)).take(4).cloned().collect();
        for path in paths {
            let source = self.read(&path, &format!("The failure names no place, so I read `{path}`."))?;
            let functions = source.functions();
            if functions.is_empty() {
                let end = source.lines.len();
                suspects.push(Function { name: path.clone(), path, start: 0, end });
            } else {
                suspects.extend(functions.into_iter().filter(|function| !source.is_test(function)));
            }
        }
        Ok(())
    }

    /// The file of this repository that a test run printed.
    fn resolve(&self, printed: &str) -> Option<String> {
        let is_it = |file: &&String| printed == *file || printed.ends_with(&format!("/{file}"));
        let inside = self.files.iter().filter(|file| is_source_path(file)).find(is_it);
        // Some test programs print only the name.
        let by_name = || self.files.iter().find(|file| file.ends_with(&format!("/{printed}")));
        inside.or_else(by_name).cloned()
    }

    fn edit_of(&self, candidate: &Candidate) -> Option<Edit> {
        let source = self.sources.get(&candidate.path)?;
        let (old, new) = source.edit(candidate.line, &candidate.new_line)?;
        Some(Edit {
            path: candidate.path.clone(),
            line: candidate.line,
            old,
            new,
            old_line: source.lines.get(candidate.line)?.clone(),
            new_line: candidate.new_line.clone(),
        })
    }

    /// Makes the edit; true if the file now has it.
    fn apply(&mut self, say: String, edit: &Edit) -> Result<bool, Step> {
        let arguments = json!({"path": edit.path, "old": edit.old, "new": edit.new, "replace_all": false});
        let said = self.replay.call(say, "edit", arguments)?;
        let said = said.to_ascii_lowercase();
        let is_sure =
            ["edited", "replaced", "ok", "done"].iter().any(|word| said.trim_start().starts_with(word));
        if !is_sure {
            let look = json!({"path": edit.path, "offset": edit.line + 1, "limit": 1});
            let shown = self.replay.call("I check whether that edit was made.", "read", look)?;
            let line = shown.lines().find(|line| line.trim_start().starts_with(&(edit.line + 1).to_string()));
            if !line.is_some_and(|line| line.ends_with(&edit.new_line)) {
                return Ok(false);
            }
        }
        if let Some(line) =
            self.sources.get_mut(&edit.path).and_then(|source| source.lines.get_mut(edit.line))
        {
            line.clone_from(&edit.new_line);
        }
        Ok(true)
    }
}

// === impl Edit ===

impl Edit {
    fn undo(&self) -> Self {
        Self {
            path: self.path.clone(),
            line: self.line,
            old: self.new.clone(),
            new: self.old.clone(),
            old_line: self.new_line.clone(),
            new_line: self.old_line.clone(),
        }
    }
}
