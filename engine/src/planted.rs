//! Bugs planted on purpose, one at a time, to show that the simulation finds them. Without the feature
//! `planted-bugs`, which only that test builds with, `planted` is `false` and every hook compiles to nothing.

/// The bugs, each with the place of its hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlantedBug {
    /// `shard/mod.rs`: the RAM tier answers below the first LSN that a branch can show.
    RamBelowHorizon,
    /// `shard/mod.rs`: the RAM tier takes a page for current at later LSNs than it was read at.
    RamAboveRead,
    /// `shard/read_path.rs`: layers that overlap in time are not compared, the first one wins.
    LayersNotCompared,
    /// `shard/local_event.rs`: one of the readers that wait for the same bytes is never woken.
    WaiterForgotten,
    /// `shard/fetch.rs`: a fetch that failed stays in the single-flight table.
    FailedFlightKept,
    /// `shard/fetch.rs`: an extent that could not be written to its slot counts as filled.
    FailedFillCounts,
    /// `shard/fetch.rs`: read-ahead asks for the extents after the wrong one.
    ReadAheadRange,
    /// `catalog/branch_writer.rs`: a commit does not look whether the uploads succeeded.
    CommitWithoutUploads,
    /// `shard/delta_chain.rs`: the oldest delta is left out.
    DeltaSkipped,
    /// `shard/delta_chain.rs`: the newest delta is applied twice.
    DeltaTwice,
    /// `shard/delta_chain.rs`: deltas are applied in the order in which they were found.
    DeltasNotSorted,
    /// `store/reliable.rs`: deadlines are not kept.
    DeadlineForgotten,
    /// `manifest/log.rs`: a name that is taken counts as taken by ourselves, without a comparison.
    TakenIsOurs,
}

/// All of them.
pub const PLANTED_BUGS: [PlantedBug; 13] = [
    PlantedBug::RamBelowHorizon,
    PlantedBug::RamAboveRead,
    PlantedBug::LayersNotCompared,
    PlantedBug::WaiterForgotten,
    PlantedBug::FailedFlightKept,
    PlantedBug::FailedFillCounts,
    PlantedBug::ReadAheadRange,
    PlantedBug::CommitWithoutUploads,
    PlantedBug::DeltaSkipped,
    PlantedBug::DeltaTwice,
    PlantedBug::DeltasNotSorted,
    PlantedBug::DeadlineForgotten,
    PlantedBug::TakenIsOurs,
];

#[cfg(feature = "planted-bugs")]
std::thread_local! {
    static PLANTED: std::cell::Cell<Option<PlantedBug>> = const { std::cell::Cell::new(None) };
}

/// From now on this thread has this bug, or none.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<PlantedBug>) {
    PLANTED.set(bug);
}

/// Whether this thread has the bug.
#[cfg(feature = "planted-bugs")]
pub(crate) fn planted(bug: PlantedBug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Nobody has.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn planted(_: PlantedBug) -> bool {
    false
}
