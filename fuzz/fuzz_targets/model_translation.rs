#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (ob_fuzz::find("model_translation").expect("it is a target").run)(data);
});
