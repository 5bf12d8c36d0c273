//! Bounds on what clients may hold: connections, counted for the whole server when they come and go; and requests being
//! read, counted on each core for itself, so that the hot path shares no counter. What is above a bound on requests waits
//! in the client's own socket, connection by connection in turn; what is above a bound on connections is refused.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

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
///
/// Places that come free go to connections that wait, first come first served, before anybody else: a connection that is
/// never short of requests can't keep another one out. Who waits for room of its tenant holds up no other tenant.
#[derive(Debug)]
pub struct RequestLimits {
    per_core_max: u32,
    per_tenant_max: u32,
    in_flight: Cell<u32>,
    /// Only tenants that have connections here.
    tenants: RefCell<HashMap<TenantId, Rc<TenantRequests>>>,
    /// Connections with room in their tenant and none on the core. Not empty only while the core is full.
    waiting: RefCell<VecDeque<Waiting>>,
}

/// One tenant's requests on this core.
#[derive(Debug, Default)]
struct TenantRequests {
    connections: Cell<u32>,
    in_flight: Cell<u32>,
    /// Connections of it in [`RequestLimits::waiting`]: the places that they will take are kept for them.
    waiting_for_core: Cell<u32>,
    /// Connections that the tenant has no room for.
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
}

#[derive(Debug)]
struct Waiting {
    tenant: Rc<TenantRequests>,
    waiter: Rc<Waiter>,
}

/// A connection that waits; it is in one queue until it has its place. So the queues are bounded by the connections.
#[derive(Debug, Default)]
struct Waiter {
    /// A place was taken for it.
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
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
        let requests = Rc::clone(self.tenants.borrow_mut().entry(tenant).or_default());
        requests.connections.set(requests.connections.get() + 1);
        RequestShare {
            limits: Rc::clone(self),
            id: tenant,
            tenant: requests,
            held: 0,
            waiter: None,
        }
    }

    /// Places taken.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    fn has_room(&self, tenant: &TenantRequests) -> bool {
        self.in_flight.get() < self.per_core_max && self.tenant_has_room(tenant)
    }

    fn tenant_has_room(&self, tenant: &TenantRequests) -> bool {
        tenant.in_flight.get() + tenant.waiting_for_core.get() < self.per_tenant_max
    }

    fn take(&self, tenant: &TenantRequests) {
        self.in_flight.set(self.in_flight.get() + 1);
        tenant.in_flight.set(tenant.in_flight.get() + 1);
    }

    fn give_back(&self, tenant: &Rc<TenantRequests>, count: u32) {
        self.in_flight.set(self.in_flight.get() - count);
        tenant.in_flight.set(tenant.in_flight.get() - count);
        self.hand_out(tenant);
    }

    /// Puts a connection that found no room into its queue.
    fn queue(&self, tenant: &Rc<TenantRequests>, waiter: Rc<Waiter>) {
        if self.tenant_has_room(tenant) {
            self.queue_for_core(Rc::clone(tenant), waiter);
        } else {
            tenant.waiting.borrow_mut().push_back(waiter);
        }
    }

    fn queue_for_core(&self, tenant: Rc<TenantRequests>, waiter: Rc<Waiter>) {
        let waiting = &tenant.waiting_for_core;
        waiting.set(waiting.get() + 1);
        let entry = Waiting { tenant, waiter };
        self.waiting.borrow_mut().push_back(entry);
    }

    /// Gives places that came free, some of `tenant`'s among them, to those who wait.
    fn hand_out(&self, tenant: &Rc<TenantRequests>) {
        while self.tenant_has_room(tenant) {
            let Some(waiter) = tenant.waiting.borrow_mut().pop_front() else {
                break;
            };
            self.queue_for_core(Rc::clone(tenant), waiter);
        }
        while self.in_flight.get() < self.per_core_max {
            let Some(next) = self.waiting.borrow_mut().pop_front() else {
                break;
            };
            let waiting = &next.tenant.waiting_for_core;
            waiting.set(waiting.get() - 1);
            self.take(&next.tenant);
            next.waiter.granted.set(true);
            if let Some(waker) = next.waiter.waker.take() {
                waker.wake();
            }
        }
    }

    /// A connection leaves while it waits.
    fn forget(&self, tenant: &Rc<TenantRequests>, waiter: &Rc<Waiter>) {
        let is_it = |other: &Rc<Waiter>| Rc::ptr_eq(other, waiter);
        tenant.waiting.borrow_mut().retain(|other| !is_it(other));
        let mut waiting = self.waiting.borrow_mut();
        if let Some(at) = waiting.iter().position(|entry| is_it(&entry.waiter)) {
            waiting.remove(at);
            drop(waiting);
            let count = &tenant.waiting_for_core;
            count.set(count.get() - 1);
            self.hand_out(tenant);
        }
    }
}

/// The places that one connection holds; given back on drop.
#[derive(Debug)]
pub struct RequestShare {
    limits: Rc<RequestLimits>,
    id: TenantId,
    tenant: Rc<TenantRequests>,
    held: u32,
    /// Where this connection waits, or waited: until it takes the place it got.
    waiter: Option<Rc<Waiter>>,
}

impl RequestShare {
    /// Whether a place is free for this connection.
    pub fn has_room(&self) -> bool {
        match &self.waiter {
            Some(waiter) => waiter.granted.get(),
            None => self.limits.has_room(&self.tenant),
        }
    }

