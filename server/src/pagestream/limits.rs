//! Bounds on what clients may hold: connections, counted for the whole server when they come and go; and requests being
//! read, counted on each core for itself, so that the hot path shares no counter. What is above a bound on requests waits
//! in the client's own socket; what is above a bound on connections is refused.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use engine::types::TenantId;

/// Connections of the whole server. Locked at connect and disconnect only.
#[derive(Debug)]
pub struct ConnectionLimits {
    total_max: u32,
    per_tenant_max: u32,
    counts: Mutex<ConnectionCounts>,
}

#[derive(Debug, Default)]
struct ConnectionCounts {
    total: u32,
    per_tenant: HashMap<TenantId, u32>,
}

impl ConnectionLimits {
    /// No connections yet.
    pub fn new(total_max: u32, per_tenant_max: u32) -> Arc<ConnectionLimits> {
        Arc::new(ConnectionLimits {
            total_max,
            per_tenant_max,
            counts: Mutex::default(),
        })
    }

    /// Counts a new connection, or `None` if there are too many.
    pub fn admit(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.total >= self.total_max {
            return None;
        }
        counts.total += 1;
        Some(ConnectionPermit {
            limits: Arc::clone(self),
            tenant: None,
        })
    }

    /// Connections there are.
    pub fn total(&self) -> u32 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total
    }
}

/// The place of one connection; given back on drop.
#[derive(Debug)]
pub struct ConnectionPermit {
    limits: Arc<ConnectionLimits>,
    tenant: Option<TenantId>,
}

impl ConnectionPermit {
    /// Counts the connection for `tenant` (and no longer for the one before); false if that tenant has too many.
    pub fn move_to_tenant(&mut self, tenant: TenantId) -> bool {
        if self.tenant == Some(tenant) {
            return true;
        }
        let mut counts = self
            .limits
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = counts.per_tenant.entry(tenant).or_default();
        if *count >= self.limits.per_tenant_max {
            return false;
        }
        *count += 1;
        counts.leave(self.tenant.replace(tenant));
        true
    }
}

impl ConnectionCounts {
    fn leave(&mut self, tenant: Option<TenantId>) {
        let Some(tenant) = tenant else { return };
        let count = self
            .per_tenant
            .get_mut(&tenant)
            .expect("a permit was counted for its tenant");
        *count -= 1;
        if *count == 0 {
            self.per_tenant.remove(&tenant);
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut counts = self
            .limits
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        counts.leave(self.tenant);
    }
}

/// Requests being read on one core.
#[derive(Debug)]
pub struct RequestLimits {
    per_core_max: u32,
    per_tenant_max: u32,
    in_flight: Cell<u32>,
    /// Only tenants that have connections here.
    tenants: RefCell<HashMap<TenantId, Rc<Cell<u32>>>>,
    /// Connections that found no room; at most one waker of each.
    waiting: RefCell<VecDeque<Waker>>,
}

impl RequestLimits {
    /// Nothing in flight.
    pub fn new(per_core_max: u32, per_tenant_max: u32) -> Rc<RequestLimits> {
        Rc::new(RequestLimits {
            per_core_max,
            per_tenant_max,
            in_flight: Cell::new(0),
            tenants: RefCell::default(),
            waiting: RefCell::default(),
        })
    }

    /// What one connection of `tenant` takes its places from.
    pub fn share(self: &Rc<Self>, tenant: TenantId) -> RequestShare {
        let in_tenant = Rc::clone(self.tenants.borrow_mut().entry(tenant).or_default());
        RequestShare {
            limits: Rc::clone(self),
            tenant,
            in_tenant,
            held: 0,
        }
    }

