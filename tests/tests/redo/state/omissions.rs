//! That something was compared says little if it would have been the same without the record. So besides the replay of
//! everything there is one without the records of each kind, which has to come out otherwise.

use postgres::wal::{Proof, Record, RecordKind, WalVersion};

use super::{State, Theirs};
use crate::coverage;

/// Replays of the records that change state: of all of them, and for each kind without its own.
pub(crate) struct Omissions {
    whole: State,
    others: Vec<State>,
}

impl Omissions {
    /// From where `state` begins.
    pub(crate) fn of(state: &State, version: WalVersion) -> Omissions {
        let kinds = RecordKind::all(version).filter(|kind| Omissions::changes_state(kind));
        let without = |kind| State {
            left_out: Some(kind),
            ..state.without_pages()
        };
        Omissions {
            whole: state.without_pages(),
            others: kinds.map(without).collect(),
        }
    }

    fn changes_state(kind: &RecordKind) -> bool {
        kind.proof == Proof::Standby && !coverage::changes_nothing(kind)
    }

    /// Takes a record, if state is what it may change.
    pub(crate) fn observe(&mut self, record: &Record<'_>) {
        let kind = RecordKind::of(record.version, record.manager, record.info);
        if kind.is_some_and(Omissions::changes_state) {
            self.whole.observe(record);
            for state in &mut self.others {
                state.observe(record);
            }
        }
    }

    /// Kinds without whose records the standby's files would be no others.
    ///
    /// # Panics
    /// With all of them they are others.
    pub(crate) fn unnoticed(&self, theirs: &Theirs) -> Vec<&'static RecordKind> {
        let differences = self.whole.compare(theirs).differences;
        assert!(
            differences.is_empty(),
            "of records of state alone: {differences:#?}"
        );
        let others = self.others.iter();
        let unnoticed = others.filter(|state| state.compare(theirs).differences.is_empty());
        unnoticed.filter_map(|state| state.left_out).collect()
    }
}
