//! What the model can do: read, write, edit, patch, list, search, run, plan.
//!
//! The sandbox is the boundary, so tools take any path; relative ones start at the working directory. Arguments are
//! strict: an unknown one is refused by name, since a model that invents arguments has another tool in mind. All results
//! are bounded and clean text.

mod file;
mod kept;
mod patch;
mod plan;
mod read;
mod run;
mod walk;

use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use agent_client_protocol_schema::v1::Diff;
use agent_client_protocol_schema::v1::Plan;
use agent_client_protocol_schema::v1::ToolCallLocation;
use agent_client_protocol_schema::v1::ToolKind;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::json;

use super::text;

/// The longest title of a call, in bytes.
const MAX_TITLE: usize = 120;

/// Where a session's tools work.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The working directory.
    pub(crate) cwd: PathBuf,
    /// Holds what is too long to be shown.
    pub(crate) outputs: PathBuf,
}

/// A call that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// Part of a file, with line numbers.
    Read(read::Arguments),
    /// A whole new file.
    Write(file::WriteArguments),
    /// A change of a file.
    Edit(file::EditArguments),
    /// Changes of several places or files.
    Patch(patch::Arguments),
    /// The files of a folder.
    List(walk::ListArguments),
    /// Lines that match.
    Search(walk::SearchArguments),
    /// A command.
    Run(run::Arguments),
    /// The steps of the work, for whoever looks.
    Plan(plan::Arguments),
}

/// What came of a call.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// False if it could not be done.
    pub(crate) ok: bool,
    /// For the model.
    pub(crate) text: String,
    /// The exit code of a command that exited.
    pub(crate) exit_code: Option<i32>,
    /// Where the rest is, if the text is not all. It differs from call to call.
    pub(crate) rest: Option<String>,
    /// The changes that were made, for the client.
    pub(crate) diffs: Vec<Diff>,
}

/// The tools as the model is told of them.
pub(crate) fn schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        let string = |text: &str| json!({"type": "string", "description": text});
        let whole = |text: &str| json!({"type": "integer", "minimum": 1, "description": text});
        let tool = |name: &str, description: String, properties: Value, required: &[&str]| {
            json!({"type": "function", "function": {
                "name": name,
                "description": description,
                "parameters": {
                    "type": "object",
                    "properties": properties,
                    "required": required,
                    "additionalProperties": false,
                },
            }})
        };
        json!([
            tool(
                "read",
                format!(
                    "Read a text file, with line numbers. At most {} lines and {} KiB at a time; go on with `offset`.",
                    read::MAX_LINES,
                    read::MAX_BYTES / 1024
                ),
                json!({
                    "path": string("The file."),
                    "offset": whole("The first line to read; 1 if absent."),
                    "limit": whole("How many lines to read."),
                }),
                &["path"],
            ),
            tool(
                "write",
                "Write a whole file, replacing what was there. Missing folders are made.".to_owned(),
                json!({"path": string("The file."), "content": string("All of its new content.")}),
                &["path", "content"],
            ),
            tool(
                "edit",
                "Replace text in a file. `old` must match exactly and occur once, unless `replace_all` is true."
                    .to_owned(),
                json!({
                    "path": string("The file."),
                    "old": string("The text to replace, with enough lines around it to be unique."),
                    "new": string("The text to put there."),
                    "replace_all": {"type": "boolean", "description": "Replace every occurrence."},
                }),
                &["path", "old", "new"],
            ),
            tool(
                "patch",
                "Apply a unified diff to one or several files: all of it, or nothing. Hunks go where their lines are, which \
must match exactly; line numbers need not be right."
                    .to_owned(),
                json!({
                    "patch": string(
                        "The diff, with `--- a/FILE` and `+++ b/FILE` before the hunks of each file; /dev/null for a file that is \
made or removed.",
                    ),
                }),
                &["patch"],
            ),
            tool(
                "list",
                format!(
                    "List the files and folders under a folder, without what .gitignore names. At most {} entries.",
                    walk::MAX_ENTRIES
                ),
                json!({
                    "path": string("The folder; the working directory if absent."),
                    "depth": {
                        "type": "integer", "minimum": 1, "maximum": walk::MAX_DEPTH,
                        "description": format!("How deep to go; {} if absent.", walk::DEFAULT_DEPTH),
                    },
                }),
                &[],
            ),
            tool(
                "search",
                format!(
                    "Find the lines that match a regular expression (RE2 syntax), without files that .gitignore names. \
At most {} lines.",
                    walk::MAX_MATCHES
                ),
                json!({
                    "pattern": string("The expression; begin with (?i) to ignore case."),
                    "path": string("A folder or a file; the working directory if absent."),
                    "glob": string("Only files whose path or name matches, such as *.rs or src/**/*.ts."),
                }),
                &["pattern"],
            ),
            tool(
                "run",
                "Run a command with /bin/sh and return what it prints and its exit code. It gets no input."
                    .to_owned(),
                json!({
                    "command": string("The command line."),
                    "timeout_s": {
                        "type": "integer", "minimum": 1, "maximum": run::MAX_TIMEOUT,
                        "description": format!("Seconds it may take; {} if absent.", run::DEFAULT_TIMEOUT),
                    },
                    "cwd": string("Where to run it; the working directory if absent."),
                }),
                &["command"],
            ),
            tool(
                "plan",
                "Show the steps of your work and how far each is; replaces the plan that was shown before. The last plan and the last notes \
stay before you, also when older parts of the conversation are left out."
                    .to_owned(),
                json!({
                    "steps": {
                        "type": "array", "maxItems": plan::MAX_STEPS,
                        "description": "All steps, in order.",
                        "items": {
                            "type": "object",
                            "properties": {
                                "content": string("What is to be done."),
                                "status": {"type": "string", "enum": ["pending", "in_progress", "completed"]},
                            },
                            "required": ["content", "status"],
                            "additionalProperties": false,
                        },
                    },
                    "notes": string("What you decided and found out that you will need later; all of it, each time."),
                }),
                &["steps"],
            ),
        ])
    });
    &SCHEMA
}

