//! Puts one entry into a client's file and leaves everything else as it is, comments and order included.
//!
//! What cannot be merged without a guess is refused and not touched. After a merge the old and the new file are read
//! again, and are the same but for our entry, or the merge is refused.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::CstInputValue;
use jsonc_parser::cst::CstObject;
use jsonc_parser::cst::CstRootNode;
use ob_core::Refusal;
use serde_json::Value;
use toml_edit::DocumentMut;
use toml_edit::Item;

/// The name of our entry.
pub(super) const ENTRY: &str = "oubliette";

/// A file with our entry in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Merged {
    /// The whole new file.
    pub(super) text: String,
    /// The secret that an entry of ours held before, in this table of it.
    pub(super) replaced: Option<String>,
}

/// Merges into JSON with or without comments.
pub(super) fn json(text: &str, section: &str, environment: &str, entry: &Value) -> Result<Merged, Refusal> {
    let before = if text.trim().is_empty() { "{}\n" } else { text };
    let root = CstRootNode::parse(before, &ParseOptions::default())
        .map_err(|error| cannot(&format!("it is not JSON: {error}")))?;
    let old = value_of(before)?;
    let top = root.object_value().ok_or_else(|| cannot("it holds no object"))?;
    once(&top, section)?;
    let servers = match top.get(section) {
        None => top.object_value_or_set(section),
        Some(found) => {
            found.object_value().ok_or_else(|| cannot(&format!("its `{section}` is no object")))?
        }
    };
    once(&servers, ENTRY)?;
    match servers.get(ENTRY) {
        Some(ours) => ours.set_value(input(entry)),
        None => drop(servers.append(ENTRY, input(entry))),
    }
    let mut text = root.to_string();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let new = value_of(&text)?;
    if new[section][ENTRY] != *entry || without(new, section) != without(old.clone(), section) {
        return Err(cannot("merging would change more than our entry"));
    }
    let replaced = old[section][ENTRY][environment][super::TOKEN].as_str().map(ToOwned::to_owned);
    Ok(Merged { text, replaced })
}

/// Merges into TOML.
pub(super) fn toml(text: &str, section: &str, environment: &str, entry: &Value) -> Result<Merged, Refusal> {
    let parse = |text: &str| {
        text.parse::<DocumentMut>().map_err(|error| cannot(&format!("it is not TOML: {}", error.message())))
    };
    let mut document = parse(text)?;
    if document.get(section).is_none() {
        let mut servers = toml_edit::Table::new();
        servers.set_implicit(true);
        document.insert(section, Item::Table(servers));
    }
    let servers = document.get_mut(section).and_then(Item::as_table_like_mut);
    let servers = servers.ok_or_else(|| cannot(&format!("its `{section}` is no table")))?;
    let secret = |item: &Item| {
        let environment = item.as_table_like()?.get(environment)?.as_table_like()?;
        environment.get(super::TOKEN)?.as_str().map(ToOwned::to_owned)
    };
    let replaced = servers.get(ENTRY).and_then(secret);
    servers.insert(ENTRY, table(entry));
    let merged = document.to_string();
    if toml_without(&parse, &merged, section)? != toml_without(&parse, text, section)? {
        return Err(cannot("merging would change more than our entry"));
    }
    Ok(Merged { text: merged, replaced })
}

/// The lines of a TOML file without our entry, and without empty ones.
fn toml_without(
    parse: &impl Fn(&str) -> Result<DocumentMut, Refusal>,
    text: &str,
    section: &str,
) -> Result<Vec<String>, Refusal> {
    let mut document = parse(text)?;
    if let Some(servers) = document.get_mut(section).and_then(Item::as_table_like_mut) {
        servers.remove(ENTRY);
    }
    let rest = document.to_string();
    Ok(rest.lines().filter(|line| !line.trim().is_empty()).map(ToOwned::to_owned).collect())
}

fn cannot(why: &str) -> Refusal {
    Refusal::conflict(format!("the client's file is left as it is: {why}"))
        .fix("mend the file, or write the entry by hand as the page of MCP shows it")
}

/// A key that stands twice means one thing to one reader and another to the next.
fn once(object: &CstObject, name: &str) -> Result<(), Refusal> {
    let is_it = |property: &jsonc_parser::cst::CstObjectProp| {
        property.name().and_then(|found| found.decoded_value().ok()).is_some_and(|found| found == name)
    };
    if object.properties().iter().filter(|property| is_it(property)).count() > 1 {
        return Err(cannot(&format!("it has `{name}` twice")));
    }
    Ok(())
}

fn value_of(text: &str) -> Result<Value, Refusal> {
    let parsed: Result<Option<Value>, _> = jsonc_parser::parse_to_serde_value(text, &ParseOptions::default());
    match parsed {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(cannot("it is empty")),
        Err(error) => Err(cannot(&format!("it is not JSON: {error}"))),
    }
}

