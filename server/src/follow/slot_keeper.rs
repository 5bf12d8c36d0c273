//! Moves the primary's slot to what is durable in the object store: WAL that the primary may remove is never needed again.
//!
//! A thread of its own with a connection of its own, since the stream uses no slot: a slot that is streamed from follows
//! what is acknowledged, and that may be durable on the local disk only.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::types::Lsn;
use postgres::replication::{Connection, ConnectionSettings, SlotError, SlotName, advance_slot};

/// The way to the thread; it ends when this is dropped.
pub(super) struct SlotKeeper {
    shared: Arc<Shared>,
    /// Nothing is sent: the thread hears that this end is gone.
    _alive: SyncSender<()>,
}

#[derive(Default)]
struct Shared {
    positions: Mutex<Positions>,
}

#[derive(Default, Clone, Copy)]
struct Positions {
    wanted: Lsn,
    reached: Lsn,
}

impl SlotKeeper {
    /// Starts it.
    pub(super) fn start(
        settings: ConnectionSettings,
        slot: SlotName,
    ) -> std::io::Result<SlotKeeper> {
        let shared: Arc<Shared> = Arc::default();
        let (alive, ended) = sync_channel(0);
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("slot".to_owned())
            .spawn(move || run(&theirs, &ended, &settings, &slot))?;
        Ok(SlotKeeper {
            shared,
            _alive: alive,
        })
    }

    /// Everything before `lsn` is durable in the object store.
    pub(super) fn advance(&self, lsn: Lsn) {
        self.shared.positions().wanted = lsn;
    }

    /// Where the slot was put last; [`Lsn::INVALID`] before the first time.
    pub(super) fn position(&self) -> Lsn {
        self.shared.positions().reached
    }
}

impl Shared {
    fn positions(&self) -> std::sync::MutexGuard<'_, Positions> {
        self.positions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(shared: &Shared, ended: &Receiver<()>, settings: &ConnectionSettings, slot: &SlotName) {
    let mut connection = None;
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(PAUSE) {
        let positions = *shared.positions();
        if positions.wanted <= positions.reached {
            continue;
        }
        match advance(&mut connection, settings, slot, positions.wanted) {
            Ok(reached) => shared.positions().reached = reached,
            Err(error) => {
                connection = None;
                tracing::warn!(%slot, %error, "the primary's slot was not moved");
            }
        }
    }
}

fn advance(
    connection: &mut Option<Connection>,
    settings: &ConnectionSettings,
    slot: &SlotName,
    wanted: Lsn,
) -> Result<Lsn, SlotError> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open_database(settings).map_err(SlotError::from)?,
    };
    let moved = match advance_slot(&mut open, slot, wanted) {
        // It was there before us.
        Err(SlotError::Ahead { at, .. }) => Ok(at),
        other => other,
    };
    *connection = Some(open);
    moved
}

/// Pause between two moves.
const PAUSE: Duration = Duration::from_secs(2);
