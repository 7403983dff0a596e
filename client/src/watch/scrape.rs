//! Asks servers and gateways for `/metrics`: before the run, now and then, and after it.
//! Through a load balancer it asks nobody: whose page came would be chance.

use super::{call::Caller, exposition::Growth, members::Members, usage::Watched};
use crate::measure::role;
use http::StatusCode;
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
    pub(super) fn tick(&mut self, second: u64, seen: &Mutex<Watched>) {
        if second.is_multiple_of(EVERY_S) {
            self.look(false, seen);
        }
    }

    /// Looks. `baseline`: what was counted until now is not the run's.
    pub(super) fn look(&mut self, baseline: bool, seen: &Mutex<Watched>) {
        let members = self.members.lock().clone();
        let pages = members.into_iter().filter(|member| ["server", "wsproxy"].contains(&role(&member.name)));
        let (names, urls): (Vec<_>, Vec<_>) = pages
            .filter_map(|member| Some((member.name, format!("http://{}/metrics", member.http?))))
            .unzip();
        for (name, answer) in names.iter().zip(self.caller.get(&urls)) {
            if let Ok((StatusCode::OK, page)) = answer.said {
                self.growth.see(name, &String::from_utf8_lossy(&page), baseline);
            }
        }
        seen.lock().of_itself = self.growth.figures();
    }
}