/// The same with these tools only.
pub(crate) fn schema_of(names: &[&str]) -> Value {
    let is_wanted = |tool: &&Value| names.iter().any(|name| tool["function"]["name"] == **name);
    schema().as_array().into_iter().flatten().filter(is_wanted).cloned().collect()
}

// === impl Tool ===

impl Tool {
    /// Reads a call. The error is for the model.
    pub(crate) fn parse(name: &str, arguments: &str) -> Result<Self, String> {
        fn read<T: DeserializeOwned>(name: &str, arguments: &str) -> Result<T, String> {
            // An empty text stands for no arguments in some models.
            let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
            match serde_json::from_str(arguments) {
                Ok(Value::Object(object)) => serde_json::from_value(Value::Object(object))
                    .map_err(|error| format!("bad arguments for `{name}`: {error}")),
                Ok(_) => Err(format!("bad arguments for `{name}`: they must be a JSON object")),
                Err(error) => Err(format!("bad arguments for `{name}`: they are no valid JSON: {error}")),
            }
        }
        match name {
            "read" => read(name, arguments).map(Self::Read),
            "write" => read(name, arguments).map(Self::Write),
            "edit" => read(name, arguments).map(Self::Edit),
            "patch" => read(name, arguments).map(Self::Patch),
            "list" => read(name, arguments).map(Self::List),
            "search" => read(name, arguments).map(Self::Search),
            "run" => read(name, arguments).map(Self::Run),
            "plan" => read(name, arguments).map(Self::Plan),
            _ => Err(format!(
                "there is no tool `{}`; the tools are read, write, edit, patch, list, search, run and plan",
                text::cut(name, 64)
            )),
        }
    }

    /// True if it changes nothing, so that several may go at once.
    pub(crate) fn is_read_only(&self) -> bool {
        matches!(self, Self::Read(_) | Self::List(_) | Self::Search(_) | Self::Plan(_))
    }

