//! Every target over its corpus and a bounded number of mutations of it, the same on every run.

use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::path::PathBuf;

use ob_fuzz::TARGETS;
use ob_fuzz::Target;
use ob_fuzz::mutate::Numbers;
use ob_fuzz::mutate::mutate;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two folders below the root")
}

/// The inputs of a target, in one order.
fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = root().join("fuzz/corpus").join(target.name);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read(file).expect("an input"))).collect()
}

/// Runs a target on an input; a promise that it breaks is told with the input, so that it can be kept.
fn tried(target: &Target, input: &[u8], from: &Path) {
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    assert!(
        outcome.is_ok(),
        "{} breaks a promise on a mutation of {}; put this into fuzz/corpus/{}/: {}",
        target.name,
        from.display(),
        target.name,
        input.escape_ascii()
    );
}

fn run(name: &str) {
    let target = ob_fuzz::find(name).expect("it is a target");
    let corpus = corpus(&target);
    assert!(corpus.len() >= 3, "{name} has seeds: {}", corpus.len());
    for (file, input) in &corpus {
        tried(&target, input, file);
    }
    let mut numbers = Numbers::new(0x0b1e_77e5);
    for _ in 0..target.mutations {
        let (file, input) = &corpus[numbers.below(corpus.len())];
        let (_, other) = &corpus[numbers.below(corpus.len())];
        tried(&target, &mutate(input, other, target.words, &mut numbers), file);
    }
}

macro_rules! targets {
    ($($name:ident: $promise:ident,)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        $(#[test]
        fn $promise() {
            run(stringify!($name));
        })*
    };
}

targets! {
    acp: an_agents_words_come_out_the_same_however_they_are_cut,
    configuration: a_mistake_in_a_configuration_has_a_place_and_shows_no_key,
    ids: an_id_has_one_spelling,
    link_frames: a_guest_that_says_anything_ends_every_request,
    link_streams: a_guest_that_cuts_anywhere_loses_and_adds_nothing,
    mcp: a_call_is_taken_as_its_operation_takes_it_or_refused_in_few_words,
    model_request: a_model_request_is_sent_within_our_bounds,
    model_stream: a_providers_stream_is_passed_on_unchanged_however_it_is_cut,
    model_translation: a_translated_stream_is_one_of_its_wire_and_has_an_end,
    redaction: no_secret_passes_redaction,
    request: a_request_is_taken_whole_or_refused_in_few_words,
}

#[test]
fn every_target_has_its_test_its_program_and_its_corpus() {
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).expect("the manifest");
    for target in TARGETS {
        assert!(NAMES.contains(&target.name), "{}", target.name);
        let program = root().join(format!("fuzz/fuzz_targets/{}.rs", target.name));
        let text = fs::read_to_string(&program).expect("its program");
        assert!(text.contains(&format!("\"{}\"", target.name)), "{}", program.display());
        assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
    }
    assert_eq!(NAMES.len(), TARGETS.len());
}
