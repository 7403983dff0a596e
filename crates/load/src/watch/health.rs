//! Asks `/health` and `/ready` at both doors and of every instance behind them, all at once, each second.
//! A door that has no such page, or not for this client, is not asked again: other people's gateways need not have it.

use super::{
    Plan,
    call::{Call, Caller},
    members::Members,
    usage::Observations,
};
use http::{HeaderMap, StatusCode, header};
use measure::{Quantity, Reading, ReadingBuffer};
use parking_lot::Mutex;
use settings::{
    address::{Address, replace_headers},
    cells::CellWriter,
};
use std::{collections::BTreeSet, fs::File, io};

const CHECKS: [&str; 2] = ["health", "ready"];

/// The doors of a stack, and who is behind them.
#[derive(Debug)]
pub(super) struct Doors {
    caller: Caller,
    doors: Vec<Door>,
    members: Members,
    /// Checks that somebody does not know.
    unknown: BTreeSet<String>,
    /// Checks that went well once: what fails later is a failure, whatever its status.
    good: BTreeSet<String>,
    /// Who has answered once: an instance that cannot be reached from here is not one that failed.
    reached: BTreeSet<String>,
    rows: CellWriter<File>,
    readings: ReadingBuffer,
}

/// Where a load balancer, a server or a gateway is asked, and how: as the run itself asks it.
#[derive(Clone, Debug)]
struct Door {
    name: String,
    address: Address,
    headers: HeaderMap,
}

impl Door {
    fn new(name: &str, address: &Address, theirs: &HeaderMap) -> Self {
        let mut headers: HeaderMap =
            address.authorization().map(|value| (header::AUTHORIZATION, value.clone())).into_iter().collect();
        replace_headers(&mut headers, theirs);
        // Nothing is upgraded, and nothing is sent.
        for name in [header::SEC_WEBSOCKET_PROTOCOL, header::CONTENT_TYPE] {
            headers.remove(name);
        }
        Self { name: name.to_owned(), address: address.clone(), headers }
    }

    /// `http://host:port`, the port always named.
    fn address(&self) -> String {
        let url = self.address.url();
        let scheme = if matches!(url.scheme(), "https" | "wss") { "https" } else { "http" };
        let port = url.port_or_known_default().unwrap_or(80);
        format!("{scheme}://{}:{port}", url.host_str().unwrap_or_default())
    }

    fn check(&self, check: &str) -> Check {
        let url = format!("{}{}", self.address(), self.address.join(&format!("/{check}")));
        let call = Call { url, headers: self.headers.clone() };
        Check { target: self.name.clone(), name: format!("{} /{check}", self.name), call }
    }
}

/// Somebody to ask.
struct Check {
    target: String,
    name: String,
    call: Call,
}

impl Doors {
    pub(super) fn new(plan: &Plan<'_>, members: Members) -> io::Result<Self> {
        let mut rows = CellWriter::new(File::create(&plan.health)?);
        rows.write_record(["second", "target", "ms", "status"])?;
        rows.flush()?;
        let doors = [("api", &plan.target.api), ("gateway", &plan.target.ws)];
        let doors = doors.map(|(name, address)| Door::new(name, address, &plan.target.headers));
        Ok(Self {
            caller: Caller::new(plan.tls)?,
            doors: doors.into(),
            members,
            unknown: BTreeSet::new(),
            good: BTreeSet::new(),
            reached: BTreeSet::new(),
            rows,
            readings: plan.readings.clone(),
        })
    }

    pub(super) fn ask(&mut self, second: u64, seen: &Mutex<Observations>) {
        let checks = self.checks();
        let calls: Vec<_> = checks.iter().map(|check| check.call.clone()).collect();
        let mut readings = Vec::new();
        for (check, answer) in checks.into_iter().zip(self.caller.get(&calls)) {
            let Check { target, name, .. } = check;
            let status = answer.said.map(|(status, _)| status);
            if status.is_ok_and(is_unknown) && !self.good.contains(&name) {
                self.unknown.insert(name);
                continue;
            }
            let is_door = self.doors.iter().any(|door| door.name == target);
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
                self.good.insert(name.clone());
                readings.push(reading(Quantity::HealthMs, ms));
            } else {
                seen.lock().check_failed(&name, second, shown.clone());
            }
            // A full disk costs rows of this table alone; the run's own results tell it.
            let _ = self.rows.write_record([second.to_string(), name, format!("{ms:.3}"), shown]);
        }
        seen.lock().unreached.retain(|target| !self.reached.contains(target));
        let _ = self.rows.flush();
        self.readings.tell(second.saturating_sub(1), readings);
    }

    /// Both doors, then the instances that are no door themselves.
    fn checks(&self) -> Vec<Check> {
        let mut targets = self.doors.clone();
        for member in self.members.lock().iter() {
            let Some(url) = member.http.and_then(|http| format!("http://{http}").parse().ok()) else {
                continue;
            };
            let door = Door::new(&member.name, &Address::new(url), &HeaderMap::new());
            if self.doors.iter().all(|known| known.address() != door.address()) {
                targets.push(door);
            }
        }
        let checks = targets.iter().flat_map(|door| CHECKS.map(|check| door.check(check)));
        checks.filter(|check| !self.unknown.contains(&check.name)).collect()
    }
}

/// Whether an answer means that there is no such page, or not for this client. Too many requests is a failure.
fn is_unknown(status: StatusCode) -> bool {
    (status.is_client_error() || status.is_redirection()) && status != StatusCode::TOO_MANY_REQUESTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn door(url: &str, headers: &[(&'static str, &'static str)]) -> Door {
        let headers = headers
            .iter()
            .map(|&(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)));
        Door::new("api", &Address::new(url.parse().unwrap()), &headers.collect())
    }

    #[test]
    fn a_door_for_sockets_answers_calls() {
        for (url, check) in [
            ("ws://127.0.0.1:8081/x", "http://127.0.0.1:8081/x/ready"),
            ("wss://a.example", "https://a.example:443/ready"),
            ("http://a.example/base/?key=1", "http://a.example:80/base/ready?key=1"),
        ] {
            assert_eq!(door(url, &[]).check("ready").call.url, check);
        }
    }

    #[test]
    fn a_door_is_asked_as_the_run_asks_it() {
        let door =
            door("ws://user:pass@127.0.0.1", &[("host", "name.test"), ("sec-websocket-protocol", "v1")]);
        let headers = door.check("ready").call.headers;
        assert_eq!((headers.len(), &headers["host"]), (2, &HeaderValue::from_static("name.test")));
        assert_eq!(headers["authorization"], "Basic dXNlcjpwYXNz");
    }

    #[test]
    fn only_what_a_server_owes_everybody_is_a_failure() {
        for status in [301, 302, 401, 403, 404, 405, 410] {
            assert!(is_unknown(StatusCode::from_u16(status).unwrap()), "{status}");
        }
        for status in [200, 204, 429, 500, 502, 503] {
            assert!(!is_unknown(StatusCode::from_u16(status).unwrap()), "{status}");
        }
    }
}