    /// What kind of thing it does.
    pub(crate) fn kind(&self) -> ToolKind {
        match self {
            Self::Read(_) | Self::List(_) => ToolKind::Read,
            Self::Write(_) | Self::Edit(_) | Self::Patch(_) => ToolKind::Edit,
            Self::Search(_) => ToolKind::Search,
            Self::Run(_) => ToolKind::Execute,
            Self::Plan(_) => ToolKind::Think,
        }
    }

    /// A line that tells a person what it does.
    pub(crate) fn title(&self) -> String {
        let title = match self {
            Self::Read(arguments) => format!("Read {}", arguments.path),
            Self::Write(arguments) => format!("Write {}", arguments.path),
            Self::Edit(arguments) => format!("Edit {}", arguments.path),
            Self::Patch(arguments) => format!("Patch {}", arguments.paths().join(", ")),
            Self::List(arguments) => format!("List {}", arguments.path),
            Self::Search(arguments) => format!("Search {} in {}", arguments.pattern, arguments.path),
            Self::Run(arguments) => format!("Run {}", arguments.command),
            Self::Plan(_) => "Plan".to_owned(),
        };
        match title.lines().next() {
            Some(line) if line.len() == title.len() && line.len() <= MAX_TITLE => title,
            line => {
                let line = line.unwrap_or_default();
                format!("{}…", &line[..line.floor_char_boundary(MAX_TITLE)])
            }
        }
    }

    /// The files it is about.
    pub(crate) fn locations(&self, cwd: &Path) -> Vec<ToolCallLocation> {
        let (path, line) = match self {
            Self::Read(arguments) => (&arguments.path, u32::try_from(arguments.offset).ok()),
            Self::Write(arguments) => (&arguments.path, None),
            Self::Edit(arguments) => (&arguments.path, None),
            Self::List(arguments) => (&arguments.path, None),
            Self::Search(arguments) => (&arguments.path, None),
            Self::Patch(arguments) => {
                let location = |path: String| ToolCallLocation::new(resolve(cwd, &path));
                return arguments.paths().into_iter().map(location).collect();
            }
            Self::Run(_) | Self::Plan(_) => return Vec::new(),
        };
        vec![ToolCallLocation::new(resolve(cwd, path)).line(line)]
    }

    /// The plan that it shows, if it does.
    pub(crate) fn plan(&self) -> Option<Plan> {
        match self {
            Self::Plan(arguments) => arguments.plan(),
            _ => None,
        }
    }

    /// Does it. Dropping the future stops it: searches end, process groups are killed.
    pub(crate) async fn call(self, place: Place) -> Outcome {
        let cwd = place.cwd.clone();
        let result = match self {
            Self::Read(arguments) => aside(move |_stop| read::read(&cwd, &arguments)).await,
            // Changes are made here and now: one that was cancelled half-way would be worse than a short wait.
            Self::Write(arguments) => return changed(file::write(&cwd, &arguments).map(one)),
            Self::Edit(arguments) => return changed(file::edit(&cwd, &arguments).map(one)),
            Self::Patch(arguments) => return changed(patch::patch(&cwd, &arguments)),
            Self::List(arguments) => aside(move |stop| walk::list(&cwd, &arguments, stop)).await,
            Self::Search(arguments) => aside(move |stop| walk::search(&cwd, &arguments, stop)).await,
            Self::Run(arguments) => return run::run(&place, &arguments).await,
            Self::Plan(arguments) => arguments.noted(),
        };
        match result {
            Ok(text) => Outcome { ok: true, text, ..Outcome::default() },
            Err(text) => Outcome { ok: false, text, ..Outcome::default() },
        }
    }
}

fn one((text, diff): (String, Diff)) -> (String, Vec<Diff>) {
    (text, vec![diff])
}

fn changed(result: Result<(String, Vec<Diff>), String>) -> Outcome {
    match result {
        Ok((text, diffs)) => Outcome { ok: true, text, diffs, ..Outcome::default() },
        Err(text) => Outcome { text, ..Outcome::default() },
    }
}

/// The path that is meant, without `.` and without `..` after a name. Links are not followed.
fn resolve(cwd: &Path, path: &str) -> PathBuf {
    let mut resolved = PathBuf::new();
    for component in cwd.join(path).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                resolved.pop();
            }
            other => resolved.push(other),
        }
    }
    resolved
}

