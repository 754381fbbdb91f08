#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    (ob_fuzz::find("mcp").expect("it is a target").run)(data);
});
