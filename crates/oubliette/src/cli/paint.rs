//! Colours, and when there are any.
//!
//! `--color` decides, then `NO_COLOR`, then `CLICOLOR_FORCE`, then `CLICOLOR=0`, and then what the text goes to: in
//! colour are terminals that do not call themselves dumb.

use clap::ColorChoice;

use super::Context;

/// Colours for one stream of text, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint(pub(crate) bool);

/// What a text is meant to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ink {
    /// As everything else.
    Plain,
    /// What is said by the way.
    Dim,
    /// A heading, or what a person said.
    Bold,
    /// What is wrong, or gone.
    Red,
    /// What is right, or new.
    Green,
    /// What to look at, or to do.
    Yellow,
    /// Where something is.
    Cyan,
}

// === impl Paint ===

impl Paint {
    /// Whether text is in colour that goes to a terminal, or not.
    pub(crate) fn of(context: &Context, choice: ColorChoice, is_terminal: bool) -> Self {
        let is_on = |name: &str| context.var(name).is_some_and(|value| value != "0");
        Self(match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto if context.var("NO_COLOR").is_some() => false,
            ColorChoice::Auto if is_on("CLICOLOR_FORCE") => true,
            ColorChoice::Auto if context.var("CLICOLOR") == Some("0") => false,
            ColorChoice::Auto => is_terminal && context.var("TERM") != Some("dumb"),
        })
    }

    /// The text in this ink. It must be safe already: what an agent wrote is sanitised first.
    pub(crate) fn text(self, ink: Ink, text: &str) -> String {
        match ink.code() {
            Some(code) if self.0 && !text.is_empty() => format!("{code}{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

// === impl Ink ===

impl Ink {
    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Dim => Some("\x1b[2m"),
            Self::Bold => Some("\x1b[1m"),
            Self::Red => Some("\x1b[31m"),
            Self::Green => Some("\x1b[32m"),
            Self::Yellow => Some("\x1b[33m"),
            Self::Cyan => Some("\x1b[36m"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(variables: &[(&str, &str)]) -> Context {
        let env = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Context { argv: Vec::new(), env, cwd: "/".into() }
    }

    /// Who wins, from the strongest to the weakest: each row is one rule over all below it.
    #[test]
    fn colours_follow_the_option_the_variables_and_the_terminal() {
        use ColorChoice::Always;
        use ColorChoice::Auto;
        use ColorChoice::Never;
        for (choice, variables, on_terminal, in_pipe) in [
            (Auto, &[][..], true, false),
            (Auto, &[("TERM", "xterm")], true, false),
            (Auto, &[("TERM", "dumb")], false, false),
            (Auto, &[("CLICOLOR", "0")], false, false),
            (Auto, &[("CLICOLOR", "1")], true, false),
            (Auto, &[("CLICOLOR_FORCE", "1")], true, true),
            (Auto, &[("CLICOLOR_FORCE", "1"), ("CLICOLOR", "0")], true, true),
            (Auto, &[("CLICOLOR_FORCE", "1"), ("TERM", "dumb")], true, true),
            (Auto, &[("CLICOLOR_FORCE", "0")], true, false),
            (Auto, &[("CLICOLOR_FORCE", "")], true, false),
            (Auto, &[("NO_COLOR", "1")], false, false),
            (Auto, &[("NO_COLOR", "")], true, false),
            (Auto, &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], false, false),
            (Always, &[("NO_COLOR", "1"), ("TERM", "dumb")], true, true),
            (Never, &[("CLICOLOR_FORCE", "1")], false, false),
        ] {
            let context = context(variables);
            let of = |is_terminal| Paint::of(&context, choice, is_terminal).0;
            assert_eq!((of(true), of(false)), (on_terminal, in_pipe), "{choice:?} {variables:?}");
        }
    }

    #[test]
    fn without_colours_text_is_as_it_was() {
        assert_eq!(Paint(false).text(Ink::Red, "x"), "x");
        assert_eq!(Paint(true).text(Ink::Red, "x"), "\x1b[31mx\x1b[0m");
        assert_eq!(
            (Paint(true).text(Ink::Plain, "x"), Paint(true).text(Ink::Red, "")),
            ("x".into(), "".into())
        );
    }
}
