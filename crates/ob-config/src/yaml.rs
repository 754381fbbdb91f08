//! The first version's file: YAML into the same [`Node`] tree, with the place of every name and value.
//!
//! Plain words are read as YAML 1.2 reads them, so `no` is a text and not false. What a configuration has no use for is
//! refused: aliases (a few lines of them fill any memory), tags, names that are no text, a second document.

use granit_parser::Event;
use granit_parser::Marker;
use granit_parser::Parser;
use granit_parser::Placement;
use granit_parser::ScalarStyle;
use granit_parser::ScanError;
use granit_parser::options;

use crate::file::SyntaxError;
use crate::file::lower_first;
use crate::tree::Entry;
use crate::tree::Node;
use crate::tree::Origin;
use crate::tree::Value;

/// Lists and objects in each other: more is no configuration.
const DEPTH: usize = 128;

/// Comment lines in a row that are kept for a migration; a file has at most a million bytes.
const COMMENTS: usize = 1 << 20;

/// A comment, for a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Comment {
    /// Its line, from 1.
    pub(crate) line: usize,
    /// What stands behind the `#`.
    pub(crate) text: String,
    /// True if something stands before it in its line.
    pub(crate) is_beside: bool,
}

/// A list or an object that is not closed yet.
struct Open {
    origin: Origin,
    value: Value,
    /// The name that waits for its value.
    name: Option<(String, Origin)>,
}

/// What was read so far.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
}

/// Parses a text. A text without a value, as of comments only, is an empty object.
pub(crate) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options = options! { emit_comments: false };
    let mut builder = Builder::default();
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = next.map_err(|error| syntax(&error))?;
        builder.take(event, &span.start)?;
    }
    // What says nothing, like `---` alone, is an empty configuration.
    Ok(builder.root.filter(|root| !matches!(root.value, Value::Null)).unwrap_or_else(Node::empty))
}

/// The comments of a text, in order.
pub(crate) fn comments(text: &str) -> Result<Vec<Comment>, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options = options! { max_buffered_comment_events: COMMENTS };
    let mut comments = Vec::new();
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = next.map_err(|error| syntax(&error))?;
        if let Event::Comment(text, placement) = event {
            let is_beside = placement == Placement::Right;
            comments.push(Comment { line: span.start.line(), text: text.into_owned(), is_beside });
        }
    }
    // The parser may tell of one beside a value after it has told of what follows.
    comments.sort_by_key(|comment| comment.line);
    Ok(comments)
}

fn syntax(error: &ScanError) -> SyntaxError {
    wrong(error.marker(), &lower_first(&error.info()))
}

fn wrong(at: &Marker, what: &str) -> SyntaxError {
    SyntaxError { line: at.line(), column: at.col() + 1, what: what.to_owned() }
}

fn place(at: &Marker) -> Origin {
    Origin::File { line: at.line(), column: at.col() + 1 }
}

/// A word without quotes.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Flag(true),
        "false" | "False" | "FALSE" => Value::Flag(false),
        text if is_number(text) => Value::Number(text.to_owned()),
        text => Value::Text(text.to_owned()),
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    // Not `inf`, `nan` and the like, which Rust reads as numbers too.
    digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && text.parse::<f64>().is_ok()
}

// === impl Builder ===

