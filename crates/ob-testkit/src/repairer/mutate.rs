//! Small changes of one line, the likeliest first: the faults that people make between thinking and typing.

use std::sync::LazyLock;

use regex::Regex;

/// A changed line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mutation {
    /// The whole new line.
    pub(super) line: String,
    /// How unlikely it is; 0 is the likeliest.
    pub(super) cost: usize,
}

/// What is looked for, what it becomes, and how unlikely that is. `$1` stands for the first group.
type Rule = (&'static str, &'static str, usize);

/// Applied to code without its texts and comments, at one place at a time.
const RULES: [Rule; 56] = [
    // Boundaries: one too many or too few.
    (r" <= ", " < ", 0),
    (r" < ", " <= ", 0),
    (r" >= ", " > ", 0),
    (r" > ", " >= ", 0),
    (r"(\w)<(\w)", "$1<=$2", 0),
    (r"(\w)<=(\w)", "$1<$2", 0),
    (r"(\w)>(\w)", "$1>=$2", 0),
    (r"(\w)>=(\w)", "$1>$2", 0),
    (r" -lt ", " -le ", 0),
    (r" -le ", " -lt ", 0),
    (r" -gt ", " -ge ", 0),
    (r" -ge ", " -gt ", 0),
    (r"\.\.=", "..", 1),
    (r"(\w)\.\.(\w)", "$1..=$2", 1),
    (r" ?[-+] ?1\b", "", 1),
    // The opposite.
    (r" \+ ", " - ", 1),
    (r" - ", " + ", 1),
    (r"(\w)\+(\w)", "$1-$2", 1),
    (r"(\w)-(\w)", "$1+$2", 2),
    (r"\+=", "-=", 1),
    (r"-=", "+=", 1),
    (r" == ", " != ", 1),
    (r" != ", " == ", 1),
    (r" -eq ", " -ne ", 1),
    (r" -ne ", " -eq ", 1),
    (r"&&", "||", 1),
    (r"\|\|", "&&", 1),
    (r" and ", " or ", 1),
    (r" or ", " and ", 1),
    (r"\bnot ", "", 1),
    (r"(^|[\s(=])!([\w(])", "$1$2", 1),
    (r"\bmin\b", "max", 1),
    (r"\bmax\b", "min", 1),
    (r" < ", " > ", 2),
    (r" > ", " < ", 2),
    (r" <= ", " >= ", 2),
    (r" >= ", " <= ", 2),
    (r"((?:\w+\.)*\w+)\.is_empty\(\)", "!$1.is_empty()", 2),
    (r"\bis_some\b", "is_none", 2),
    (r"\bis_none\b", "is_some", 2),
    (r"\bany\b", "all", 2),
    (r"\ball\b", "any", 2),
    (r"\bfirst\b", "last", 2),
    (r"\blast\b", "first", 2),
    (r"\btrue\b", "false", 2),
    (r"\bfalse\b", "true", 2),
    (r"\bTrue\b", "False", 2),
    (r"\bFalse\b", "True", 2),
    // The wrong one of two.
    (r" \* ", " + ", 3),
    (r" \* ", " / ", 3),
    (r" / ", " * ", 3),
    (r" % ", " / ", 3),
    (r"\bstart\b", "end", 3),
    (r"\bend\b", "start", 3),
    (r"\bleft\b", "right", 3),
    (r"\bright\b", "left", 3),
];

/// What a change of a number costs.
const NUMBER_COST: usize = 2;

static COMPILED: LazyLock<Vec<(Regex, &'static str, usize)>> = LazyLock::new(|| {
    let compile =
        |(pattern, with, cost): &Rule| (Regex::new(pattern).expect("a constant expression"), *with, *cost);
    RULES.iter().map(compile).collect()
});
static NUMBER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?:^|[^\w.])(\d{1,6})(?:[^\w.]|\.\.|$)").expect("a constant expression"));

/// Every small change of this line of code, the likeliest first.
pub(super) fn mutations(path: &str, line: &str) -> Vec<Mutation> {
    let code = masked(path, line);
    let mut found: Vec<Mutation> = Vec::new();
    let mut add = |line: String, cost: usize| {
        if !found.iter().any(|known| known.line == line) {
            found.push(Mutation { line, cost });
        }
    };
    // A signature is no place of such faults, and generics look like comparisons.
    if code.trim_start().starts_with("#[") || is_declaration(&code) {
        return Vec::new();
    }
    for (pattern, with, cost) in COMPILED.iter() {
        let places: Vec<_> = pattern.captures_iter(&code).collect();
        for place in &places {
            let whole = place.get(0).expect("group 0 is the match");
            // What the mask hid is taken from the line itself.
            let mut new = String::new();
            place.expand(with, &mut new);
            let Some(original) = line.get(whole.range()) else { continue };
            if masked(path, original) == original {
                add(format!("{}{new}{}", &line[..whole.start()], &line[whole.end()..]), *cost);
            }
        }
        if places.len() > 1 && *cost == 0 {
            let everywhere = pattern.replace_all(&code, *with);
            if code == line {
                add(everywhere.into_owned(), 1);
            }
        }
    }
    for number in NUMBER.captures_iter(&code).filter_map(|found| found.get(1)) {
        let Ok(value) = number.as_str().parse::<u32>() else { continue };
        for other in [value.checked_add(1), value.checked_sub(1)].into_iter().flatten() {
            add(format!("{}{other}{}", &line[..number.start()], &line[number.end()..]), NUMBER_COST);
        }
    }
    found.retain(|mutation| mutation.line != line);
    found.sort_by_key(|mutation| mutation.cost);
    found
}

