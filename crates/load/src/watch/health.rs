//! Calls `/health` and `/ready` at the public addresses and at every instance, concurrently, each second.
//! A page that does not exist or is not accessible is not called again: foreign gateways need not have it.

use super::{
    call::{Call, Caller},
    config::WatchConfig,
    inventory::Member,
    members::Members,
};
use http::{HeaderMap, StatusCode, header};
use measure::{Quantity, Reading, ReadingBuffer, observations::Observations};
use parking_lot::Mutex;
use settings::{
    address::{Address, replace_headers},
    cells::CellWriter,
};
use std::{collections::BTreeSet, fs::File, io};

const CHECKS: [&str; 2] = ["health", "ready"];

/// The health checks of a stack: of its public addresses and its members.
#[derive(Debug)]
pub(super) struct HealthChecks {
    caller: Caller,
    /// The first address of the API and of the gateway.
    public: Vec<HealthTarget>,
    /// Their further addresses.
    more_public: Vec<HealthTarget>,
    members: Members,
    /// Checks without a page: their target does not have it, or not for this client.
    unknown: BTreeSet<String>,
    /// Checks that succeeded once. From then on, any other status is a failure.
    good: BTreeSet<String>,
    /// Targets that responded once. An instance that never did is unreachable from this machine, not failed.
    reached: BTreeSet<String>,
    rows: CellWriter<File>,
    readings: ReadingBuffer,
}

/// A load balancer, server or gateway to check, with the headers that the run itself sends.
#[derive(Clone, Debug)]
struct HealthTarget {
    name: String,
    address: Address,
    headers: HeaderMap,
}

impl HealthTarget {
    fn new(name: &str, address: &Address, theirs: &HeaderMap) -> Self {
        let mut headers: HeaderMap =
            address.authorization().map(|value| (header::AUTHORIZATION, value.clone())).into_iter().collect();
        replace_headers(&mut headers, theirs);
        // The checks upgrade no connection and send no body.
        for name in [header::SEC_WEBSOCKET_PROTOCOL, header::CONTENT_TYPE] {
            headers.remove(name);
        }
        Self { name: name.to_owned(), address: address.clone(), headers }
    }

    /// Returns `http://host:port` or `https://host:port`, always with the port.
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

/// A check to make.
struct Check {
    target: String,
    name: String,
    call: Call,
}

impl HealthChecks {
    pub(super) fn new(config: &WatchConfig, members: Members) -> io::Result<Self> {
        let mut rows = CellWriter::new(File::create(&config.health)?);
        rows.write_record(["second", "target", "ms", "status"])?;
        rows.flush()?;
        let target = &config.target;
        let public = [("api", &target.api), ("gateway", &target.ws)];
        let public = public.map(|(name, address)| HealthTarget::new(name, address, &target.headers));
        // A foreign server may charge for calls, and need not have these pages.
        let public = if target.foreign.is_some() { Vec::new() } else { public.into() };
        let more_public = config.more_public();
        let more_public =
            more_public.map(|(name, address)| HealthTarget::new(&name, address, &target.headers));
        Ok(Self {
            caller: Caller::new(&config.tls)?,
            public,
            more_public: more_public.collect(),
            members,
            unknown: BTreeSet::new(),
            good: BTreeSet::new(),
            reached: BTreeSet::new(),
            rows,
            readings: config.readings.clone(),
        })
    }

    /// Makes all checks for a second of the run.
    pub(super) fn run(&mut self, second: u64, seen: &Mutex<Observations>) {
        let checks = self.checks();
        let calls: Vec<_> = checks.iter().map(|check| check.call.clone()).collect();
        let mut readings = Vec::new();
        for (check, result) in checks.into_iter().zip(self.caller.get(&calls)) {
            let Check { target, name, .. } = check;
            let status = result.response.map(|(status, _)| status);
            if status.is_ok_and(is_unknown) && !self.good.contains(&name) {
                self.unknown.insert(name);
                continue;
            }
            let is_public = self.public.iter().chain(&self.more_public).any(|public| public.name == target);
            if status.is_ok() {
                self.reached.insert(target.clone());
            } else if !is_public && !self.reached.contains(&target) {
                seen.lock().unreached.insert(target);
                continue;
            }
            let ms = result.took.as_secs_f64() * 1e3;
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
            // An error is ignored: a full disk affects the run's own results as well, which report it.
            let _ = self.rows.write_record([second.to_string(), name, format!("{ms:.3}"), shown]);
        }
        seen.lock().unreached.retain(|target| !self.reached.contains(target));
        let _ = self.rows.flush();
        self.readings.push(second.saturating_sub(1), readings);
    }

    /// Returns the checks of the first public addresses, of the members and of the further public addresses, each address once.
    fn checks(&self) -> Vec<Check> {
        let member = |member: &Member| {
            let url = format!("http://{}", member.http?).parse().ok()?;
            Some(HealthTarget::new(&member.name, &Address::new(url), &HeaderMap::new()))
        };
        let members: Vec<_> = self.members.lock().iter().filter_map(member).collect();
        let mut targets = self.public.clone();
        for target in members.iter().chain(&self.more_public) {
            if targets.iter().all(|known| known.address() != target.address()) {
                targets.push(target.clone());
            }
        }
        let checks = targets.iter().flat_map(|target| CHECKS.map(|check| target.check(check)));
        checks.filter(|check| !self.unknown.contains(&check.name)).collect()
    }
}

/// Returns whether the status means that the page does not exist or is not accessible. 429 is a failure instead.
fn is_unknown(status: StatusCode) -> bool {
    (status.is_client_error() || status.is_redirection()) && status != StatusCode::TOO_MANY_REQUESTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn target(url: &str, headers: &[(&'static str, &'static str)]) -> HealthTarget {
        let headers = headers
            .iter()
            .map(|&(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)));
        HealthTarget::new("api", &Address::new(url.parse().unwrap()), &headers.collect())
    }

    #[test]
    fn checks_of_a_websocket_address_use_http() {
        for (url, check) in [
            ("ws://127.0.0.1:8081/x", "http://127.0.0.1:8081/x/ready"),
            ("wss://a.example", "https://a.example:443/ready"),
            ("http://a.example/base/?key=1", "http://a.example:80/base/ready?key=1"),
        ] {
            assert_eq!(target(url, &[]).check("ready").call.url, check);
        }
    }

    #[test]
    fn checks_send_the_headers_of_the_run() {
        let target =
            target("ws://user:pass@127.0.0.1", &[("host", "name.test"), ("sec-websocket-protocol", "v1")]);
        let headers = target.check("ready").call.headers;
        assert_eq!((headers.len(), &headers["host"]), (2, &HeaderValue::from_static("name.test")));
        assert_eq!(headers["authorization"], "Basic dXNlcjpwYXNz");
    }

    #[test]
    fn a_missing_page_is_not_a_failure() {
        for status in [301, 302, 401, 403, 404, 405, 410] {
            assert!(is_unknown(StatusCode::from_u16(status).unwrap()), "{status}");
        }
        for status in [200, 204, 429, 500, 502, 503] {
            assert!(!is_unknown(StatusCode::from_u16(status).unwrap()), "{status}");
        }
    }
}
