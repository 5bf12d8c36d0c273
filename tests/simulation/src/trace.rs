//! What happened in a run, in order. Two runs are the same exactly if their traces are.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Write};
use std::rc::Rc;

/// The trace of one run: always a hash, the text only where it is asked for. Clones share it.
#[derive(Clone)]
pub struct Trace(Rc<Inner>);

struct Inner {
    hash: Cell<u64>,
    events: Cell<u64>,
    line: RefCell<String>,
    text: Option<RefCell<Vec<String>>>,
}

impl Trace {
    /// An empty trace; with `text` it keeps the last `LINES_MAX` events as lines.
    pub fn new(text: bool) -> Trace {
        Trace(Rc::new(Inner {
            hash: Cell::new(FNV_START),
            events: Cell::new(0),
            line: RefCell::default(),
            text: text.then(RefCell::default),
        }))
    }

    /// Notes an event.
    pub fn event(&self, at_ns: u64, what: fmt::Arguments<'_>) {
        let mut line = self.0.line.borrow_mut();
        line.clear();
        write!(line, "{at_ns:>12} {what}").expect("writing to a string does not fail");
        self.0.hash.set(fnv1a(self.0.hash.get(), line.as_bytes()));
        self.0.events.set(self.0.events.get() + 1);
        if let Some(text) = &self.0.text {
            let mut text = text.borrow_mut();
            if text.len() == LINES_MAX {
                text.drain(..LINES_MAX / 2);
            }
            text.push(line.clone());
        }
    }

    /// Hash over all events so far.
    pub fn hash(&self) -> u64 {
        self.0.hash.get()
    }

    /// Number of events so far.
    pub fn events(&self) -> u64 {
        self.0.events.get()
    }

    /// The last lines, if text is kept.
    pub fn lines(&self) -> Vec<String> {
        self.0
            .text
            .as_ref()
            .map(|text| text.borrow().clone())
            .unwrap_or_default()
    }
}

/// FNV-1a, 64 bits: stable between versions of the standard library, which its hashers are not.
pub fn fnv1a(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// FNV's start value.
pub const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// Lines of text kept: the older half is dropped when it is full.
const LINES_MAX: usize = 200_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_every_event_and_their_order() {
        let hash = |events: &[(u64, &str)]| {
            let trace = Trace::new(false);
            events
                .iter()
                .for_each(|(at, what)| trace.event(*at, format_args!("{what}")));
            trace.hash()
        };
        let base = hash(&[(1, "a"), (2, "b")]);
        assert_eq!(base, hash(&[(1, "a"), (2, "b")]));
        assert_ne!(base, hash(&[(2, "b"), (1, "a")]));
        assert_ne!(base, hash(&[(1, "a"), (3, "b")]));
        assert_ne!(base, hash(&[(1, "a")]));
    }
}
