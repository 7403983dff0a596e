//! The log of injected faults: the status of each fault, the outages that it caused and the time to recover.
//! Sessions report each outage once. The log takes no lock per token, and none at all in a run without faults.

use crate::{
    cold_start::{ColdStart, FirstServed},
    record::Moment,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

/// An outage that begins later than this after a fault took effect is not attributed to the fault.
const REACH: Duration = Duration::from_secs(10);
/// An error event that arrives later than this after a fault took effect is not attributed to the fault.
const ERROR_REACH: Duration = Duration::from_secs(5);
/// A fault that took effect this long before a query was sent may still affect the query.
const AFTERMATH: Duration = Duration::from_secs(10);

/// Status of a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultStatus {
    /// Its time has not come yet.
    Planned,
    /// The injection has started.
    Begun,
    /// The fault is in effect. Holds a description of what was done.
    Injected(String),
    /// The injection failed. Holds the reason.
    Failed(String),
}

impl FaultStatus {
    /// Returns how far the injection has come.
    const fn progress(&self) -> u8 {
        match self {
            Self::Planned => 0,
            Self::Begun => 1,
            Self::Injected(_) | Self::Failed(_) => 2,
        }
    }

    /// Returns the outcome at the end of a run: `injected` or `failed`, and a description.
    #[must_use]
    pub fn outcome(&self) -> (&'static str, &str) {
        match self {
            Self::Injected(detail) => ("injected", detail),
            Self::Failed(why) => ("failed", why),
            Self::Planned => ("failed", "the run ended before its time"),
            Self::Begun => ("failed", "it was not in effect when the run ended"),
        }
    }
}

/// A fault and its effects. Moments are times since the start of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRecord {
    /// Specification as the user wrote it.
    pub spec: String,
    /// Planned time, from the first send.
    pub at: Duration,
    /// Time of the first send.
    pub first_send: Option<Moment>,
    /// Time at which the injection started.
    pub began: Option<Moment>,
    /// Time at which the fault was in effect.
    pub ended: Option<Moment>,
    /// Status of the fault.
    pub status: FaultStatus,
    /// Members of the stack that the fault was applied to, for example `server-1`. Known once it is in effect.
    pub members: Vec<String>,
    /// Time at which the last attributed outage ended.
    pub recovered: Option<Moment>,
    /// Attributed outages: sessions without a socket, and streams that were silent for longer than the stall threshold.
    pub outages: u64,
    /// Affected queries that never received another event.
    pub unrecovered: u64,
    /// Error events by code that ended a query between the start of the injection and 5 s after it took effect.
    pub error_events: BTreeMap<String, u64>,
    /// The instances that it started.
    pub cold_starts: Vec<ColdStart>,
}

impl FaultRecord {
    /// Creates the record of a fault whose time has not come.
    fn planned(spec: &str, at: Duration) -> Self {
        Self {
            spec: spec.to_owned(),
            at,
            first_send: None,
            began: None,
            ended: None,
            status: FaultStatus::Planned,
            members: Vec::new(),
            recovered: None,
            outages: 0,
            unrecovered: 0,
            error_events: BTreeMap::new(),
            cold_starts: Vec::new(),
        }
    }

    /// Returns the time from the start of the injection to the end of the last attributed outage.
    #[must_use]
    pub fn time_to_recover(&self) -> Option<Duration> {
        Some(self.recovered?.saturating_sub(self.began?))
    }

    /// Adds the effects of the same fault on the sessions of another generator.
    pub(crate) fn add_effects(&mut self, other: &Self) {
        self.recovered = self.recovered.max(other.recovered);
        self.outages += other.outages;
        self.unrecovered += other.unrecovered;
        for (code, count) in &other.error_events {
            *self.error_events.entry(code.clone()).or_default() += count;
        }
    }

