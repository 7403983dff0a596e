//! The addresses of the HTTP API. Calls use them in turn, and skip an address that gave no response.

use plan::Target;
use settings::address::Address;
use std::{
    cell::Cell,
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Time limit of one attempt.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Shortest time for which calls skip an address after an attempt that got no response.
const SHORTEST_SKIP: Duration = Duration::from_secs(1);

/// The addresses of the API, at least one.
#[derive(Debug)]
pub(crate) struct ApiAddresses {
    addresses: Vec<ApiAddress>,
    /// Index of the address that is next in turn.
    turn: Cell<usize>,
}

/// One address of the API.
#[derive(Debug)]
pub(crate) struct ApiAddress {
    pub(crate) address: Address,
    /// One permit for each call that may be made to this address at a time. Each address has its own permits, so that calls that wait
    /// for one address do not delay the calls to the others.
    permits: Semaphore,
    /// Until when calls skip the address. `None` if the last attempt got a response.
    skipped_until: Cell<Option<Instant>>,
    /// When an attempt last got a response.
    responded_at: Cell<Option<Instant>>,
}

/// The present address of a call, and those that it has tried before.
#[derive(Debug, Default)]
pub(crate) struct Route {
    index: usize,
    tried: Vec<usize>,
    /// The address is skipped, and this call tries it.
    is_probe: bool,
}

impl ApiAddresses {
    /// Allows at most `connections` calls to each address at a time.
    pub(crate) fn new(target: &Target, connections: usize) -> Self {
        let addresses = [&target.api].into_iter().chain(&target.more_api);
        let new = |address: &Address| ApiAddress {
            address: address.clone(),
            permits: Semaphore::new(connections.max(1)),
            skipped_until: Cell::default(),
            responded_at: Cell::default(),
        };
        Self { addresses: addresses.map(new).collect(), turn: Cell::new(0) }
    }

    pub(crate) fn count(&self) -> usize {
        self.addresses.len()
    }

    pub(crate) fn at(&self, route: &Route) -> &ApiAddress {
        &self.addresses[route.index]
    }

    /// Returns the route of a call. It begins at the next address in turn that is not skipped. If all are, it begins at the next one.
    ///
    /// If the time to skip an address is over, one call tries it. The others skip it until that call got a response.
    pub(crate) fn route(&self) -> Route {
        self.choose(Vec::new()).unwrap_or_default()
    }

    /// Moves `route` to another address, if there is one that the call has not tried. Returns whether there is one.
    pub(crate) fn move_on(&self, route: &mut Route) -> bool {
        let tried = route.tried.iter().copied().chain([route.index]).collect();
        let next = self.choose(tried);
        let found = next.is_some();
        if let Some(next) = next {
            *route = next;
        }
        found
    }

    /// Waits until the call may use the present address of `route`. Moves the route on if that address failed meanwhile.
    pub(crate) async fn permit(&self, route: &mut Route) -> Option<SemaphorePermit<'_>> {
        loop {
            let address = self.at(route);
            if let Ok(permit) = address.permits.try_acquire() {
                return Some(permit);
            }
            let permit = address.permits.acquire().await;
            let is_skipped = address.skipped_until.get().is_some_and(|until| Instant::now() < until);
            if !is_skipped || route.is_probe || !self.move_on(route) {
                return permit.ok();
            }
        }
    }

    fn choose(&self, tried: Vec<usize>) -> Option<Route> {
        let count = self.count();
        let turn = self.turn.get();
        let mut untried = (0..count).map(|step| (turn + step) % count).filter(|index| !tried.contains(index));
        let first = untried.clone().next()?;
        let index = untried.find(|&index| self.addresses[index].may_try(Instant::now())).unwrap_or(first);
        self.turn.set((index + 1) % count);
        let is_probe = self.addresses[index].skipped_until.get().is_some();
        Some(Route { index, tried, is_probe })
    }
}

