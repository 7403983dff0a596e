//! Reads `/metrics` of servers and gateways before the run, every 5 s during it, and after it.
//! Only direct addresses are read: behind a load balancer it would be random whose counters arrive.

use super::{
    call::{Call, Caller},
    exposition::{CounterGrowth, first_served, redis_memory},
    inventory::Member,
    members::Members,
    settings::settings,
};
use http::{HeaderMap, StatusCode};
use measure::{
    memory::{MemoryOf, note_available},
    observations::Observations,
    role,
};
use parking_lot::Mutex;
use std::io;

/// Seconds between two readings. A process that ends between two readings loses its counts since the first one, so that this is
/// short.
const EVERY_S: u64 = 5;

/// Reads the counters of all members and sums their increase.
#[derive(Debug)]
pub(super) struct Scraper {
    caller: Caller,
    members: Members,
    growth: CounterGrowth,
}

impl Scraper {
    pub(super) fn new(tls: &rustls::ClientConfig, members: Members) -> io::Result<Self> {
        Ok(Self { caller: Caller::new(tls)?, members, growth: CounterGrowth::default() })
    }

    /// Called each second of the run. Reads the counters if that is due.
    pub(super) fn tick(&mut self, second: u64, seen: &Mutex<Observations>) {
        if second.is_multiple_of(EVERY_S) {
            self.scrape(second, seen);
        }
    }

    /// Reads the counters at a second of the run. Second 0 is before the run.
    pub(super) fn scrape(&mut self, second: u64, seen: &Mutex<Observations>) {
        let mut members = self.members.lock().clone();
        self.growth.note_members(&members);
        members.retain(|member| ["server", "wsproxy"].contains(&role(&member.name)) && member.http.is_some());
        let call = |member: &Member| {
            let url = format!("http://{}/metrics", member.http?);
            Some(Call { url, headers: HeaderMap::new() })
        };
        let calls: Vec<_> = members.iter().filter_map(call).collect();
        for (member, result) in members.iter().zip(self.caller.get(&calls)) {
            let page = result.response.ok().filter(|response| response.0 == StatusCode::OK);
            let page = page.as_ref().map(|(_, page)| String::from_utf8_lossy(page));
            self.growth.add(second, member, page.as_deref());
            let Some(page) = page else { continue };
            let mut seen = seen.lock();
            if let Some(at) = first_served(&page) {
                seen.first_served(&member.name, at);
            }
            seen.settings(&member.name, settings(&page));
            if let Some((available_mb, total_mb)) = redis_memory(&page) {
                // The thread that watches the memory of this machine warns.
                note_available(&mut seen.low_redis, second, available_mb, total_mb, MemoryOf::Redis);
            }
        }
        seen.lock().stack_counters = self.growth.figures();
    }
}
