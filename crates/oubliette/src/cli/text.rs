//! Text for people: safe on a terminal, as wide as there is room, in words.

use ob_core::Timestamp;
use unicode_width::UnicodeWidthChar as _;

/// Takes out of a text of an agent everything that a terminal would obey: escape sequences, control characters other
/// than newline and tab, and the marks that reverse the direction of text.
pub(crate) fn sanitise(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => skip_escape(&mut chars),
            // The one-character forms of CSI and of the string sequences.
            '\u{9b}' => skip_control_sequence(&mut chars),
            '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => skip_string(&mut chars),
            '\n' | '\t' => clean.push(c),
            c if c.is_control() || turns_text(c) => {}
            c => clean.push(c),
        }
    }
    clean
}

/// JSON that says the same and that a terminal does not obey: what JSON itself leaves as it is, such as the one-character
/// forms of escape sequences, is escaped. Such characters only stand in strings.
pub(crate) fn plain_json(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    for c in json.chars() {
        if (c.is_control() && c != '\n') || turns_text(c) {
            // All of them are below U+10000, so one escape is enough.
            plain.extend(["\\u", &format!("{:04x}", u32::from(c))]);
        } else {
            plain.push(c);
        }
    }
    plain
}

/// The marks that reverse the direction of text.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// [Sanitised](sanitise), on one line.
pub(crate) fn one_line(text: &str) -> String {
    sanitise(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn skip_escape(chars: &mut Chars<'_>) {
    match chars.peek() {
        Some('[') => {
            chars.next();
            skip_control_sequence(chars);
        }
        Some(']' | 'P' | 'X' | '^' | '_') => {
            chars.next();
            skip_string(chars);
        }
        Some(c) if (' '..='~').contains(c) => {
            // Two-character sequences, and those with intermediate bytes before the final one.
            while chars.next_if(|c| (' '..='/').contains(c)).is_some() {}
            chars.next_if(|c| ('0'..='~').contains(c));
        }
        _ => {}
    }
}

fn skip_control_sequence(chars: &mut Chars<'_>) {
    while chars.next_if(|c| (' '..='?').contains(c)).is_some() {}
    chars.next_if(|c| ('@'..='~').contains(c));
}

/// Up to BEL or ST, but never past the line: a text must not be able to hide what follows it.
fn skip_string(chars: &mut Chars<'_>) {
    while let Some(c) = chars.next_if(|c| *c != '\n') {
        if c == '\x07' || c == '\u{9c}' || (c == '\x1b' && chars.next_if_eq(&'\\').is_some()) {
            return;
        }
    }
}

/// Columns that a terminal shows a text in. Where terminals differ, as in emoji of several parts, it is the most that
/// any of them takes: a line that is too short is ugly, and one that is too long breaks what is drawn over it.
pub(crate) fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

fn columns_of(c: char) -> usize {
    /// Asks for the wide form of the character before it.
    const WIDE_FORM: char = '\u{fe0f}';
    if c == WIDE_FORM { 1 } else { c.width().unwrap_or(0) }
}

/// Where a text that is wider than so many columns must be cut; nothing if it fits.
fn overflow(text: &str, width: usize) -> Option<usize> {
    let mut used = 0;
    text.char_indices().find_map(|(at, c)| {
        used += columns_of(c);
        (used > width).then_some(at)
    })
}

/// Cuts to so many columns, the last one an ellipsis.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if overflow(text, width).is_none() {
        return text.to_owned();
    }
    let mut cut = text[..overflow(text, width.saturating_sub(1)).unwrap_or(text.len())].to_owned();
    if width > 0 {
        cut.push('…');
    }
    cut
}

/// The first line of a text that is wider than so many columns, broken between words where there are any, and the rest;
/// nothing if it fits. There is always something in the first line, so that who loops comes to an end.
pub(crate) fn broken(text: &str, width: usize) -> Option<(&str, &str)> {
    let cut = overflow(text, width)?;
    let indent = text.len() - text.trim_start_matches(' ').len();
    if let Some(blank) = text[..cut].rfind(' ').filter(|blank| *blank > indent) {
        return Some((text[..blank].trim_end_matches(' '), text[blank..].trim_start_matches(' ')));
    }
    if text[cut..].starts_with(' ') {
        return Some((&text[..cut], text[cut..].trim_start_matches(' ')));
    }
    let least = text.chars().next().map_or(0, char::len_utf8);
    Some(text.split_at(cut.max(least)))
}

/// Tabs as blanks: how wide a tab is depends on where it stands.
pub(crate) fn expand(text: &str) -> String {
    text.replace('\t', "    ")
}

/// A length of time in words: `4s`, `3m 05s`, `2h 07m`, `5d`.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A count in few characters: `950`, `1.2k`, `35k`, `1.2M`.
pub(crate) fn short(count: u64) -> String {
    let (unit, name) = match count {
        0..1000 => return count.to_string(),
        1000..1_000_000 => (1000, "k"),
        _ => (1_000_000, "M"),
    };
    let (whole, tenth) = (count / unit, count % unit * 10 / unit);
    if whole < 10 { format!("{whole}.{tenth}{name}") } else { format!("{whole}{name}") }
}

