//! Tracks the members of the stack behind the target, if this machine can list them, and detects restarts and ends.
//! A member whose process changed was restarted.

use super::{
    config::WatchConfig,
    inventory::{Inventory, Member, Source},
};
use measure::{
    Quantity, Reading, ReadingBuffer,
    observations::{Observations, STACK},
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// The present members, shared by the threads of the watch.
pub(super) type Members = Arc<Mutex<Vec<Member>>>;

/// Keeps the list of members up to date.
#[derive(Debug)]
pub(super) struct MemberTracker {
    members: Members,
    inventory: Option<Box<dyn Inventory>>,
    /// The last process of each member.
    lives: BTreeMap<String, String>,
    readings: ReadingBuffer,
}

impl MemberTracker {
    /// Creates a tracker of the members that `stack` lists. If it lists none, `seen` gets the reason.
    pub(super) fn new(config: &WatchConfig, stack: Source, seen: &Mutex<Observations>) -> Self {
        let mut tracker = Self {
            members: Members::default(),
            inventory: None,
            lives: BTreeMap::new(),
            readings: config.readings.clone(),
        };
        match stack {
            Source::Here(members) => *tracker.members.lock() = members,
            Source::Inventory(inventory) => {
                seen.lock().settings(STACK, inventory.settings());
                tracker.inventory = Some(inventory);
                tracker.update(0, seen);
            }
            Source::Unknown(why) => {
                let observed = match config.target.foreign {
                    Some(_) => "only the client",
                    None => "only the public addresses and the client",
                };
                seen.lock().unseen = Some(format!("{observed}: {why}"));
            }
        }
        tracker
    }

    /// Returns the shared list of members.
    pub(super) fn members(&self) -> Members {
        Arc::clone(&self.members)
    }

    /// Lists the members again if that is due in this second of the run. Second 0 is always due.
    pub(super) fn update(&mut self, second: u64, seen: &Mutex<Observations>) {
        let Some(inventory) = &self.inventory else { return };
        if second > 0 && !second.is_multiple_of(inventory.every().as_secs().max(1)) {
            return;
        }
        match inventory.members() {
            Ok(members) => self.take(second, members, seen),
            Err(error) => {
                let why = format!("not the stack at {second} s, and perhaps later: {error:#}");
                seen.lock().unseen.get_or_insert(why);
            }
        }
    }

    /// Returns whether the list can change.
    pub(super) const fn changes(&self) -> bool {
        self.inventory.is_some()
    }

    fn take(&mut self, second: u64, members: Vec<Member>, seen: &Mutex<Observations>) {
        let mut readings = Vec::new();
        let mut observations = seen.lock();
        for member in &members {
            let before = self.lives.insert(member.name.clone(), member.life.clone());
            let restarted = before.is_some_and(|before| before != member.life);
            if restarted {
                observations.restarted(&member.name, second);
                observations.ended.retain(|ended| ended.0 != member.name);
            }
            let is_known = observations.ended.iter().any(|ended| ended.0 == member.name);
            if member.ended && !is_known {
                observations.ended(&member.name, second);
            }
            let value = f64::from(u8::from(restarted));
            readings.push(Reading { quantity: Quantity::Restarts, label: member.name.clone(), value });
        }
        drop(observations);
        self.readings.push(second.saturating_sub(1), readings);
        *self.members.lock() = members;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use measure::ReadingSelector;

    fn member(name: &str, life: &str, ended: bool) -> Member {
        Member { name: name.into(), pid: Some(1), has_children: false, http: None, life: life.into(), ended }
    }

    #[test]
    fn another_process_is_a_restart_and_an_end_is_noted_once() {
        let readings = ReadingBuffer::default();
        let mut tracker = MemberTracker {
            members: Members::default(),
            inventory: None,
            lives: BTreeMap::new(),
            readings: readings.clone(),
        };
        let seen = Mutex::new(Observations::default());
        tracker.take(0, vec![member("redis", "1", false), member("server-1", "5", false)], &seen);
        tracker.take(1, vec![member("redis", "2", false), member("server-1", "5", true)], &seen);
        tracker.take(2, vec![member("redis", "2", false), member("server-1", "5", true)], &seen);
        assert_eq!(seen.lock().restarts, [("redis".to_owned(), 1)]);
        assert_eq!(seen.lock().ended, [("server-1".to_owned(), 1)]);
        tracker.take(3, vec![member("redis", "2", false), member("server-1", "6", false)], &seen);
        assert_eq!(seen.lock().ended, [], "a new process replaced it");
        let restarts = |label: Option<&str>| {
            let label = label.map(str::to_owned);
            readings.totals().figure(&ReadingSelector {
                quantity: Quantity::Restarts,
                label,
                statistic: None,
            })
        };
        assert_eq!((restarts(None), restarts(Some("server"))), (Ok(2.0), Ok(1.0)));
        assert_eq!(tracker.members().lock().len(), 2);
    }
}