impl Builder {
    fn take(&mut self, event: Event<'_>, at: &Marker) -> Result<(), SyntaxError> {
        match event {
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, _, Some(_))
            | Event::MappingStart(_, _, Some(_)) => Err(wrong(at, "tags are not allowed in a configuration")),
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                Err(wrong(at, "aliases are not allowed in a configuration; write the value again"))
            }
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(wrong(at, "a second document begins; a configuration is one"))
            }
            Event::Scalar(text, style, _, None) => self.scalar(text.into_owned(), style, at),
            Event::SequenceStart(..) => self.begin(Value::List(Vec::new()), at),
            Event::MappingStart(..) => self.begin(Value::Object(Vec::new()), at),
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    self.put(Node { origin: open.origin, value: open.value });
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn scalar(&mut self, text: String, style: ScalarStyle, at: &Marker) -> Result<(), SyntaxError> {
        if let Some(Open { value: Value::Object(_), name: name @ None, .. }) = self.open.last_mut() {
            *name = Some((text, place(at)));
            return Ok(());
        }
        let value = if style == ScalarStyle::Plain { plain(&text) } else { Value::Text(text) };
        self.put(Node { origin: place(at), value });
        Ok(())
    }

    fn begin(&mut self, value: Value, at: &Marker) -> Result<(), SyntaxError> {
        if let Some(Open { value: Value::Object(_), name: None, .. }) = self.open.last() {
            return Err(wrong(at, "a name must be a text"));
        }
        if self.open.len() >= DEPTH {
            return Err(wrong(at, &format!("nesting depth: more than {DEPTH} is not allowed")));
        }
        self.open.push(Open { origin: place(at), value, name: None });
        Ok(())
    }

    fn put(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open { value: Value::List(items), .. }) => items.push(node),
            Some(Open { value: Value::Object(entries), name, .. }) => {
                if let Some((name, origin)) = name.take() {
                    entries.push(Entry { name, origin, node });
                }
            }
            // Only lists and objects are opened.
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As JSON, with what kind each thing is read as.
    fn shown(node: &Node) -> String {
        match &node.value {
            Value::Null => "null".to_owned(),
            Value::Flag(flag) => flag.to_string(),
            Value::Number(text) => text.clone(),
            Value::Text(text) => format!("{text:?}"),
            Value::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(",")),
            Value::Object(entries) => {
                let entries: Vec<_> =
                    entries.iter().map(|entry| format!("{:?}:{}", entry.name, shown(&entry.node))).collect();
                format!("{{{}}}", entries.join(","))
            }
        }
    }

    #[test]
    fn words_are_read_as_yaml_1_2_reads_them() {
        for (text, expected) in [
            ("a: no", r#"{"a":"no"}"#),
            ("a: on\nb: yes", r#"{"a":"on","b":"yes"}"#),
            ("a: true\nb: False", r#"{"a":true,"b":false}"#),
            ("a: \"true\"", r#"{"a":"true"}"#),
            ("a: '4'", r#"{"a":"4"}"#),
            ("a: 10.0\nb: -3\nc: 4G\nd: 1e3", r#"{"a":10.0,"b":-3,"c":"4G","d":1e3}"#),
            ("a: .inf\nb: inf\nc: nan", r#"{"a":".inf","b":"inf","c":"nan"}"#),
            ("a:\nb: ~\nc: null", r#"{"a":null,"b":null,"c":null}"#),
            ("a: [1, x, {b: c}]", r#"{"a":[1,"x",{"b":"c"}]}"#),
            ("- a\n- b: c", r#"["a",{"b":"c"}]"#),
            ("a: |\n  two\n  lines\n", r#"{"a":"two\nlines\n"}"#),
            ("\u{feff}a: 1", r#"{"a":1}"#),
            ("", "{}"),
            ("# only\n", "{}"),
            ("---\n", "{}"),
            ("---\na: 1\n...\n", r#"{"a":1}"#),
        ] {
            assert_eq!(shown(&parse(text).expect(text)), expected, "{text:?}");
        }
    }

    #[test]
    fn names_and_values_know_their_places() {
        let root = parse("server:\n  address: \":80\"\nlist: [1,  2]\n").expect("good");
        let server = root.get("server").expect("there");
        assert_eq!(server.get("address").expect("there").origin, Origin::File { line: 2, column: 12 });
        let Value::Object(entries) = &root.value else { panic!("an object") };
        assert_eq!(entries[1].origin, Origin::File { line: 3, column: 1 });
        let Value::List(items) = &entries[1].node.value else { panic!("a list") };
        assert_eq!(items[1].origin, Origin::File { line: 3, column: 12 });
    }

    #[test]
    fn what_a_configuration_has_no_use_for_is_refused_with_its_place() {
        for (text, line, what) in [
            ("a: &x 1\nb: *x", 2, "aliases"),
            ("a: !!str 1", 1, "tags"),
            ("? [a]\n: 1", 1, "a name must be a text"),
            ("a: 1\n---\nb: 2", 2, "a second document"),
            ("a: [1", 1, ""),
            ("a: 1\n b: 2", 2, ""),
            ("a: \"x", 1, ""),
        ] {
            let error = parse(text).err().unwrap_or_else(|| panic!("{text:?} is read"));
            assert!(error.what.contains(what) && !error.what.is_empty(), "{text:?}: {}", error.what);
            assert!(error.line >= line && error.column > 0, "{text:?}: {}:{}", error.line, error.column);
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_goes_off() {
        let flow = "[".repeat(500_000);
        let block = (0..2_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>();
        let laughs = format!("a: &a [x]\n{}", "b: [*a, *a, *a, *a, *a, *a]\n".repeat(10));
        for text in [flow, block, laughs] {
            assert!(parse(&text).is_err());
        }
        // The control: much that is flat is fine, and so are comments in any number.
        let flat = (0..10_000).map(|n| format!("# about k{n}\nk{n}: {n}\n")).collect::<String>();
        let many = format!("{}{flat}", "# a line\n".repeat(10_000));
        let Value::Object(entries) = parse(&many).expect("flat").value else { panic!("an object") };
        assert_eq!(entries.len(), 10_000);
        assert_eq!(comments(&many).expect("comments").len(), 20_000);
    }

    #[test]
    fn comments_know_whether_they_stand_beside_something() {
        let text = "# head\n\n# above\na: 1 # beside\nb:  # of b\n  c: 2\n# end\n";
        let found: Vec<_> = comments(text)
            .expect("good")
            .into_iter()
            .map(|comment| (comment.line, comment.text, comment.is_beside))
            .collect();
        let expected = [
            (1, " head", false),
            (3, " above", false),
            (4, " beside", true),
            (5, " of b", true),
            (7, " end", false),
        ]
        .map(|(line, text, beside)| (line, text.to_owned(), beside));
        assert_eq!(found, expected);
    }
}
