//! The addresses of the HTTP API. Calls use them in turn. An address that gave no response is skipped for a while.

use plan::Target;
use settings::address::Address;
use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// Time for which calls skip an address after an attempt that got no response.
const SKIP_TIME: Duration = Duration::from_secs(1);

/// The addresses of the API, at least one.
#[derive(Debug)]
pub(crate) struct ApiAddresses {
    addresses: Vec<ApiAddress>,
    /// Index of the address that is next in turn.
    turn: Cell<usize>,
}

#[derive(Debug)]
struct ApiAddress {
    address: Address,
    /// When an attempt last got no response.
    failed: Cell<Option<Instant>>,
}

/// The addresses that a call tries in a row, each once.
#[derive(Debug)]
pub(crate) struct Route {
    /// Index of the present address.
    index: usize,
    /// Number of addresses that were not tried.
    left: usize,
}

impl ApiAddresses {
    pub(crate) fn new(target: &Target) -> Self {
        let addresses = [&target.api].into_iter().chain(&target.more_api);
        let new = |address: &Address| ApiAddress { address: address.clone(), failed: Cell::default() };
        Self { addresses: addresses.map(new).collect(), turn: Cell::new(0) }
    }

    pub(crate) fn count(&self) -> usize {
        self.addresses.len()
    }

    /// Returns the route of a call. It begins at the next address in turn that is not skipped. If all are, none is.
    pub(crate) fn route(&self) -> Route {
        let count = self.count();
        let in_turn = |step: usize| (self.turn.get() + step) % count;
        let is_skipped = |&index: &usize| self.addresses[index].is_skipped();
        let index = (0..count).map(in_turn).find(|index| !is_skipped(index)).unwrap_or_else(|| in_turn(0));
        self.turn.set((index + 1) % count);
        Route { index, left: count - 1 }
    }

    pub(crate) fn address(&self, route: &Route) -> &Address {
        &self.addresses[route.index].address
    }

    /// Notes that the present address of `route` gave no response. Moves the route to the next address and returns `true`, or
    /// returns `false` if each was tried.
    pub(crate) fn move_on(&self, route: &mut Route) -> bool {
        self.addresses[route.index].failed.set(Some(Instant::now()));
        if route.left == 0 {
            return false;
        }
        *route = Route { index: (route.index + 1) % self.count(), left: route.left - 1 };
        true
    }
}

impl ApiAddress {
    fn is_skipped(&self) -> bool {
        self.failed.get().is_some_and(|failed| failed.elapsed() < SKIP_TIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ports: &[u16]) -> ApiAddresses {
        let new = |port: &u16| ApiAddress {
            address: Address::new(format!("http://127.0.0.1:{port}").parse().unwrap()),
            failed: Cell::default(),
        };
        ApiAddresses { addresses: ports.iter().map(new).collect(), turn: Cell::new(0) }
    }

    #[test]
    fn calls_use_the_addresses_in_turn() {
        let api = addresses(&[1, 2, 3]);
        let used: Vec<_> = (0..6).map(|_| api.address(&api.route()).url().port().unwrap()).collect();
        assert_eq!(used, [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn a_call_tries_each_address_once() {
        let api = addresses(&[1, 2, 3]);
        let mut route = api.route();
        let mut tried = vec![route.index];
        while api.move_on(&mut route) {
            tried.push(route.index);
        }
        assert_eq!(tried, [0, 1, 2]);
        assert_eq!(api.route().index, 1, "if all failed, none is skipped");
        assert!(!addresses(&[1]).move_on(&mut addresses(&[1]).route()), "there is no other address");
    }

    #[test]
    fn an_address_that_failed_is_skipped_for_a_while() {
        let api = addresses(&[1, 2]);
        let mut route = api.route();
        assert!(api.move_on(&mut route));
        let used: Vec<_> = (0..4).map(|_| api.route().index).collect();
        assert_eq!(used, [1; 4]);
        let before = Instant::now().checked_sub(SKIP_TIME).unwrap();
        api.addresses[0].failed.set(Some(before));
        let used: Vec<_> = (0..4).map(|_| api.route().index).collect();
        assert_eq!(used, [0, 1, 0, 1]);
    }
}
