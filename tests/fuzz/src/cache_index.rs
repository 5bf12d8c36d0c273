//! A cache's index: its header and a block of its table, their checksums set right.
#![no_main]

use engine::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|blocks: &[u8]| fuzzing::cache_index(blocks));
