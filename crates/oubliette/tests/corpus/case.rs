//! What a case of the corpus is: an attempt, and the same attempt where nothing stops it.

use crate::batch::Batch;
use crate::place::Place;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// It worked, and this is what it got.
    Got(String),
    /// It was stopped, and this is how.
    Held(String),
    /// This machine has nothing to try it on.
    Missing(String),
}

/// One attempt of the attack program.
pub(crate) type Attempt = fn(&Place) -> Verdict;

/// One attempt against a part of ours, told its id.
pub(crate) type Tried = fn(&str) -> Verdict;

/// One attempt against the running program, told its id.
pub(crate) type Watched = fn(&Batch, &str) -> Verdict;

/// Where the attack program is run for the control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// On the host, as the very uid that the sandbox has there.
    SameUser,
    /// On the host, as root in mount, name and IPC namespaces of its own, which have no policy.
    Root,
    /// In an empty network namespace where somebody listens at the addresses.
    Network,
    /// Against servers that believe what they are told, and relay it as it is.
    Naive,
}

/// How a case is tried.
#[derive(Clone, Copy)]
pub(crate) enum How {
    /// By the attack program in the sandbox of a real session, and by the same program where `Control` says.
    Inside(Attempt, Control),
    /// Against a part of ours on the host; then against a part that lacks the protection.
    Part(Tried, Tried),
    /// Against the running program, as an operator sees it; then what the same would do without the protection.
    Seen(Watched, Watched),
}

/// One line of the corpus.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// `class.name`.
    pub(crate) id: &'static str,
    /// What it tries.
    pub(crate) tries: &'static str,
    /// What it would show if it worked.
    pub(crate) shows: &'static str,
    /// How it is shown to be possible.
    pub(crate) control: &'static str,
    /// How it is tried.
    pub(crate) how: How,
    /// What not every machine has; without it there is no control.
    pub(crate) needs: Option<&'static str>,
}

// === impl Verdict ===

impl Verdict {
    /// For people, on one line.
    pub(crate) fn words(&self) -> String {
        let (Self::Got(text) | Self::Held(text) | Self::Missing(text)) = self;
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect()
    }
}

// === impl Control ===

impl Control {
    const fn words(self) -> &'static str {
        match self {
            Self::SameUser => "the same program on the host, as the sandbox's uid",
            Self::Root => "the same program on the host, as root in namespaces without policy",
            Self::Network => "the same program in a network namespace where the address exists",
            Self::Naive => "the same bytes to a gate that relays what it gets",
        }
    }
}

// === impl Case ===

impl Case {
    /// A case for the attack program.
    pub(crate) const fn inside(
        id: &'static str,
        tries: &'static str,
        shows: &'static str,
        control: Control,
        attempt: Attempt,
    ) -> Self {
        Self { id, tries, shows, control: control.words(), how: How::Inside(attempt, control), needs: None }
    }

    /// A case against a part of ours, and against a part without its protection.
    pub(crate) const fn part(
        id: &'static str,
        tries: &'static str,
        shows: &'static str,
        control: &'static str,
        attempt: Tried,
        naive: Tried,
    ) -> Self {
        Self { id, tries, shows, control, how: How::Part(attempt, naive), needs: None }
    }

    /// A case against the running program.
    pub(crate) const fn seen(
        id: &'static str,
        tries: &'static str,
        shows: &'static str,
        control: &'static str,
        attempt: Watched,
        naive: Watched,
    ) -> Self {
        Self { id, tries, shows, control, how: How::Seen(attempt, naive), needs: None }
    }

    /// The control can only be made on a machine that has this.
    pub(crate) const fn needs(self, what: &'static str) -> Self {
        Self { needs: Some(what), ..self }
    }

    /// What is tried on: the part of the id before the dot.
    pub(crate) fn class(&self) -> &'static str {
        self.id.split_once('.').map_or(self.id, |(class, _)| class)
    }
}
