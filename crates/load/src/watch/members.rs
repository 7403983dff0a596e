//! Who is in the stack behind the run's doors, where this machine can tell: a native stack's, Compose's, or this process's own.
//! One in whose place another life was found was restarted; nothing else is concluded here.

use super::{
    Plan,
    inventory::{Inventory, Member, Source},
    usage::Observations,
};
use measure::{Quantity, Reading, ReadingBuffer};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// The members as they are now.
pub(super) type Members = Arc<Mutex<Vec<Member>>>;

/// Finds the members, and keeps the list true.
#[derive(Debug)]
pub(super) struct Roll {
    members: Members,
    inventory: Option<Box<dyn Inventory>>,
    /// Which life of each was seen last.
    lives: BTreeMap<String, String>,
    readings: ReadingBuffer,
}

impl Roll {
    /// The members that `stack` names. Where it names none, the list is empty and `seen` says why.
    pub(super) fn find(plan: &Plan<'_>, stack: Source, seen: &Mutex<Observations>) -> Self {
        let mut roll = Self {
            members: Members::default(),
            inventory: None,
            lives: BTreeMap::new(),
            readings: plan.readings.clone(),
        };
        match stack {
            Source::Here(members) => *roll.members.lock() = members,
            Source::Found(inventory) => {
                roll.inventory = Some(inventory);
                roll.look(0, seen);
            }
            Source::Unknown(why) => {
                seen.lock().unseen = Some(format!("the doors and the client alone: {why}"));
            }
        }
        roll
    }

    pub(super) fn members(&self) -> Members {
        Arc::clone(&self.members)
    }

    /// Looks again; `None` where there is nobody who could tell.
    pub(super) fn look(&mut self, second: u64, seen: &Mutex<Observations>) {
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

    /// Whether looking again can show anything new.
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
            let is_told = observations.ended.iter().any(|ended| ended.0 == member.name);
            if member.ended && !is_told {
                observations.ended(&member.name, second);
            }
            let value = f64::from(u8::from(restarted));
            readings.push(Reading { quantity: Quantity::Restarts, label: member.name.clone(), value });
        }
        drop(observations);
        self.readings.tell(second.saturating_sub(1), readings);
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
    fn another_life_is_a_restart_and_an_end_is_told_once() {
        let readings = ReadingBuffer::default();
        let mut roll = Roll {
            members: Members::default(),
            inventory: None,
            lives: BTreeMap::new(),
            readings: readings.clone(),
        };
        let seen = Mutex::new(Observations::default());
        roll.take(0, vec![member("redis", "1", false), member("server-1", "5", false)], &seen);
        roll.take(1, vec![member("redis", "2", false), member("server-1", "5", true)], &seen);
        roll.take(2, vec![member("redis", "2", false), member("server-1", "5", true)], &seen);
        assert_eq!(seen.lock().restarts, [("redis".to_owned(), 1)]);
        assert_eq!(seen.lock().ended, [("server-1".to_owned(), 1)]);
        roll.take(3, vec![member("redis", "2", false), member("server-1", "6", false)], &seen);
        assert_eq!(seen.lock().ended, [], "another took its place");
        let restarts = |label: Option<&str>| {
            let label = label.map(str::to_owned);
            readings.totals().figure(&ReadingSelector {
                quantity: Quantity::Restarts,
                label,
                statistic: None,
            })
        };
        assert_eq!((restarts(None), restarts(Some("server"))), (Ok(2.0), Ok(1.0)));
        assert_eq!(roll.members().lock().len(), 2);
    }
}
