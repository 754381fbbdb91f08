//! JSON with comments and trailing commas into a [`Node`] tree, with the place of every name and value.

use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use jsonc_parser::CollectOptions;
use jsonc_parser::ParseOptions;
use jsonc_parser::ast;
use jsonc_parser::common::Ranged as _;

use crate::Mistake;
use crate::tree::Entry;
use crate::tree::Node;
use crate::tree::Origin;
use crate::tree::Value;

/// A larger file is no configuration.
const MAX_BYTES: u64 = 1 << 20;

/// A file that was read.
pub(crate) struct ConfigFile {
    pub(crate) root: Node,
    /// Its permission bits.
    pub(crate) mode: u32,
}

/// What is wrong with a text, and where.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) what: String,
}

/// Finds lines and columns of byte positions.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

/// Reads a configuration file; `None` if there is none.
pub(crate) fn read_file(path: &Path) -> Result<Option<ConfigFile>, Mistake> {
    let wrong = |what: String| Mistake::new(path.display().to_string(), what);
    // Non-blocking, so that a FIFO in its place cannot hold the start up.
    let opened =
        File::options().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed()).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(format!("cannot be read: {error}"))),
    };
    let metadata = file.metadata().map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if !metadata.is_file() {
        return Err(wrong("is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(wrong(format!("is larger than {MAX_BYTES} bytes, the most a configuration may have")));
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| wrong(format!("is not UTF-8 at byte {}", error.utf8_error().valid_up_to())))?;
    match parse(&text) {
        Ok(root) => Ok(Some(ConfigFile { root, mode: metadata.mode() })),
        Err(error) => {
            Err(Mistake::new(format!("{}:{}:{}", path.display(), error.line, error.column), error.what))
        }
    }
}

/// Parses a text. A text without a value, as of comments only, is an empty object.
pub(crate) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let parsed = jsonc_parser::parse_to_ast(text, &CollectOptions::default(), &options);
    let lines = Lines::new(text);
    match parsed {
        Ok(result) => Ok(result.value.map_or_else(Node::empty, |value| lines.node(value))),
        Err(error) => {
            let (line, column) = lines.at(error.range().start);
            let what = lower_first(&error.kind().to_string());
            Err(SyntaxError { line, column, what })
        }
    }
}

// === impl Lines ===

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// Line and column of a byte position, both from 1.
    fn at(&self, byte: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= byte);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column =
            self.text.get(start..byte).map_or(byte.saturating_sub(start), |text| text.chars().count());
        (line.max(1), column + 1)
    }

    fn origin(&self, byte: usize) -> Origin {
        let (line, column) = self.at(byte);
        Origin::File { line, column }
    }

    /// The recursion is bounded: the parser refuses to nest deeper than 512.
    fn node(&self, value: ast::Value<'_>) -> Node {
        let origin = self.origin(value.range().start);
        let value = match value {
            ast::Value::NullKeyword(_) => Value::Null,
            ast::Value::BooleanLit(flag) => Value::Flag(flag.value),
            ast::Value::NumberLit(number) => Value::Number(number.value.to_owned()),
            ast::Value::StringLit(text) => Value::Text(text.value.into_owned()),
            ast::Value::Array(list) => {
                Value::List(list.elements.into_iter().map(|item| self.node(item)).collect())
            }
            ast::Value::Object(object) => Value::Object(
                object
                    .properties
                    .into_iter()
                    .map(|property| Entry {
                        origin: self.origin(property.range.start),
                        name: property.name.into_string(),
                        node: self.node(property.value),
                    })
                    .collect(),
            ),
        };
        Node { origin, value }
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}
