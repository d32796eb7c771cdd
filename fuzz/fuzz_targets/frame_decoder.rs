#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rpc::fuzzing::frame_decoder(data));
