//! A segment of the local WAL: its header, what is in the header's seal, and the header of a frame, checksums set right.
#![no_main]

use engine::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|segment: &[u8]| fuzzing::wal_segment(segment));
