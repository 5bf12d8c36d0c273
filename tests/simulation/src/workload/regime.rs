//! Which faults are on during an episode, drawn from the seed, and which errors they excuse.
//!
//! - a value is right or it is a failure of the run: there is no excuse for a wrong page;
//! - `NotFound`, `Gone`, `NotYet` must be what the model says;
//! - `Unavailable` is allowed only while the store or the key service has faults, or objects are damaged: **faults of
//!   the disk alone never make a read fail**;
//! - `Corrupt` is allowed only while objects are damaged, the network spoils bodies (the engine fetches what does not
//!   open once more, so twice in a row is needed), or the key service gives wrong keys.

use engine::ErrorKind;

use crate::disk::DiskFaults;
use crate::key_source::KeyFaults;
use crate::rng::{PerMille, Rng};
use crate::store::StoreFaults;

/// Which faults are on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Regime {
    pub(super) disk: DiskFaults,
    pub(super) store: StoreFaults,
    pub(super) store_away: bool,
    pub(super) keys: KeyFaults,
    pub(super) keys_away: bool,
    pub(super) damaged: bool,
}

impl Regime {
    pub(super) fn draw(rng: &mut Rng) -> Regime {
        let mut regime = Regime::default();
        match rng.below(10) {
            0 => {}
            1 | 2 => regime.disk = draw_disk(rng),
            3 | 4 => regime.store = draw_store(rng),
            5 => {
                regime.disk = draw_disk(rng);
                regime.store = draw_store(rng);
            }
            6 => {
                regime.damaged = true;
                regime.disk = draw_disk(rng);
            }
            7 | 8 => {
                regime.keys = draw_keys(rng);
                if rng.chance(300) {
                    regime.disk = draw_disk(rng);
                }
            }
            _ => {
                regime.keys_away = rng.chance(500);
                regime.store_away = !regime.keys_away || rng.chance(300);
            }
        }
        regime
    }

    /// Whether a read may fail like this.
    pub(super) fn allows(&self, kind: ErrorKind) -> bool {
        let spoiled = self.store.body_flip > 0 || self.store.body_wrong > 0;
        match kind {
            ErrorKind::Unavailable => {
                self.store != StoreFaults::default()
                    || self.store_away
                    || self.keys != KeyFaults::default()
                    || self.keys_away
                    || self.damaged
            }
            ErrorKind::Corrupt => self.damaged || spoiled || self.keys.wrong > 0,
            ErrorKind::NotFound | ErrorKind::Gone | ErrorKind::NotYet | ErrorKind::Refused => false,
        }
    }

    /// Whether looking something up, or writing it, may fail.
    pub(super) fn allows_failures(&self) -> bool {
        self.allows(ErrorKind::Unavailable) || self.allows(ErrorKind::Corrupt)
    }
}

/// How often a fault happens to what is done all the time.
fn draw_chance(rng: &mut Rng) -> PerMille {
    draw_between(rng, 5, 80)
}

/// The same, for what meets some phases rarely.
fn draw_higher(rng: &mut Rng) -> PerMille {
    draw_between(rng, 20, 200)
}

/// How often a fault happens to what is done now and then.
fn draw_often(rng: &mut Rng) -> PerMille {
    draw_between(rng, 100, 700)
}

fn draw_between(rng: &mut Rng, least: PerMille, most: PerMille) -> PerMille {
    let on = rng.chance(500);
    let chance = rng.between(u64::from(least), u64::from(most));
    if on {
        u16::try_from(chance).expect("between two of these")
    } else {
        0
    }
}

fn draw_disk(rng: &mut Rng) -> DiskFaults {
    DiskFaults {
        read_error: draw_higher(rng),
        read_short: draw_higher(rng),
        read_misdirected: draw_higher(rng),
        read_flip: draw_higher(rng),
        read_slow: draw_higher(rng),
        write_error: draw_chance(rng),
        write_short: draw_chance(rng),
        write_lost: draw_chance(rng),
        write_misdirected: draw_chance(rng),
        sync_error: draw_chance(rng),
        sync_lie: draw_chance(rng),
        open_error: draw_often(rng),
    }
}

fn draw_store(rng: &mut Rng) -> StoreFaults {
    StoreFaults {
        get_error: draw_chance(rng),
        get_vanished: draw_chance(rng),
        get_slow: draw_chance(rng),
        body_error: draw_chance(rng),
        body_short: draw_chance(rng),
        body_stalled: draw_chance(rng),
        body_flip: draw_chance(rng),
        body_wrong: draw_chance(rng),
        put_refused: draw_higher(rng),
        put_doubtful: draw_higher(rng),
        put_late: draw_higher(rng),
        put_vanished: draw_higher(rng),
        list_error: draw_often(rng),
        delete_error: draw_often(rng),
    }
}

/// One kind at a time, so that none hides the others, and often: a process calls the key service but once, if it is
/// answered.
fn draw_keys(rng: &mut Rng) -> KeyFaults {
    let chance = u16::try_from(rng.between(400, 900)).expect("a number of thousandths");
    let mut faults = KeyFaults::default();
    match rng.below(3) {
        0 => faults.transient = chance,
        1 => faults.refused = chance,
        _ => faults.wrong = chance,
    }
    faults
}
