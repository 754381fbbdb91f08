#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (ob_fuzz::find("link_frames").expect("it is a target").run)(data);
});