/// A file without our entry, and without the section if that held nothing else.
fn without(mut file: Value, section: &str) -> Value {
    if let Some(servers) = file.get_mut(section).and_then(Value::as_object_mut) {
        servers.remove(ENTRY);
        if servers.is_empty()
            && let Some(top) = file.as_object_mut()
        {
            top.remove(section);
        }
    }
    file
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(value) => CstInputValue::Number(value.to_string()),
        Value::String(value) => CstInputValue::String(value.clone()),
        Value::Array(all) => CstInputValue::Array(all.iter().map(input).collect()),
        Value::Object(all) => {
            CstInputValue::Object(all.iter().map(|(name, value)| (name.clone(), input(value))).collect())
        }
    }
}

/// An entry as a table; an object in it becomes a table below it.
fn table(entry: &Value) -> Item {
    match entry {
        Value::Object(all) => {
            let mut table = toml_edit::Table::new();
            for (name, value) in all {
                table.insert(name, self::table(value));
            }
            Item::Table(table)
        }
        Value::Array(all) => {
            toml_edit::value(all.iter().filter_map(Value::as_str).collect::<toml_edit::Array>())
        }
        Value::Bool(value) => toml_edit::value(*value),
        other => toml_edit::value(other.as_str().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(secret: &str) -> Value {
        json!({ "command": "/o", "args": ["mcp"], "env": { super::super::TOKEN: secret } })
    }

    #[test]
    fn comments_order_and_all_other_keys_stay() {
        let file = "{\n  // what I like\n  \"theme\": \"dark\",\n  \"mcpServers\": {\n    \"other\": { \"command\": \"x\" }, // mine\n  },\n  \"z\": [1, 2.50, null],\n}\n";
        let merged = json(file, "mcpServers", "env", &entry("oub_1")).expect("it merges");
        for kept in
            ["// what I like", "// mine", "\"theme\": \"dark\"", "\"other\": { \"command\": \"x\" }", "2.50"]
        {
            assert!(merged.text.contains(kept), "{kept}:\n{}", merged.text);
        }
        assert_eq!(merged.replaced, None);
        assert_eq!(value_of(&merged.text).expect("JSON")["mcpServers"][ENTRY], entry("oub_1"));
        // Again: the entry is replaced, and everything else is the same text.
        let again = json(&merged.text, "mcpServers", "env", &entry("oub_2")).expect("it merges");
        assert_eq!(again.replaced.as_deref(), Some("oub_1"));
        assert_eq!(again.text.replace("oub_2", "oub_1"), merged.text);
    }

    #[test]
    fn a_file_that_is_not_there_or_empty_is_made() {
        for file in ["", "  \n", "{}"] {
            let merged = json(file, "mcp", "environment", &entry("s")).expect("it merges");
            assert_eq!(value_of(&merged.text).expect("JSON"), json!({ "mcp": { ENTRY: entry("s") } }));
        }
        let merged = toml("", "mcp_servers", "env", &entry("s")).expect("it merges");
        assert!(merged.text.starts_with("[mcp_servers.oubliette]\n"), "{}", merged.text);
    }

    #[test]
    fn what_would_need_a_guess_is_refused() {
        for (file, why) in [
            ("[]", "no object"),
            ("{ \"mcpServers\": [] }", "`mcpServers` is no object"),
            ("{ \"mcpServers\": {}, \"mcpServers\": {} }", "twice"),
            ("{ \"mcpServers\": { \"oubliette\": 1, \"oubliette\": 2 } }", "twice"),
            ("{ \"a\": }", "not JSON"),
            ("<xml/>", "not JSON"),
        ] {
            let refusal = json(file, "mcpServers", "env", &entry("s")).expect_err(file);
            assert!(refusal.to_string().contains(why), "{file}: {refusal}");
        }
        for (file, why) in [("a = ", "not TOML"), ("mcp_servers = 1", "`mcp_servers` is no table")] {
            let refusal = toml(file, "mcp_servers", "env", &entry("s")).expect_err(file);
            assert!(refusal.to_string().contains(why), "{file}: {refusal}");
        }
    }

    #[test]
    fn toml_keeps_its_comments_and_tables() {
        let file = "# mine\nmodel = \"x\" # best\n\n[mcp_servers.other]\ncommand = \"y\"\n\n[z]\na = 1\n";
        let merged = toml(file, "mcp_servers", "env", &entry("oub_1")).expect("it merges");
        for kept in ["# mine\n", "model = \"x\" # best", "[mcp_servers.other]\ncommand = \"y\"", "[z]\na = 1"]
        {
            assert!(merged.text.contains(kept), "{kept}:\n{}", merged.text);
        }
        let again = toml(&merged.text, "mcp_servers", "env", &entry("oub_2")).expect("it merges");
        assert_eq!(again.replaced.as_deref(), Some("oub_1"));
        assert_eq!(again.text.replace("oub_2", "oub_1"), merged.text);
    }
}
