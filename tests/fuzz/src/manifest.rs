//! What is in the seals of a manifest: entries with the roots of snapshots, and the nodes of snapshots. The first byte
//! of the input says which.
#![no_main]

use engine::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match input.split_first() {
        Some((0, node)) => fuzzing::snapshot_node(node),
        Some((_, entry)) => fuzzing::manifest_entry(entry),
        None => {}
    }
});