impl ApiAddress {
    /// Returns whether a call may try the address. If it is the first one after the time to skip the address, the others skip it for as
    /// long as this attempt can take.
    fn may_try(&self, now: Instant) -> bool {
        match self.skipped_until.get() {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                self.skipped_until.set(Some(now + CALL_TIMEOUT));
                true
            }
        }
    }

    /// Notes that an attempt got a response.
    pub(crate) fn responded(&self) {
        self.responded_at.set(Some(Instant::now()));
        self.skipped_until.set(None);
    }

    /// Notes that an attempt that began at `started` got no response. Calls skip the address for as long as the attempt took, because
    /// the next one may take as long. An attempt that began before the last response says nothing.
    pub(crate) fn failed(&self, started: Instant) {
        if self.responded_at.get().is_some_and(|responded| responded > started) {
            return;
        }
        let now = Instant::now();
        self.skipped_until.set(Some(now + (now - started).max(SHORTEST_SKIP)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn addresses(count: usize) -> ApiAddresses {
        let new = |_| ApiAddress {
            address: Address::new("http://127.0.0.1:1".parse().unwrap()),
            permits: Semaphore::new(1),
            skipped_until: Cell::default(),
            responded_at: Cell::default(),
        };
        ApiAddresses { addresses: (0..count).map(new).collect(), turn: Cell::new(0) }
    }

    /// Returns the addresses at which the next calls begin.
    fn used<const N: usize>(api: &ApiAddresses) -> [usize; N] {
        [0; N].map(|_| api.route().index)
    }

    fn ago(time: Duration) -> Instant {
        Instant::now().checked_sub(time).unwrap()
    }

    #[test]
    fn calls_use_the_addresses_in_turn() {
        assert_eq!(used(&addresses(3)), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_call_tries_each_address_once() {
        let api = addresses(3);
        let mut route = api.route();
        let mut tried = Vec::new();
        loop {
            tried.push(route.index);
            api.at(&route).failed(Instant::now());
            if !api.move_on(&mut route) {
                break;
            }
        }
        assert_eq!(tried, [0, 1, 2]);
        assert_eq!(used(&api), [0, 1, 2], "if all failed, none is skipped");
        let one = addresses(1);
        assert!(!one.move_on(&mut one.route()), "there is no other address");
    }

    #[test]
    fn a_call_moves_to_an_address_that_is_not_skipped() {
        let api = addresses(3);
        let mut route = api.route();
        api.addresses[1].failed(Instant::now());
        assert!(api.move_on(&mut route));
        assert_eq!(route.index, 2);
        assert!(api.move_on(&mut route));
        assert_eq!(route.index, 1, "better than none");
    }

    #[test]
    fn an_address_is_skipped_for_as_long_as_the_failed_attempt_took_then_one_call_tries_it() {
        let skipped_for = |attempt: Duration| {
            let [address] = addresses(1).addresses.try_into().unwrap();
            address.failed(ago(attempt));
            let until = address.skipped_until.get().unwrap();
            until.saturating_duration_since(Instant::now()).as_secs_f64().round()
        };
        assert_eq!((skipped_for(Duration::ZERO), skipped_for(CALL_TIMEOUT)), (1.0, 30.0));

        let api = addresses(2);
        api.addresses[0].failed(Instant::now());
        assert_eq!(used(&api), [1; 4]);
        api.addresses[0].skipped_until.set(Some(ago(Duration::from_millis(1))));
        assert_eq!(used(&api), [0, 1, 1, 1], "only one call tries it");
        api.addresses[0].failed(Instant::now());
        assert_eq!(used(&api), [1; 4]);
        api.addresses[0].responded();
        assert_eq!(used(&api), [0, 1, 0, 1]);
    }

    #[test]
    fn calls_that_wait_for_an_address_that_fails_use_another() {
        let api = addresses(2);
        let mut first = api.route();
        let in_use = api.permit(&mut first).now_or_never().unwrap();
        let (mut second, mut third) = (api.route(), api.route());
        assert_eq!((second.index, third.index), (1, 0));
        assert!(api.permit(&mut second).now_or_never().is_some(), "each address has its own permits");
        let mut waiting = Box::pin(api.permit(&mut third));
        assert!(waiting.as_mut().now_or_never().is_none());
        api.at(&first).failed(Instant::now());
        drop(in_use);
        assert!(waiting.now_or_never().is_some());
        assert_eq!(third.index, 1);
    }
}