/// Runs file work on another thread. If this future is dropped, the work is told to stop.
async fn aside<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    struct StopOnDrop(Arc<AtomicBool>);
    impl Drop for StopOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = StopOnDrop(Arc::default());
    let flag = Arc::clone(&stop.0);
    match tokio::task::spawn_blocking(move || work(&flag)).await {
        Ok(result) => result,
        Err(error) => Err(format!("the tool broke: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_what_was_agreed() {
        insta::assert_json_snapshot!(schema());
    }

    #[test]
    fn every_argument_of_the_schema_is_taken_and_any_other_refused_by_name() {
        for tool in schema().as_array().expect("a list of tools") {
            let name = tool["function"]["name"].as_str().expect("a tool has a name");
            let properties =
                tool["function"]["parameters"]["properties"].as_object().expect("named arguments");
            let mut arguments = serde_json::Map::new();
            for (property, schema) in properties {
                let value = match schema["type"].as_str() {
                    Some("string") => json!("x"),
                    Some("integer") => json!(1),
                    Some("boolean") => json!(true),
                    Some("array") => json!([]),
                    other => panic!("{property} is a {other:?}"),
                };
                arguments.insert(property.clone(), value);
            }
            Tool::parse(name, &Value::Object(arguments.clone()).to_string()).expect("all are taken");
            for required in tool["function"]["parameters"]["required"].as_array().expect("a list") {
                let mut fewer = arguments.clone();
                fewer.remove(required.as_str().expect("a name"));
                let refusal =
                    Tool::parse(name, &Value::Object(fewer).to_string()).expect_err("it is required");
                assert!(refusal.contains("missing field"), "{refusal}");
            }
            arguments.insert("colour".to_owned(), json!("red"));
            let refusal =
                Tool::parse(name, &Value::Object(arguments).to_string()).expect_err("it is unknown");
            assert!(refusal.contains("unknown field `colour`"), "{refusal}");
        }
    }

    #[test]
    fn the_tools_are_those_that_sessions_can_name() {
        let own = ob_core::agent::BUILTIN_TOOLS.map(|(name, _)| name);
        assert_eq!(schema_of(&own), *schema());
        assert_eq!(schema_of(&["run", "nothing"]).as_array().map(Vec::len), Some(1));
        for (name, act) in ob_core::agent::BUILTIN_TOOLS {
            let arguments = json!({"path": "x", "content": "x"});
            if name == "write" {
                let tool = Tool::parse(name, &arguments.to_string()).expect("a call");
                assert_eq!((tool.kind(), act), (ToolKind::Edit, ob_core::agent::Act::Change));
            }
        }
    }

    #[test]
    fn calls_that_make_no_sense_are_explained() {
        for (name, arguments, expected) in [
            ("delete", "{}", "there is no tool `delete`; the tools are read"),
            ("read", "{\"path\":", "no valid JSON"),
            ("read", "[\"x\"]", "must be a JSON object"),
            ("read", "", "missing field `path`"),
            ("read", "{\"path\":1}", "invalid type"),
        ] {
            let refusal = Tool::parse(name, arguments).expect_err("it makes no sense");
            assert!(refusal.contains(expected), "{refusal}");
        }
    }

    #[test]
    fn paths_start_at_the_working_directory() {
        for (path, expected) in
            [("a", "/w/a"), ("./a/../b", "/w/b"), ("../x", "/x"), ("/etc/hosts", "/etc/hosts"), (".", "/w")]
        {
            assert_eq!(resolve(Path::new("/w"), path), Path::new(expected));
        }
    }

    #[test]
    fn titles_are_one_short_line() {
        let run =
            |command: &str| Tool::parse("run", &json!({"command": command}).to_string()).expect("a command");
        assert_eq!(run("make test").title(), "Run make test");
        assert_eq!(run("cat <<E\nx\nE").title(), "Run cat <<E…");
        assert!(run(&"ä".repeat(500)).title().len() < 130);
    }
}
