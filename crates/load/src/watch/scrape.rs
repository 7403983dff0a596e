//! Asks servers and gateways for `/metrics`: before the run, now and then, and after it.
//! Through a load balancer it asks nobody: whose page came would be chance.

use super::{
    call::{Call, Caller},
    exposition::Growth,
    inventory::Member,
    members::Members,
    usage::Observations,
};
use http::{HeaderMap, StatusCode};
use measure::role;
use parking_lot::Mutex;
use std::io;

/// What a restart between two looks has counted is lost: often enough for that to be little.
const EVERY_S: u64 = 5;

/// Sums up what the members say.
#[derive(Debug)]
pub(super) struct Scraper {
    caller: Caller,
    members: Members,
    growth: Growth,
}

impl Scraper {
    pub(super) fn new(tls: &rustls::ClientConfig, members: Members) -> io::Result<Self> {
        Ok(Self { caller: Caller::new(tls)?, members, growth: Growth::default() })
    }

    /// Each second; it looks when it is time.
    pub(super) fn tick(&mut self, second: u64, seen: &Mutex<Observations>) {
        if second.is_multiple_of(EVERY_S) {
            self.look(second, seen);
        }
    }

    /// Looks at a second of the run; 0 is before it.
    pub(super) fn look(&mut self, second: u64, seen: &Mutex<Observations>) {
        let mut members = self.members.lock().clone();
        self.growth.meet(&members);
        members.retain(|member| ["server", "wsproxy"].contains(&role(&member.name)) && member.http.is_some());
        let call = |member: &Member| {
            let url = format!("http://{}/metrics", member.http?);
            Some(Call { url, headers: HeaderMap::new() })
        };
        let calls: Vec<_> = members.iter().filter_map(call).collect();
        for (member, answer) in members.iter().zip(self.caller.get(&calls)) {
            let page = answer.said.ok().filter(|said| said.0 == StatusCode::OK);
            let page = page.as_ref().map(|(_, page)| String::from_utf8_lossy(page));
            self.growth.see(second, member, page.as_deref());
        }
        seen.lock().stack_counters = self.growth.figures();
    }
}
