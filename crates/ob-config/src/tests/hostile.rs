//! Whatever a file or a variable says, it is read or refused.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused_and_never_panics(text in "\\PC*") {
        drop(jsonc::parse(&text).map(|node| check::check(&node, "f")));
    }

    #[test]
    fn any_bytes_as_a_file_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let place = Place::new("");
        fs::write(place.dir.path().join("home/config/oubliette.jsonc"), bytes).expect("our own file");
        drop(place.load());
    }

    #[test]
    fn any_yaml_is_read_or_refused(
        words in prop::collection::vec(prop::sample::select(vec![
            "server:", "address:", "runtime:", "memory:", "recursion:", "paths:", "data:", "\n", "\n  ", "\n    ", " ", "- ",
            "[", "]", "{", "}", ",", "\"", "'", "|", ">", "&a", "*a", "!t", "#", "---", "...", "%YAML 9", "4G", "no", "~", "1e999",
            "? ", "<<:", "\t", "\u{85}", "\u{feff}", "é",
        ]), 0..40),
    ) {
        let text = words.concat();
        drop(yaml::parse(&text).map(|node| check::check(&node, "f")));
        drop(yaml::comments(&text));
    }

    /// Something like a configuration, so that the deeper layers are reached.
    #[test]
    fn any_tree_of_known_words_is_read_or_refused(
        words in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"server\"", "\"address\"", "\"models\"", "\"credentials\"", "\"providers\"",
            "\"sandbox\"", "\"memory\"", "\"env\"", "\"a\"", "\"openai\"", "1", "-1", "1e999", "null", "true", "\"\\u0000\"",
            "\"price\"", "\"input\"", "\"default\"", "\"extraHeaders\"", "// x\n",
        ]), 0..60),
    ) {
        let place = Place::new(&format!("{{{}", words.concat()));
        drop(place.load());
    }

    #[test]
    fn any_variable_is_read_or_refused(name in "[A-Z_]{0,30}", value in "\\PC*") {
        drop(Place::new("{}").env(&format!("OUBLIETTE_{name}"), &value.replace('\0', "")).load());
    }

    #[test]
    fn any_value_of_any_key_is_read_or_refused(index in 0usize..100, value in "[0-9a-zA-Z\"{}:,./ -]{0,20}") {
        let mut keys = Vec::new();
        collect_keys(ROOT, String::new(), &mut keys);
        let key = &keys[index % keys.len()];
        let name = format!("OUBLIETTE_{}", key.replace('.', "__").replace('*', "x").to_uppercase());
        drop(Place::new("{}").env(&name, &value).load());
    }
}