/// An instant as a column shows it: `2026-11-18 11:06:40Z`.
pub(crate) fn instant(at: Timestamp) -> String {
    let text = at.to_string();
    let seconds = text.get(..19).unwrap_or(&text);
    format!("{}Z", seconds.replace('T', " "))
}

/// `1 file`, `2 files`.
pub(crate) fn plural(count: usize, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// `90s`, `15m`, `12h`, `30d`, `8w` in seconds.
pub(crate) fn parse_duration(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(seconds).filter(|total| *total > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        for (dirty, clean) in [
            ("plain\ttext\nlines", "plain\ttext\nlines"),
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b[?1049h\x1b[2J\x1b[Hgone", "gone"),
            ("\x1b]0;title\x07after", "after"),
            ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1b]52;c;ZXZpbA==\x07x", "x"),
            ("\u{9b}31mred", "red"),
            ("\u{9d}0;title\u{9c}after", "after"),
            ("a\rb\x08c\x07d\x00e\x7f", "abcde"),
            ("\x1b(Bascii\x1b7\x1b8", "ascii"),
            ("\x1b", ""),
            ("\x1b[", ""),
            ("\x1b]never ends\nnext line", "\nnext line"),
            ("user\u{202e}txt.exe", "usertxt.exe"),
            ("naïve — 日本 ✓", "naïve — 日本 ✓"),
        ] {
            assert_eq!(sanitise(dirty), clean, "{dirty:?}");
        }
    }

    #[test]
    fn json_on_a_terminal_is_plain_and_says_the_same() {
        let value = serde_json::json!({ "a": "\u{9b}2J\u{7f}\u{202e}\x1b[31m\u{9d}0;t\u{9c} é 日本 \n" });
        for json in [value.to_string(), serde_json::to_string_pretty(&value).expect("JSON")] {
            let plain = plain_json(&json);
            assert!(!plain.chars().any(|c| (c.is_control() && c != '\n') || turns_text(c)), "{plain:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&plain).expect("JSON"), value);
            assert!(plain.contains("é 日本"), "what is harmless stays readable: {plain}");
        }
    }

    #[test]
    fn no_mixture_of_parts_gets_an_escape_through() {
        let parts =
            ["\x1b", "[", "]", "31", "m", "\x07", "\u{9b}", "\n", "a", "\\", "P", ";", "\r", "\u{202e}", " "];
        for a in parts {
            for b in parts {
                for c in parts {
                    for d in parts {
                        let clean = sanitise(&[a, b, c, d].concat());
                        assert!(clean.chars().all(|x| x == '\n' || !x.is_control()), "{a:?}{b:?}{c:?}{d:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn text_is_cut_and_broken_by_the_columns_that_it_takes() {
        assert_eq!(
            (columns("naïve"), columns("日本"), columns("e\u{301}"), columns("❤\u{fe0f}")),
            (5, 4, 1, 2)
        );
        assert_eq!((cut("日本語", 6).as_str(), cut("日本語", 5).as_str()), ("日本語", "日本…"));
        assert_eq!((cut("abc", 2).as_str(), cut("abc", 0).as_str()), ("a…", ""));
        assert_eq!(broken("one two", 7), None);
        assert_eq!(broken("one two", 6), Some(("one", "two")));
        assert_eq!(broken("one  two", 3), Some(("one", "two")));
        assert_eq!(broken("  abcdef", 4), Some(("  ab", "cdef")), "an indent alone is no line");
        assert_eq!(broken("日本語", 1), Some(("日", "本語")), "something is always taken");
    }

    proptest::proptest! {
        /// However it is broken: no line is too wide, unless one character is, and no word is lost.
        #[test]
        fn breaking_loses_nothing_and_fits(text in "[a-c 日é❤\u{fe0f}]{0,60}", width in 2usize..20) {
            let (mut rest, mut lines) = (text.as_str(), Vec::new());
            while let Some((line, more)) = broken(rest, width) {
                proptest::prop_assert!(more.len() < rest.len());
                lines.push(line);
                rest = more;
            }
            lines.push(rest);
            proptest::prop_assert!(lines.iter().all(|line| columns(line) <= width), "{lines:?}");
            let letters = |text: &str| text.replace(' ', "");
            proptest::prop_assert_eq!(letters(&lines.concat()), letters(&text));
            proptest::prop_assert!(columns(&cut(&text, width)) <= width);
        }
    }

    #[test]
    fn times_and_counts_in_words() {
        assert_eq!(
            ["4s", "3m 05s", "2h 07m", "5d"],
            [4, 185, 7620, 432_001].map(duration).each_ref().map(String::as_str)
        );
        assert_eq!(instant(Timestamp::from_micros(1_795_000_000_000_000)), "2026-11-18 11:06:40Z");
        assert_eq!((plural(1, "file"), plural(0, "file")), ("1 file".into(), "0 files".into()));
        let shorts = [(999, "999"), (1000, "1.0k"), (1299, "1.2k"), (35_999, "35k"), (1_250_000, "1.2M")];
        for (count, shown) in shorts {
            assert_eq!(short(count), shown);
        }
    }

    #[test]
    fn durations_have_a_unit_and_an_end() {
        assert_eq!(parse_duration("30d"), Some(2_592_000));
        assert_eq!(parse_duration("90s"), Some(90));
        for wrong in ["", "d", "30", "0d", "-1d", "1.5h", "30 d", "99999999999999999999d", "3é"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }
}