    fn wake_all(&self) {
        for waker in self.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }
}

/// The places that one connection holds; given back on drop.
#[derive(Debug)]
pub struct RequestShare {
    limits: Rc<RequestLimits>,
    tenant: TenantId,
    in_tenant: Rc<Cell<u32>>,
    held: u32,
}

impl RequestShare {
    /// Whether a place is free for this connection.
    pub fn has_room(&self) -> bool {
        self.limits.in_flight.get() < self.limits.per_core_max
            && self.in_tenant.get() < self.limits.per_tenant_max
    }

    /// Takes a place.
    /// # Panics
    /// If there is no room.
    pub fn take(&mut self) {
        assert!(self.has_room(), "a place is taken only where there is room");
        self.held += 1;
        self.limits.in_flight.set(self.limits.in_flight.get() + 1);
        self.in_tenant.set(self.in_tenant.get() + 1);
    }

    /// Gives one place back.
    pub fn give_back(&mut self) {
        self.held = self.held.checked_sub(1).expect("a place was taken");
        self.release(1);
    }

    /// Completes once there is room, for a connection that has nothing in flight to wait for.
    pub async fn room(&self) {
        let mut registered = false;
        poll_fn(|cx| {
            if self.has_room() {
                return Poll::Ready(());
            }
            let mut waiting = self.limits.waiting.borrow_mut();
            if !registered || !waiting.iter().any(|w| w.will_wake(cx.waker())) {
                waiting.push_back(cx.waker().clone());
                registered = true;
            }
            Poll::Pending
        })
        .await;
    }

    fn release(&self, count: u32) {
        self.limits
            .in_flight
            .set(self.limits.in_flight.get() - count);
        self.in_tenant.set(self.in_tenant.get() - count);
        if !self.limits.waiting.borrow().is_empty() {
            self.limits.wake_all();
        }
    }
}

impl Drop for RequestShare {
    fn drop(&mut self) {
        self.release(self.held);
        // One count is ours and one the table's: nobody else has this tenant open.
        if Rc::strong_count(&self.in_tenant) == 2 {
            self.limits.tenants.borrow_mut().remove(&self.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use engine::types::Id;
    use futures_util::task::noop_waker;

    use super::*;

    fn tenant(number: u8) -> TenantId {
        TenantId(Id([number; 16]))
    }

    #[test]
    fn connections_are_bounded_in_all_and_per_tenant() {
        let limits = ConnectionLimits::new(3, 1);
        let mut first = limits.admit().expect("room");
        let mut second = limits.admit().expect("room");
        let third = limits.admit().expect("room");
        assert!(limits.admit().is_none());
        assert!(first.move_to_tenant(tenant(1)));
        assert!(first.move_to_tenant(tenant(1)));
        assert!(!second.move_to_tenant(tenant(1)));
        assert!(second.move_to_tenant(tenant(2)));
        assert!(!second.move_to_tenant(tenant(1)));
        drop(first);
        assert!(second.move_to_tenant(tenant(1)));
        drop((second, third));
        assert_eq!(limits.total(), 0);
        let counts = limits.counts.lock().expect("nobody panicked");
        assert!(counts.per_tenant.is_empty());
    }

    #[test]
    fn requests_wait_for_room_of_their_tenant_and_core() {
        let limits = RequestLimits::new(3, 2);
        let mut one = limits.share(tenant(1));
        let mut other = limits.share(tenant(2));
        one.take();
        one.take();
        assert!(!one.has_room());
        other.take();
        assert!(!other.has_room());
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        {
            let mut room = pin!(other.room());
            assert!(room.as_mut().poll(&mut cx).is_pending());
            assert_eq!(limits.waiting.borrow().len(), 1);
            one.give_back();
            assert!(room.as_mut().poll(&mut cx).is_ready());
        }
        assert!(limits.waiting.borrow().is_empty());
        drop(one);
        assert_eq!(limits.in_flight.get(), 1);
        assert_eq!(limits.tenants.borrow().len(), 1);
        drop(other);
        assert_eq!(limits.in_flight.get(), 0);
        assert!(limits.tenants.borrow().is_empty());
    }
}
