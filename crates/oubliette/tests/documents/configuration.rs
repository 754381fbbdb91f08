//! `docs/configuration.md`: every key and every variable, from the tables that the program reads them by.

use crate::cell;
use crate::is_current;

const HEAD: &str = r#"# Configuration

<!-- Generated from `ob_config` by `UPDATE_DOCS=1 cargo test -p oubliette --test documents`. -->

Nothing has to be configured. There is one file, JSON with comments and trailing commas: `config/oubliette.jsonc` in the home,
or the one that `--config F` names; the first server of a home writes it with every default in a comment. A variable goes over
the file. The server reads both when it starts.

A mistake is refused with its place, what is allowed and the key that was probably meant, all mistakes at once. A key is
never shown: not in a message, a log, an event or a sandbox.

```jsonc
{
  // The key may stay out of the file: OPENAI_API_KEY does the same.
  "credentials": {
    "providers": { "credentials": { "openai": { "api_key": "…", "default_model": "gpt-5-mini" } } },
  },
  "sandbox": { "memory": "8G", "read_only": ["/opt/node"], "env": { "RUST_BACKTRACE": "1" } },
}
```

## Homes

The home is the folder that `--dir` names, else `OUBLIETTE_HOME`, else `~/.oubliette`. A home has at most one server.

| in the home | what |
| --- | --- |
| `config/oubliette.jsonc` | the configuration |
| `data/oubliette.db`, `data/auth.db` | events and sessions; tokens, as hashes |
| `data/projects/` | for each project: clones, what patches are made against, and the agents' own folders |
| `data/logs/oubliette.log` | the log of the server |
| `data/server.lock`, `data/oubliette.pid` | who serves this home |

Sockets are in `/run/oubliette` (root), `$XDG_RUNTIME_DIR/oubliette`, or `/tmp/oubliette-UID`.

"#;

#[test]
fn the_page_of_the_configuration_has_every_key() {
    let mut page = HEAD.to_owned();
    page.push_str("## Keys\n\n| key | value | default | effect |\n| --- | --- | --- | --- |\n");
    for key in ob_config::reference() {
        let default = key.default.map(|default| format!("`{default}`")).unwrap_or_default();
        page.push_str(&format!("| `{}` | {} | {default} | {} |\n", key.path, cell(&key.kind), cell(key.doc)));
    }
    page.push_str(
        "\n`<name>` is a name of your choice: letters, digits, `.`, `_` and `-`, at most 64. Sizes are powers of 1024.\n\
         \nThese keys of other versions are known and have no effect in this one; setting one is a warning:\n",
    );
    let later: Vec<_> = ob_config::reference_later().iter().map(|key| format!("`{key}`")).collect();
    page.push_str(&format!("{}.\n", wrap(&later.join(", "))));
    page.push_str("\n## Variables\n\n| variable | effect |\n| --- | --- |\n");
    for variable in ob_config::VARIABLES {
        page.push_str(&format!("| `{}` | {} |\n", variable.name, cell(variable.doc)));
    }
    page.push_str(
        "\n`OUBLIETTE_SANDBOX__MEMORY=8G` sets `sandbox.memory`: two underscores between the names of the path. A value that is\n\
         neither text, number nor flag is JSON: `OUBLIETTE_MODELS__DISCOVER_PORTS='[11434]'`. An empty variable is not set.\n",
    );
    is_current("docs/configuration.md", &page);
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
