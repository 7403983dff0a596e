//! Asks `/health` and `/ready` at both doors and of every instance behind them, all at once, each second.
//! A door that knows no such path (404) is not asked again: other people's gateways need not have it.

use super::{Plan, call::Caller, members::Members, usage::Watched};
use crate::{
    measure::{Beside, Quantity, Reading},
    output::cells::CellWriter,
};
use http::StatusCode;
use parking_lot::Mutex;
use std::{collections::BTreeSet, fs::File, io};
use url::Url;

const CHECKS: [&str; 2] = ["health", "ready"];

/// The doors of a stack, and who is behind them.
#[derive(Debug)]
pub(super) struct Doors {
    caller: Caller,
    /// Name and address, `http://host:port`.
    doors: Vec<(String, String)>,
    members: Members,
    /// Checks that somebody does not know.
    unknown: BTreeSet<String>,
    /// Who has answered once: an instance that cannot be reached from here is not one that failed.
    reached: BTreeSet<String>,
    rows: CellWriter<File>,
    beside: Beside,
}

/// Somebody to ask.
struct Check {
    target: String,
    name: String,
    url: String,
}

impl Doors {
    pub(super) fn new(plan: &Plan<'_>, members: Members) -> io::Result<Self> {
        let mut rows = CellWriter::new(File::create(&plan.health)?);
        rows.write_record(["second", "target", "ms", "status"])?;
        rows.flush()?;
        let doors = [("api", &plan.target.api), ("gateway", &plan.target.ws)];
        Ok(Self {
            caller: Caller::new(plan.tls)?,
            doors: doors.map(|(name, url)| (name.to_owned(), address(url))).into(),
            members,
            unknown: BTreeSet::new(),
            reached: BTreeSet::new(),
            rows,
            beside: plan.beside.clone(),
        })
    }

    pub(super) fn ask(&mut self, second: u64, seen: &Mutex<Watched>) {
        let checks = self.checks();
        let urls: Vec<_> = checks.iter().map(|check| check.url.clone()).collect();
        let mut readings = Vec::new();
        for (check, answer) in checks.into_iter().zip(self.caller.get(&urls)) {
            let Check { target, name, .. } = check;
            let status = match answer.said {
                Ok((StatusCode::NOT_FOUND, _)) => {
                    self.unknown.insert(name);
                    continue;
                }
                Ok((status, _)) => Ok(status),
                Err(why) => Err(why),
            };
            let is_door = self.doors.iter().any(|door| door.0 == target);
            if status.is_ok() {
                self.reached.insert(target.clone());
            } else if !is_door && !self.reached.contains(&target) {
                seen.lock().unreached.insert(target);
                continue;
            }
            let ms = answer.took.as_secs_f64() * 1e3;
            let is_good = status.is_ok_and(|status| status.is_success());
            let shown = status.map_or_else(str::to_owned, |status| status.as_u16().to_string());
            let reading = |quantity, value| Reading { quantity, label: target.clone(), value };
            readings.push(reading(Quantity::HealthFailures, f64::from(u8::from(!is_good))));
            if is_good {
                readings.push(reading(Quantity::HealthMs, ms));
            } else {
                seen.lock().check_failed(&name, second, shown.clone());
            }
            // A full disk costs rows of this table alone; the run's own results tell it.
            let _ = self.rows.write_record([second.to_string(), name, format!("{ms:.3}"), shown]);
        }
        seen.lock().unreached.retain(|target| !self.reached.contains(target));
        let _ = self.rows.flush();
        self.beside.tell(second.saturating_sub(1), readings);
    }

    /// Both doors, then the instances that are no door themselves.
    fn checks(&self) -> Vec<Check> {
        let mut targets = self.doors.clone();
        for member in self.members.lock().iter() {
            let address = member.http.map(|http| format!("http://{http}"));
            if let Some(address) = address.filter(|address| self.doors.iter().all(|door| door.1 != *address))
            {
                targets.push((member.name.clone(), address));
            }
        }
        let check = |(target, address): &(String, String), check: &str| Check {
            target: target.clone(),
            name: format!("{target} /{check}"),
            url: format!("{address}/{check}"),
        };
        let checks = targets.iter().flat_map(|target| CHECKS.map(|name| check(target, name)));
        checks.filter(|check| !self.unknown.contains(&check.name)).collect()
    }
}

fn address(door: &Url) -> String {
    let scheme = if matches!(door.scheme(), "https" | "wss") { "https" } else { "http" };
    let port = door.port_or_known_default().unwrap_or(80);
    format!("{scheme}://{}:{port}", door.host_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_for_sockets_answers_calls() {
        for (door, url) in
            [("ws://127.0.0.1:8081/x", "http://127.0.0.1:8081"), ("wss://a.example", "https://a.example:443")]
        {
            assert_eq!(address(&door.parse().unwrap()), url);
        }
    }
}
