//! JSON with comments and trailing commas into a [`Node`] tree, with the place of every name and value.

use jsonc_parser::CollectOptions;
use jsonc_parser::ParseOptions;
use jsonc_parser::ast;
use jsonc_parser::common::Ranged as _;

use crate::file::SyntaxError;
use crate::file::lower_first;
use crate::tree::Entry;
use crate::tree::Node;
use crate::tree::Origin;
use crate::tree::Value;

/// Finds lines and columns of byte positions.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
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