    /// Returns whether the fault can have caused an observation between two seconds of the run, counted from 0.
    #[must_use]
    pub fn can_explain(&self, from: u64, to: u64) -> bool {
        let began = self.began.is_some_and(|began| began.as_secs() <= to);
        began && self.ended.is_none_or(|ended| ended.saturating_add(REACH).as_secs() >= from)
    }

    /// Returns the target of the fault or of its link if that is one or several servers: `server-1`, `server-any`, `servers`.
    fn servers(&self) -> Option<&str> {
        let target = self.spec.strip_prefix("link:").unwrap_or(&self.spec).split(':').next()?;
        (is_numbered_server(target) || matches!(target, "server-any" | "servers")).then_some(target)
    }

    /// Returns whether the fault hits this server. A server without a known name counts as hit. The target of `server-any` is
    /// known only once the fault is in effect; until then every server counts as hit.
    fn breaks(&self, server: Option<&str>) -> bool {
        let Some(target) = self.servers() else { return false };
        match server {
            None => true,
            Some(name) if is_numbered_server(target) => name == target,
            Some(name) => self.members.is_empty() || self.members.iter().any(|member| member == name),
        }
    }

    /// Returns whether the fault undoes an earlier one (`start`, `resume`, `heal`).
    fn is_repair(&self) -> bool {
        matches!(self.spec.rsplit(':').next(), Some("start" | "resume" | "heal"))
    }

    /// Returns when a fault with a duration ended by itself: `pause=5s` ends five seconds after it took effect.
    fn repaired_at(&self) -> Option<Moment> {
        let action = self.spec.rsplit(':').next()?;
        let (name, span) = action.split_once('=')?;
        let lasts = matches!(name, "pause" | "half-open").then(|| settings::duration::parse(span))??;
        Some(self.ended?.saturating_add(lasts))
    }

    /// Returns whether the fault can have caused an event at `at`, up to `reach` after it took effect.
    fn reaches(&self, at: Moment, reach: Duration) -> bool {
        let ended = self.ended.map_or(Duration::MAX, |ended| ended.saturating_add(reach));
        self.began.is_some_and(|began| began <= at) && at <= ended
    }
}

/// Returns whether a name has the form `server-1`, which faults use and servers of a native stack state.
fn is_numbered_server(name: &str) -> bool {
    name.strip_prefix("server-").is_some_and(|number| number.parse::<u16>().is_ok())
}

/// Log of all faults of a run.
#[derive(Debug, Default)]
pub struct FaultLog {
    any: AtomicBool,
    affects_servers: AtomicBool,
    /// Maps the name that a server states to its name in fault specifications, where they differ.
    stated: OnceLock<BTreeMap<String, String>>,
    records: Mutex<Vec<FaultRecord>>,
}

