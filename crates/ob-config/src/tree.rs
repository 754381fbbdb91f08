//! The tree between a file's text and its meaning: values that know where they came from. Has no `Debug` on purpose:
//! it holds keys.

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In the configuration file, both from 1, columns in characters.
    File { line: usize, column: usize },
    /// In a variable of the environment, by name.
    Variable(String),
}

/// A value and where it stands.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) origin: Origin,
    pub(crate) value: Value,
}

/// A value as JSON has them.
#[derive(Clone)]
pub(crate) enum Value {
    Null,
    Flag(bool),
    /// As written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file, with every entry of a name that is given twice.
    Object(Vec<Entry>),
}

/// A name, where the name stands, and its value.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) origin: Origin,
    pub(crate) node: Node,
}

// === impl Origin ===

impl Origin {
    /// As people read it; `file` is the file's name.
    pub(crate) fn place(&self, file: &str) -> String {
        match self {
            Self::File { line, column } => format!("{file}:{line}:{column}"),
            Self::Variable(name) => name.clone(),
        }
    }

    pub(crate) const fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }
}

// === impl Node ===

impl Node {
    /// What a missing file says.
    pub(crate) const fn empty() -> Self {
        Self { origin: Origin::File { line: 1, column: 1 }, value: Value::Object(Vec::new()) }
    }

    /// The same tree as if it stood in a variable.
    pub(crate) fn in_variable(mut self, name: &str) -> Self {
        self.mark(&Origin::Variable(name.to_owned()));
        self
    }

    fn mark(&mut self, origin: &Origin) {
        self.origin = origin.clone();
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.mark(origin)),
            Value::Object(entries) => {
                for entry in entries {
                    entry.origin = origin.clone();
                    entry.node.mark(origin);
                }
            }
            Value::Null | Value::Flag(_) | Value::Number(_) | Value::Text(_) => {}
        }
    }

    /// The entry of a name, the first if it is given twice.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Object(entries) => {
                entries.iter().find(|entry| entry.name == name).map(|entry| &entry.node)
            }
            _ => None,
        }
    }

    /// Puts `node` at `path`, over what is there. Objects are made on the way; false if something else is in it.
    pub(crate) fn put(&mut self, path: &[String], node: Self) -> bool {
        let Some((name, rest)) = path.split_first() else {
            *self = node;
            return true;
        };
        if matches!(self.value, Value::Null) {
            self.value = Value::Object(Vec::new());
        }
        let Value::Object(entries) = &mut self.value else {
            return false;
        };
        match entries.iter_mut().find(|entry| entry.name == *name) {
            Some(entry) => entry.node.put(rest, node),
            None => {
                let origin = node.origin.clone();
                let mut child = Self { origin: origin.clone(), value: Value::Object(Vec::new()) };
                let put = child.put(rest, node);
                entries.push(Entry { name: name.clone(), origin, node: child });
                put
            }
        }
    }
}

// === impl Value ===

impl Value {
    /// What it is, for messages that must not show it.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Flag(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}
