//! `docs/configuration.md`: every key and every variable, from the tables that the program reads them by.

use std::fmt::Write as _;

use crate::cell;
use crate::is_current;

const HEAD: &str = r#"# Configuration

<!-- Generated from `ob_config` by `UPDATE_DOCS=1 cargo test -p oubliette --test documents`. -->

Nothing has to be configured. There is one file, JSON with comments and trailing commas: `config/oubliette.jsonc` in the home,
or the one that `--config F` names; the first server of a home writes it with every default in a comment. A variable goes over
the file. A home with the first version's `config.yaml` works as it is; `oubliette config migrate` turns it into the present form,
with its comments.

A mistake is refused with its place, what is allowed and the key that was probably meant, all mistakes at once:
`file:line:column: key: what`. A key is never shown: not in a message, a log, an event or a sandbox.

```jsonc
{
  // For editors: `oubliette config schema > config/schema.json`.
  "$schema": "schema.json",
  // The key may stay out of the file: OPENAI_API_KEY does the same.
  "credentials": {
    "providers": { "credentials": { "openai": { "api_key": "…", "default_model": "gpt-5-mini" } } },
  },
  "sandbox": { "memory": "8G", "read_only": ["/opt/node"], "env": { "RUST_BACKTRACE": "1" } },
}
```

| command | does |
| --- | --- |
| `oubliette config check` | tells every mistake, and needs no server |
| `oubliette config show --origin` | shows every value in effect and who set it |
| `oubliette config diff` | shows what a reload would change |
| `oubliette config migrate --dry-run` | shows what `config.yaml` would become; without `--dry-run` the old file is kept under another name |
| `oubliette config schema` | prints the JSON Schema, which is also [here](oubliette.schema.json) |
| `oubliette reload` | lets the server read the configuration anew, and tells what came of it |

## While the server runs

The server reads the file anew when it changes (also when it is replaced, or a link to it is), on `SIGHUP` and on
`oubliette reload`. It reads all of it before it takes any of it: with one mistake everything stays as it was, the log has
`configuration refused` with every mistake, and `oubliette_config_reloads_total{status="refused"}` rises. What the table below marks
as `live` counts from then on: models and keys from the next call, limits for the next task, sandboxes for the next one. The rest
is named in the log, and by `oubliette reload`, as what needs a restart.

## Homes

The home is the first of these: `--dir`; `OUBLIETTE_HOME`; the folder of `--config F`, or its parent if that is named `config`; the
working directory, if it holds `config/oubliette.jsonc`, `oubliette.jsonc` or `config.yaml`; `.oubliette` in it, if that exists;
`~/.oubliette`. A home has at most one server, and one configuration file. `--takeover` lets a new server take the place of the
one that runs: that one drains and leaves its sandboxes; the new one waits for its lock.

A home that was only found in the working directory may have come with a clone. Until you named it once, with `--dir .` for
example, it may not say where tasks and keys go, may not name programs or folders outside it, and may not bring data along.
Which homes you named is noted in `~/.local/state/oubliette`.

| in the home | what |
| --- | --- |
| `config/oubliette.jsonc` | the configuration |
| `data/oubliette.db`, `data/auth.db` | events and sessions; tokens, as hashes |
| `data/audit.db` | the audit: what was changed or refused, by whom |
| `data/projects/` | for each project: clones, what patches are made against, and the agents' own folders |
| `data/logs/oubliette.log` | the log of the server |
| `data/server.lock`, `data/oubliette.pid` | who serves this home |

A home with a `config.yaml` has `projects/` and `logs/` beside it instead of in `data/`. `paths` moves any of them.

Sockets are in `paths.sockets`, else `/run/oubliette` (root), `$XDG_RUNTIME_DIR/oubliette`, or `/tmp/oubliette-UID`, in a folder with
a short name for each home: the path of a socket may have 108 bytes at most, so a longer `paths.sockets` is not used.

`cp -r data` may be done at any time, also while the server runs or stops: the copy opens with everything that was acknowledged
before. The databases are not touched between the moment someone opens one of their files and ten seconds after; a copy that
takes so long that the log of the database grows to 256 MiB meanwhile is not safe, and a payload of more than 64 KiB that is
written during the copy may be missing in it.

"#;

#[test]
fn the_page_of_the_configuration_has_every_key() {
    let mut page = HEAD.to_owned();
    page.push_str("## Keys\n\n| key | value | default | taken | effect |\n| --- | --- | --- | --- | --- |\n");
    for key in ob_config::reference() {
        let default = key.default.map(|default| format!("`{default}`")).unwrap_or_default();
        let taken = if key.live { "live" } else { "restart" };
        writeln!(page, "| `{}` | {} | {default} | {taken} | {} |", key.path, cell(&key.kind), cell(key.doc))
            .unwrap();
    }
    page.push_str(
        "\n`<name>` is a name of your choice: letters, digits, `.`, `_` and `-`, at most 64. Sizes are powers of 1024.\n\
         \nThese keys of other versions are known and have no effect in this one; setting one is a warning:\n",
    );
    let later: Vec<_> = ob_config::reference_later().iter().map(|key| format!("`{key}`")).collect();
    writeln!(page, "{}.", wrap(&later.join(", "))).unwrap();
    page.push_str("\n## Variables\n\n| variable | effect |\n| --- | --- |\n");
    for variable in ob_config::VARIABLES {
        writeln!(page, "| `{}` | {} |", variable.name, cell(variable.doc)).unwrap();
    }
    page.push_str(
        "\n`OUBLIETTE_SANDBOX__MEMORY=8G` sets `sandbox.memory`: two underscores between the names of the path. A value that is\n\
         neither text, number nor flag is JSON: `OUBLIETTE_MODELS__DISCOVER_PORTS='[11434]'`. An empty variable is not set.\n",
    );
    is_current("docs/configuration.md", &page);
}

#[test]
fn the_schema_for_editors_is_the_programs() {
    is_current("docs/oubliette.schema.json", &format!("{:#}\n", ob_config::json_schema()));
}

/// Lines of at most 120 characters, cut at spaces.
fn wrap(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().unwrap();
        if line.len() + word.len() > 118 {
            lines.push(word.to_owned());
        } else {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
    }
    lines.join("\n")
}