impl FaultLog {
    /// Creates the log of a run that plans these faults, each with its time from the first send.
    #[must_use]
    pub fn new<'a>(planned: impl IntoIterator<Item = (&'a str, Duration)>) -> Self {
        let log = Self::default();
        log.extend(planned.into_iter().map(|(spec, at)| FaultRecord::planned(spec, at)));
        log
    }

    /// Adds a fault that was not planned when the run began. Returns its index.
    pub fn add(&self, spec: &str, at: Duration) -> usize {
        self.extend([FaultRecord::planned(spec, at)]) - 1
    }

    /// Adds records. Returns the number of all.
    fn extend(&self, more: impl IntoIterator<Item = FaultRecord>) -> usize {
        let mut records = self.records.lock();
        records.extend(more);
        self.any.store(!records.is_empty(), Relaxed);
        self.affects_servers.store(records.iter().any(|record| record.servers().is_some()), Relaxed);
        records.len()
    }

    /// Sets the map from names that servers state to names in fault specifications. Only the first call has an effect.
    pub fn set_stated_names(&self, stated: BTreeMap<String, String>) {
        let _ = self.stated.set(stated);
    }

    /// Returns the map from names that servers state to names in fault specifications.
    #[must_use]
    pub fn stated_names(&self) -> BTreeMap<String, String> {
        self.stated.get().cloned().unwrap_or_default()
    }

    /// Returns whether any fault targets a server.
    #[must_use]
    pub fn affects_servers(&self) -> bool {
        self.affects_servers.load(Relaxed)
    }

    /// Returns whether a fault made `server` late with an event that was due at `due`. For a server whose name in fault
    /// specifications is unknown, only the time decides.
    #[must_use]
    pub fn excuse(&self, server: Option<&str>, due: Moment) -> bool {
        let server = server
            .map(|name| self.stated.get().and_then(|stated| stated.get(name)).map_or(name, String::as_str));
        let server = server.filter(|name| is_numbered_server(name));
        let records = self.records.lock();
        records.iter().enumerate().any(|(index, record)| {
            if record.is_repair() || !record.breaks(server) {
                return false;
            }
            let same = |later: &FaultRecord| match server {
                None => later.servers() == record.servers(),
                Some(_) => later.breaks(server),
            };
            let later = records[index + 1..].iter().filter(|later| same(later));
            let ends = record.repaired_at().or_else(|| later.filter_map(|later| later.ended).min());
            record.began.is_some_and(|began| began <= due) && ends.is_none_or(|ends| due <= ends)
        })
    }

    /// Records that the injection of fault `index` starts.
    pub fn begin(&self, index: usize, first_send: Moment, at: Moment) {
        if let Some(record) = self.records.lock().get_mut(index) {
            (record.first_send, record.began, record.status) =
                (Some(first_send), Some(at), FaultStatus::Begun);
        }
    }

    /// Sets the members that fault `index` was applied to.
    pub fn set_members(&self, index: usize, members: Vec<String>) {
        if let Some(record) = self.records.lock().get_mut(index) {
            record.members = members;
        }
    }

    /// Sets the instances that fault `index` started.
    pub fn set_cold_starts(&self, index: usize, cold_starts: Vec<ColdStart>) {
        if let Some(record) = self.records.lock().get_mut(index) {
            record.cold_starts = cold_starts;
        }
    }

    /// Adds when the instances that faults started served for the first time.
    pub fn add_first_served(&self, seen: &FirstServed) {
        let mut records = self.records.lock();
        let commands: Vec<_> = records
            .iter()
            .flat_map(|record| &record.cold_starts)
            .map(|start| (start.instance.clone(), start.commanded))
            .collect();
        for start in records.iter_mut().flat_map(|record| &mut record.cold_starts) {
            let later = commands.iter().filter(|(name, at)| *name == start.instance && *at > start.commanded);
            let until = later.map(|(_, at)| *at).min();
            start.look(seen, until);
        }
    }

    /// Records that fault `index` is in effect or failed.
    pub fn end(&self, index: usize, at: Option<Moment>, status: FaultStatus) {
        if let Some(record) = self.records.lock().get_mut(index) {
            (record.ended, record.status) = (at, status);
        }
    }

    /// Takes over when and how another process injected the faults, as far as it knows more than this log. Effects on sessions stay
    /// as they are. Faults that the other process added are added here too.
    pub fn take_over(&self, injected: &[FaultRecord]) {
        let known = self.records.lock().len();
        let added = injected.iter().skip(known).map(|record| FaultRecord::planned(&record.spec, record.at));
        self.extend(added);
        let pairs = &mut *self.records.lock();
        for (record, injected) in pairs.iter_mut().zip(injected) {
            if injected.status.progress() <= record.status.progress() {
                continue;
            }
            (record.first_send, record.began, record.ended) =
                (injected.first_send, injected.began, injected.ended);
            (record.status, record.members) = (injected.status.clone(), injected.members.clone());
            record.cold_starts.clone_from(&injected.cold_starts);
        }
    }

    /// Adds the effects of the faults on the sessions of a generator.
    pub fn add_effects(&self, seen: &[FaultRecord]) {
        for (record, seen) in self.records.lock().iter_mut().zip(seen) {
            record.add_effects(seen);
        }
    }

    /// Records an outage that ended: a session had no socket, or its stream was silent for longer than the stall threshold.
    pub fn outage(&self, from: Moment, to: Moment) {
        self.attribute(from, to, |record| {
            record.outages += 1;
            record.recovered = record.recovered.max(Some(to));
        });
    }

    /// Records a query that received nothing after `from` and was given up at `to`.
    pub fn unrecovered(&self, from: Moment, to: Moment) {
        self.attribute(from, to, |record| {
            record.outages += 1;
            record.unrecovered += 1;
        });
    }

    /// Records that an error event with this code ended a query.
    pub fn error_event(&self, at: Moment, code: &str) {
        if !self.any.load(Relaxed) {
            return;
        }
        let mut records = self.records.lock();
        if let Some(record) =
            records.iter_mut().filter(|record| record.reaches(at, ERROR_REACH)).max_by_key(|r| r.began)
        {
            *record.error_events.entry(code.to_owned()).or_default() += 1;
        }
    }

    /// Attributes an outage to one fault: the one nearest to the start of the outage among those that started during the outage
    /// or were in effect at most 10 s before it.
    fn attribute(&self, from: Moment, to: Moment, note: impl FnOnce(&mut FaultRecord)) {
        if !self.any.load(Relaxed) {
            return;
        }
        let distance = |record: &FaultRecord| {
            let began = record.began.filter(|&began| began <= to)?;
            match record.ended {
                _ if began > from => Some(began.saturating_sub(from)),
                Some(ended) => Some(from.saturating_sub(ended)).filter(|&after| after <= REACH),
                None => Some(Duration::ZERO),
            }
        };
        let mut records = self.records.lock();
        let near = records.iter_mut().filter_map(|record| Some((distance(record)?, record)));
        if let Some((_, record)) = near.min_by_key(|(distance, _)| *distance) {
            note(record);
        }
    }

    /// Returns the faults that started in a second of the run, separated by spaces.
    #[must_use]
    pub fn begun_in(&self, second: u64) -> String {
        self.names(|record| record.began.is_some_and(|began| began.as_secs() == second))
    }

    /// Returns the faults that can have affected a query: started before its end, and in effect at most 10 s before its start.
    #[must_use]
    pub fn affecting(&self, from: Moment, to: Moment) -> String {
        self.names(|record| {
            let recent = record.ended.is_none_or(|ended| ended + AFTERMATH >= from);
            record.began.is_some_and(|began| began < to) && recent
        })
    }

    fn names(&self, which: impl Fn(&FaultRecord) -> bool) -> String {
        if !self.any.load(Relaxed) {
            return String::new();
        }
        let records = self.records.lock();
        records.iter().filter(|record| which(record)).map(|r| r.spec.as_str()).collect::<Vec<_>>().join(" ")
    }

    /// Returns a copy of all records.
    #[must_use]
    pub fn records(&self) -> Vec<FaultRecord> {
        self.records.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    /// Creates a log with two faults, at 10 s and at 14 s of the run, each in effect after half a second.
    fn log() -> FaultLog {
        let log = FaultLog::new([("wsproxy-1:kill", ms(9_000)), ("redis:restart=keep", ms(13_000))]);
        for (index, began) in [(0, 10_000), (1, 14_000)] {
            log.begin(index, ms(1_000), ms(began));
            log.end(index, Some(ms(began + 500)), FaultStatus::Injected("done".into()));
        }
        log
    }

    #[test]
    fn an_older_state_of_another_process_is_not_taken_over() {
        let (injecting, following) =
            (log(), FaultLog::new([("wsproxy-1:kill", ms(9_000)), ("redis:kill", ms(13_000))]));
        let planned = following.records();
        following.take_over(&injecting.records());
        following.outage(ms(10_100), ms(10_900));
        following.take_over(&planned);
        let [first, _] = following.records().try_into().unwrap();
        assert_eq!((first.began, first.status.outcome().0, first.outages), (Some(ms(10_000)), "injected", 1));
    }

    #[test]
    fn a_fault_that_nobody_planned_is_recorded_and_taken_over() {
        let (leading, following) = (FaultLog::default(), FaultLog::default());
        assert!(!leading.affects_servers());
        let index = leading.add("server-1:kill", ms(5_000));
        assert!(leading.affects_servers());
        leading.begin(index, ms(1_000), ms(6_000));
        leading.end(index, Some(ms(6_100)), FaultStatus::Injected("done".into()));
        following.take_over(&leading.records());
        following.outage(ms(6_050), ms(6_500));
        let [record] = following.records().try_into().unwrap();
        assert_eq!(
            (record.spec.as_str(), record.began, record.outages),
            ("server-1:kill", Some(ms(6_000)), 1)
        );
        leading.add_effects(&following.records());
        assert_eq!(leading.records()[0].outages, 1);
    }

    #[test]
    fn a_simulator_is_excused_while_its_own_server_was_broken() {
        let log = FaultLog::new([
            ("server-1:pause=5s", ms(9_000)),
            ("wsproxy-1:kill", ms(9_000)),
            ("server-2:stop", ms(20_000)),
            ("server-2:start", ms(30_000)),
        ]);
        assert!(log.affects_servers() && !FaultLog::new([("redis:kill", ms(1))]).affects_servers());
        for (index, began) in [(0, 10_000), (1, 10_000), (2, 21_000), (3, 31_000)] {
            log.begin(index, ms(1_000), ms(began));
            log.end(index, Some(ms(began + 500)), FaultStatus::Injected("done".into()));
        }
        for (server, due, excused) in [
            (Some("server-1"), 9_999, false),
            (Some("server-1"), 10_001, true),
            (Some("server-1"), 15_499, true),
            (Some("server-1"), 15_501, false),
            (Some("server-2"), 12_000, false),
            (Some("server-2"), 31_400, true),
            (Some("server-2"), 32_000, false),
            (Some("server-12"), 12_000, false),
            (None, 12_000, true),
            (Some("server-1a2b3c4d"), 12_000, true),
        ] {
            assert_eq!(log.excuse(server, ms(due)), excused, "{server:?} {due}");
        }
    }

    /// With Compose, servers state the host names of their containers.
    fn stated() -> BTreeMap<String, String> {
        [("server-0a1b2c", "server-1"), ("server-3d4e5f", "server-2")]
            .map(|(stated, name)| (stated.to_owned(), name.to_owned()))
            .into()
    }

    #[test]
    fn a_server_is_excused_by_the_name_that_it_states() {
        let log = FaultLog::new([("server-1:pause=5s", ms(9_000))]);
        log.set_stated_names(stated());
        log.begin(0, ms(1_000), ms(10_000));
        log.end(0, Some(ms(10_500)), FaultStatus::Injected("done".into()));
        for (server, due, excused) in [
            (Some("server-0a1b2c"), 12_000, true),
            (Some("server-0a1b2c"), 15_501, false),
            (Some("server-3d4e5f"), 12_000, false),
            (Some("server-started-later"), 12_000, true),
            (None, 12_000, true),
        ] {
            assert_eq!(log.excuse(server, ms(due)), excused, "{server:?} {due}");
        }
    }

    #[test]
    fn a_fault_of_any_server_excuses_the_one_that_it_was_done_to() {
        let log = FaultLog::new([
            ("server-any:stop", ms(9_000)),
            ("servers:start", ms(12_000)),
            ("wsproxy-any:kill", ms(9_000)),
        ]);
        log.set_stated_names(stated());
        assert!(log.affects_servers());
        log.begin(0, ms(1_000), ms(10_000));
        assert!(log.excuse(Some("server-3d4e5f"), ms(10_100)), "it may still be the one");
        log.set_members(0, vec!["server-2".to_owned()]);
        log.end(0, Some(ms(10_500)), FaultStatus::Injected("done".into()));
        let excused =
            |due| ["server-0a1b2c", "server-3d4e5f"].map(|server| log.excuse(Some(server), ms(due)));
        assert_eq!(excused(11_000), [false, true]);
        log.begin(1, ms(1_000), ms(13_000));
        log.set_members(1, vec!["server-2".to_owned()]);
        log.end(1, Some(ms(13_500)), FaultStatus::Injected("done".into()));
        assert_eq!((excused(13_400), excused(13_600)), ([false, true], [false, false]));
    }

    #[test]
    fn an_outage_is_attributed_to_one_fault() {
        for (from, to, counts) in [
            (9_960, 11_000, (1, 0)),
            (10_100, 11_000, (1, 0)),
            (9_960, 15_000, (1, 0)),
            (13_960, 15_000, (0, 1)),
            (14_100, 16_000, (0, 1)),
            (24_400, 30_000, (0, 1)),
            (24_600, 30_000, (0, 0)),
            (1_000, 9_000, (0, 0)),
        ] {
            let log = log();
            log.outage(ms(from), ms(to));
            let records = log.records();
            assert_eq!((records[0].outages, records[1].outages), counts, "{from}..{to}");
        }
    }

    #[test]
    fn recovery_is_the_end_of_the_last_outage() {
        let log = log();
        assert_eq!(log.records()[0].time_to_recover(), None, "nothing was lost");
        log.outage(ms(10_050), ms(12_500));
        log.outage(ms(10_020), ms(11_000));
        log.unrecovered(ms(10_020), ms(40_000));
        let records = log.records();
        assert_eq!(records[0].time_to_recover(), Some(ms(2_500)));
        assert_eq!((records[0].outages, records[0].unrecovered), (3, 1));
    }

    #[test]
    fn a_started_instance_has_its_own_first_session() {
        let log = log();
        let start = |commanded| ColdStart {
            instance: "wsproxy-4".into(),
            commanded: ms(commanded),
            ready: ms(100),
            serving: Some(ms(200)),
            first_served: None,
        };
        log.set_cold_starts(0, vec![start(1_000)]);
        log.set_cold_starts(1, vec![start(5_000)]);
        let seen =
            |at: &[u64]| FirstServed::from([("wsproxy-4".to_owned(), at.iter().map(|&at| ms(at)).collect())]);
        let first = |log: &FaultLog| {
            let records = log.records();
            [0, 1].map(|index| records[index].cold_starts[0].first_served)
        };
        log.add_first_served(&seen(&[5_300]));
        assert_eq!(first(&log), [None, Some(ms(300))]);
        log.add_first_served(&seen(&[1_400, 5_300]));
        assert_eq!(first(&log), [Some(ms(400)), Some(ms(300))]);
    }

    #[test]
    fn errors_and_rows_know_their_faults() {
        let log = log();
        for (at, code) in
            [(9_000, "peer_lost"), (10_100, "peer_lost"), (12_000, "peer_lost"), (30_000, "late")]
        {
            log.error_event(ms(at), code);
        }
        assert_eq!(log.records()[0].error_events, BTreeMap::from([("peer_lost".to_owned(), 2)]));
        assert_eq!(log.affecting(ms(9_000), ms(9_900)), "");
        assert_eq!(log.affecting(ms(9_500), ms(10_400)), "wsproxy-1:kill");
        assert_eq!(log.affecting(ms(20_500), ms(21_000)), "wsproxy-1:kill redis:restart=keep");
        assert_eq!(log.affecting(ms(20_600), ms(21_000)), "redis:restart=keep");
        assert_eq!((log.begun_in(10).as_str(), log.begun_in(11).as_str()), ("wsproxy-1:kill", ""));
    }
}