    /// Takes a place.
    /// # Panics
    /// If there is no room.
    pub fn take(&mut self) {
        assert!(self.has_room(), "a place is taken only where there is room");
        self.held += 1;
        // Who waited has got its place already.
        if self.waiter.take().is_none() {
            self.limits.take(&self.tenant);
        }
    }

    /// Gives one place back.
    pub fn give_back(&mut self) {
        self.held = self.held.checked_sub(1).expect("a place was taken");
        self.limits.give_back(&self.tenant, 1);
    }

    /// Places taken on this core, by all connections.
    pub fn in_flight_on_core(&self) -> u32 {
        self.limits.in_flight()
    }

    /// Ready once there is room, for a connection that has nothing in flight to wait for. Its turn is kept from one call
    /// to the next.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        let waiter = self.waiter.get_or_insert_with(|| {
            let waiter = Rc::<Waiter>::default();
            self.limits.queue(&self.tenant, Rc::clone(&waiter));
            waiter
        });
        let mut waker = waiter.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for RequestShare {
    fn drop(&mut self) {
        let mut held = self.held;
        if let Some(waiter) = self.waiter.take() {
            if waiter.granted.get() {
                held += 1;
            } else {
                self.limits.forget(&self.tenant, &waiter);
            }
        }
        self.limits.give_back(&self.tenant, held);
        let connections = &self.tenant.connections;
        connections.set(connections.get() - 1);
        if connections.get() == 0 {
            self.limits.tenants.borrow_mut().remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
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

    fn waits(share: &mut RequestShare) -> bool {
        let waker = noop_waker();
        share
            .poll_room(&mut Context::from_waker(&waker))
            .is_pending()
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
        assert!(waits(&mut other));
        one.give_back();
        assert!(!waits(&mut other));
        drop(one);
        // One that is held and one that was handed over.
        assert_eq!(limits.in_flight(), 2);
        assert_eq!(limits.tenants.borrow().len(), 1);
        drop(other);
        assert_eq!(limits.in_flight(), 0);
        assert!(limits.tenants.borrow().is_empty());
    }

    #[test]
    fn who_waits_comes_before_who_was_served_and_in_turn() {
        let limits = RequestLimits::new(1, 9);
        let mut greedy = limits.share(tenant(1));
        let mut waiting: Vec<_> = (0..3).map(|_| limits.share(tenant(1))).collect();
        greedy.take();
        for share in &mut waiting {
            assert!(waits(share));
        }
        // Whoever holds the place gives it back and asks for it again at once.
        let mut order = Vec::new();
        greedy.give_back();
        assert!(!greedy.has_room() && waits(&mut greedy), "others wait");
        waiting.push(greedy);
        for _ in 0..8 {
            let next = waiting.iter_mut().position(|share| !waits(share));
            let next = next.expect("somebody has the place");
            order.push(next);
            waiting[next].take();
            waiting[next].give_back();
            assert!(waits(&mut waiting[next]), "others wait");
        }
        assert_eq!(order, [0, 1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn a_full_tenant_holds_up_no_other_and_leaving_passes_the_turn_on() {
        let limits = RequestLimits::new(2, 1);
        let mut first = limits.share(tenant(1));
        let mut second = limits.share(tenant(1));
        let mut third = limits.share(tenant(1));
        first.take();
        assert!(waits(&mut second) && waits(&mut third));
        let mut other = limits.share(tenant(2));
        assert!(other.has_room(), "its tenant and the core have room");
        other.take();
        let mut late = limits.share(tenant(3));
        assert!(waits(&mut late), "the core is full");
        first.give_back();
        // The place came free for the one that waited for the core; the tenant's turn comes behind it.
        assert!(!waits(&mut late) && waits(&mut second));
        drop(second);
        late.take();
        late.give_back();
        assert!(!waits(&mut third), "the turn of the one that left");
        drop((first, third, other, late));
        assert_eq!(limits.in_flight(), 0);
        assert!(limits.waiting.borrow().is_empty() && limits.tenants.borrow().is_empty());
    }

    #[test]
    fn places_neither_leak_nor_multiply_whatever_the_order() {
        let limits = RequestLimits::new(5, 3);
        let mut shares: Vec<Option<RequestShare>> = (0..12).map(|_| None).collect();
        let mut state = 1_u32;
        for _ in 0..20_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (slot, action) = ((state >> 8) as usize % 12, (state >> 24) % 4);
            let number = u8::try_from(slot % 3).expect("small");
            let share = shares[slot].get_or_insert_with(|| limits.share(tenant(number)));
            match action {
                0 | 1 if !waits(share) => share.take(),
                2 if share.held > 0 => share.give_back(),
                3 if state.is_multiple_of(7) => shares[slot] = None,
                _ => {}
            }
            let held: u32 = shares.iter().flatten().map(|share| share.held).sum();
            let granted = shares.iter().flatten().filter_map(|s| s.waiter.as_ref());
            let granted = granted.filter(|waiter| waiter.granted.get()).count();
            assert_eq!(
                limits.in_flight(),
                held + u32::try_from(granted).expect("few")
            );
            assert!(limits.in_flight() <= 5);
            for requests in limits.tenants.borrow().values() {
                assert!(requests.in_flight.get() <= 3);
                let waits = !requests.waiting.borrow().is_empty();
                assert!(!waits || !limits.tenant_has_room(requests), "an idle place");
            }
            let waits = !limits.waiting.borrow().is_empty();
            assert!(!waits || limits.in_flight() == 5, "an idle place");
        }
        shares.clear();
        assert_eq!(limits.in_flight(), 0);
        assert!(limits.tenants.borrow().is_empty());
    }
}
