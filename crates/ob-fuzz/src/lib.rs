//! Fuzz targets: for everything that a stranger may send, a function that takes any bytes and panics if a promise about
//! them is broken. Not only "no panic": what goes in comes out, however it is cut; nothing is held without a bound; no
//! secret passes; a mistake has a place.
//!
//! ```text
//! fuzz/corpus/TARGET/*  --+--> cargo fuzz (make fuzz), for as long as one likes, led by coverage
//!                         +--> the tests of this crate (make test): the corpus and a bounded number of mutations of it
//! ```
//!
//! What a run finds is minimised, mended, and kept in the corpus.

mod acp;
mod configuration;
mod cursors;
mod link;
pub mod mutate;
mod redaction;

/// A target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its corpus and of its program under `fuzz/`.
    pub name: &'static str,
    /// Panics if a promise is broken for these bytes.
    pub run: fn(&[u8]),
    /// Mutations that the tests try: some two seconds in a debug build.
    pub mutations: usize,
    /// Words that its inputs are made of.
    pub words: &'static [&'static str],
}

/// Every target.
pub const TARGETS: [Target; 11] = [
    Target { name: "acp", run: acp::run, mutations: 1500, words: acp::WORDS },
    Target { name: "configuration", run: configuration::run, mutations: 3000, words: configuration::WORDS },
    Target { name: "ids", run: cursors::ids, mutations: 30_000, words: cursors::WORDS },
    Target { name: "link_frames", run: link::frames, mutations: 1500, words: &[] },
    Target { name: "link_streams", run: link::streams, mutations: 800, words: &[] },
    Target {
        name: "mcp",
        run: ob_server::fuzzing::mcp,
        mutations: 6000,
        words: &[
            "\"jsonrpc\"",
            "\"method\"",
            "\"tools/call\"",
            "\"params\"",
            "\"name\"",
            "\"arguments\"",
            "\"action\"",
            "\"session\"",
            "\"events\"",
            "\"since_index\"",
            "\"cursor\"",
            "\"prompt\"",
            "null",
            "0.1-2.3",
        ],
    },
    Target {
        name: "model_request",
        run: ob_gate::fuzzing::model_request,
        mutations: 10_000,
        words: &[
            "\"model\"",
            "\"messages\"",
            "\"input\"",
            "\"contents\"",
            "\"parts\"",
            "\"role\"",
            "\"content\"",
            "\"tools\"",
            "\"type\"",
            "\"stream\"",
            "\"n\"",
            "\"max_tokens\"",
            "\"stream_options\"",
            "null",
        ],
    },
    Target {
        name: "model_stream",
        run: ob_gate::fuzzing::model_stream,
        mutations: 10_000,
        words: &[
            "data: ",
            "data:",
            "\n\n",
            "\r\n\r\n",
            "\r",
            "event: ",
            "[DONE]",
            "\"usage\"",
            "\"choices\"",
            "\u{feff}",
        ],
    },
    Target {
        name: "model_translation",
        run: ob_gate::fuzzing::model_translation,
        mutations: 4000,
        words: &[
            "data: ",
            "\n\n",
            "[DONE]",
            "\"type\":",
            "\"delta\":",
            "\"index\":",
            "\"tool_calls\"",
            "\"functionCall\"",
            "\"response.output_item.added\"",
            "\"content_block_start\"",
            "null",
        ],
    },
    Target { name: "redaction", run: redaction::run, mutations: 1000, words: redaction::WORDS },
    Target { name: "request", run: cursors::request, mutations: 6000, words: cursors::WORDS },
];

/// The target of this name.
pub fn find(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// Takes a target's control bytes off the front of its input; zeroes once there are none.
#[derive(Debug)]
struct Control<'a> {
    rest: &'a [u8],
}

// === impl Control ===

impl<'a> Control<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((first, rest)) => {
                self.rest = rest;
                *first
            }
            None => 0,
        }
    }

    fn is_over(&self) -> bool {
        self.rest.is_empty()
    }
}
