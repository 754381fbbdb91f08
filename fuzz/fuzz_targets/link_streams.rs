#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (ob_fuzz::find("link_streams").expect("it is a target").run)(data);
});