/// The line with texts and comments blanked out, byte for byte as long as before.
pub(super) fn masked(path: &str, line: &str) -> String {
    let hash_comments = path.ends_with(".py") || path.ends_with(".sh") || path.ends_with(".rb");
    let is_rust = path.ends_with(".rs");
    let bytes = line.as_bytes();
    let mut out = bytes.to_vec();
    let mut index = 0;
    while index < bytes.len() {
        let rest = &bytes[index..];
        if rest.starts_with(b"//") && !hash_comments || rest[0] == b'#' && hash_comments {
            out[index..].fill(b' ');
            break;
        }
        let quote = rest[0];
        let is_quote = quote == b'"'
            || quote == b'\'' && (!is_rust || rest.get(2) == Some(&b'\'') || rest.get(1) == Some(&b'\\'));
        if !is_quote {
            index += 1;
            continue;
        }
        let mut end = index + 1;
        while end < bytes.len() && bytes[end] != quote {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        let end = (end + 1).min(bytes.len());
        out[index..end].fill(b' ');
        index = end;
    }
    // Blanks replace whole texts and comments only, so what is left is text.
    String::from_utf8(out).unwrap_or_else(|_| " ".repeat(line.len()))
}

fn is_declaration(code: &str) -> bool {
    let words = code.trim_start();
    [
        "use ", "mod ", "import ", "from ", "#include", "impl ", "impl<", "struct ", "enum ", "trait ",
        "type ", "class ",
    ]
    .iter()
    .any(|start| words.strip_prefix("pub ").unwrap_or(words).starts_with(start))
        || words.contains("fn ") && words.trim_end().ends_with('{')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, line: &str) -> Vec<String> {
        mutations(path, line).into_iter().map(|mutation| mutation.line).collect()
    }

    #[test]
    fn boundaries_come_first() {
        let found = lines("a.rs", "    self.start <= other.end && other.start < self.end");
        assert_eq!(found[0], "    self.start < other.end && other.start < self.end");
        assert_eq!(found[1], "    self.start <= other.end && other.start <= self.end");
        assert!(found.contains(&"    self.start <= other.end || other.start < self.end".to_string()));
    }

    #[test]
    fn the_usual_faults_have_their_repair() {
        for (path, wrong, right) in [
            ("a.c", "    return (i + 1) % size + 1;", "    return (i + 1) % size;"),
            ("a.c", "for (i=0; i<=n; i++)", "for (i=0; i<n; i++)"),
            ("a.py", "    return total - price", "    return total + price"),
            ("a.py", "    return items[1]", "    return items[0]"),
            ("a.py", "    if not done and ready:", "    if done and ready:"),
            ("a.rs", "    for i in 0..=n {", "    for i in 0..n {"),
            ("a.rs", "    a.max(b)", "    a.min(b)"),
            ("a.rs", "    !self.items.is_empty()", "    self.items.is_empty()"),
            ("a.rs", "    self.items.is_empty()", "    !self.items.is_empty()"),
            ("a.rs", "    let found = false;", "    let found = true;"),
            ("a.sh", "  [ \"$1\" -gt 10 ]", "  [ \"$1\" -ge 10 ]"),
            ("a.js", "  return a || b", "  return a && b"),
            ("a.sh", "  echo $(($1 - $2))", "  echo $(($1 + $2))"),
        ] {
            assert!(lines(path, wrong).contains(&right.to_string()), "{wrong}: {:#?}", lines(path, wrong));
        }
    }

    #[test]
    fn texts_comments_and_signatures_are_left_alone() {
        for (path, line) in [
            ("a.rs", "    // a < b && c"),
            ("a.py", "    # a < b and c"),
            ("a.rs", "    say(\"a < b && 1 + 1\")"),
            ("a.rs", "pub fn f(a: Vec<u8>) -> bool {"),
            ("a.rs", "#[expect(x > 1)]"),
            ("a.rs", "use a::min;"),
            ("a.rs", ""),
        ] {
            assert_eq!(lines(path, line), [] as [String; 0], "{line}");
        }
        assert_eq!(masked("a.rs", "x('\"', \"a\\\"b\", 'a) // c"), "x(   ,       , 'a)     ");
        assert_eq!(masked("a.rs", "\"é\" < 1"), "     < 1");
    }
}
