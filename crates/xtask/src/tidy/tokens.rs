//! A Rust source as a flat list of tokens, each with its line and whether only tests see it. Comments are not among
//! them, and neither are doc comments, so a rule about code does not read prose.

use proc_macro2::Delimiter;
use proc_macro2::TokenStream;
use proc_macro2::TokenTree;

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// A word, a literal with its quotes, or one character of punctuation.
    pub(super) text: String,
    /// From 1.
    pub(super) line: usize,
    /// True if it is only compiled for tests.
    pub(super) in_test: bool,
}

/// The tokens of a source; `is_test` says that all of it is only for tests.
///
/// # Errors
/// The line and what is wrong, if it cannot be cut into tokens.
pub(super) fn read(text: &str, is_test: bool) -> Result<Vec<Token>, (usize, String)> {
    let stream: TokenStream = text
        .parse()
        .map_err(|error: proc_macro2::LexError| (error.span().start().line, error.to_string()))?;
    let mut tokens = Vec::new();
    flatten(stream, is_test, &mut tokens);
    Ok(tokens)
}

/// The places at which these words stand one after the other; words are divided by spaces, and `*` is any token.
pub(super) fn find<'a>(tokens: &'a [Token], words: &str) -> impl Iterator<Item = &'a [Token]> {
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    tokens.windows(words.len()).filter(move |window| {
        window.iter().zip(&words).all(|(token, word)| word == "*" || token.text == *word)
    })
}

fn flatten(stream: TokenStream, is_test: bool, tokens: &mut Vec<Token>) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    // True from an attribute that is about tests to the end of the item under it.
    let mut item_is_test = false;
    let mut at = 0;
    while let Some(tree) = trees.get(at) {
        if let Some((attribute, length)) = attribute(&trees[at..]) {
            let words = attribute.to_string();
            if words.starts_with("doc ") || words.starts_with("doc=") {
                at += length;
                continue;
            }
            item_is_test |= is_about_tests(&words);
        }
        let in_test = is_test || item_is_test;
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                tokens.push(Token { text: open.to_owned(), line, in_test });
                flatten(group.stream(), in_test, tokens);
                tokens.push(Token { text: close.to_owned(), line: group.span_close().start().line, in_test });
                item_is_test &= group.delimiter() != Delimiter::Brace;
            }
            other => {
                let text = other.to_string();
                item_is_test &= text != ";";
                tokens.push(Token { text, line, in_test });
            }
        }
        at += 1;
    }
}

/// The content of the attribute that begins here, and how many trees it takes.
fn attribute(trees: &[TokenTree]) -> Option<(TokenStream, usize)> {
    let is_punct =
        |tree: &TokenTree, wanted| matches!(tree, TokenTree::Punct(punct) if punct.as_char() == wanted);
    let (first, rest) = trees.split_first()?;
    if !is_punct(first, '#') {
        return None;
    }
    let (inner, rest) = match rest.split_first()? {
        (bang, rest) if is_punct(bang, '!') => (1, rest),
        _ => (0, rest),
    };
    match rest.first()? {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => {
            Some((group.stream(), 2 + inner))
        }
        _ => None,
    }
}

/// `test`, `tokio::test`, `cfg(test)`, `cfg(all(test, ..))`; not `cfg(not(test))` and not `cfg(feature = "test")`.
fn is_about_tests(attribute: &str) -> bool {
    let words: String = attribute.split_whitespace().collect();
    let path = words.split('(').next().unwrap_or_default();
    let is_cfg = matches!(words.as_str(), "cfg(test)") || words.starts_with("cfg(all(test");
    path == "test" || path.ends_with("::test") || is_cfg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tests_of(text: &str) -> Vec<(String, bool)> {
        let tokens = read(text, false).expect("it is Rust");
        let words = tokens.into_iter().filter(|token| token.text.starts_with("word"));
        words.map(|token| (token.text, token.in_test)).collect()
    }

    #[test]
    fn what_only_tests_see_is_known() {
        let text = "
            fn word1() {}
            #[cfg(test)]
            #[expect(dead_code)]
            mod tests { fn word2() { word3; } }
            fn word4() {}
            #[cfg(test)] use word5;
            use word6;
            #[tokio::test(flavor = \"current_thread\")] async fn word7() {}
            #[cfg(not(test))] fn word8() {}
            #[test] fn x() -> [u8; 2] { word9 }
            fn word0() {}";
        let seen: Vec<bool> = tests_of(text).into_iter().map(|(_, in_test)| in_test).collect();
        assert_eq!(seen, [false, true, true, false, true, false, true, false, true, false]);
    }

    #[test]
    fn prose_is_not_code() {
        let text = "//! a.unwrap()\n/// b.unwrap()\n// c.unwrap()\n/* d.unwrap() */ #[doc = \"e.unwrap()\"] fn f() {}";
        let tokens = read(text, false).expect("it is Rust");
        assert_eq!(find(&tokens, ". unwrap").count(), 0);
        let tokens = read("fn f() { x.unwrap() }", false).expect("it is Rust");
        assert_eq!(find(&tokens, ". unwrap ( )").count(), 1, "the control");
        let tokens = read("fn f() { \"x.unwrap()\" }", false).expect("it is Rust");
        assert_eq!(find(&tokens, ". unwrap").count(), 0, "a string is one token");
    }

    #[test]
    fn lines_are_counted_and_bad_sources_are_named() {
        let tokens = read("a\n\nb", false).expect("it is Rust");
        assert_eq!(tokens.iter().map(|token| token.line).collect::<Vec<_>>(), [1, 3]);
        assert!(read("fn f( {", false).is_err());
    }
}
