//! Asks `/health` and `/ready` at both doors, all four at once, each second.
//! A door that knows no such path (404) is not asked again: other people's gateways need not have it.

use super::{Plan, usage::Watched};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use parking_lot::Mutex;
use std::{
    fs::File,
    io,
    time::{Duration, Instant},
};
use url::Url;

/// A check that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(2);

/// The doors of a stack.
#[derive(Debug)]
pub(super) struct Doors {
    runtime: tokio::runtime::Runtime,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    /// Name and URL.
    checks: Vec<(String, String)>,
    rows: csv::Writer<File>,
}

impl Doors {
    pub(super) fn new(plan: &Plan<'_>) -> io::Result<Self> {
        let mut rows = csv::Writer::from_writer(File::create(&plan.health)?);
        rows.write_record(["second", "target", "ms", "status"])?;
        rows.flush()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new().with_tls_config(plan.tls.clone()).https_or_http();
        // A connection a check: one that is kept would go on to a process that nobody new reaches.
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(connector.enable_http1().wrap_connector(tcp));
        let doors = [("api", &plan.target.api), ("gateway", &plan.target.ws)];
        let checks = doors.into_iter().flat_map(|(door, url)| {
            ["health", "ready"].map(|check| (format!("{door} /{check}"), address(url, check)))
        });
        Ok(Self { runtime, client, checks: checks.collect(), rows })
    }

    pub(super) fn ask(&mut self, second: u64, seen: &Mutex<Watched>) {
        let asked = self.checks.iter().map(|(_, url)| ask(&self.client, url));
        let answers = self.runtime.block_on(async { join_all(asked).await });
        let mut unknown = Vec::new();
        for ((name, _), (answer, took)) in self.checks.iter().zip(answers) {
            let status = match &answer {
                Ok(status) if *status == StatusCode::NOT_FOUND => {
                    unknown.push(name.clone());
                    continue;
                }
                Ok(status) => status.as_u16().to_string(),
                Err(why) => why.clone(),
            };
            let ms = format!("{:.3}", took.as_secs_f64() * 1e3);
            let is_good = answer.is_ok_and(|status| status.is_success());
            let mut seen = seen.lock();
            if is_good {
                seen.health.record(i64::try_from(took.as_nanos()).unwrap_or(i64::MAX));
            } else {
                seen.check_failed(name, second, status.clone());
            }
            let _ = self.rows.write_record([second.to_string(), name.clone(), ms, status]);
        }
        let _ = self.rows.flush();
        self.checks.retain(|(name, _)| !unknown.contains(name));
    }
}

fn address(door: &Url, check: &str) -> String {
    let scheme = if matches!(door.scheme(), "https" | "wss") { "https" } else { "http" };
    let port = door.port_or_known_default().unwrap_or(80);
    format!("{scheme}://{}:{port}/{check}", door.host_str().unwrap_or_default())
}

async fn ask(
    client: &Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    url: &str,
) -> (Result<StatusCode, String>, Duration) {
    let began = Instant::now();
    let answer = match Request::get(url).body(Empty::new()) {
        Ok(request) => match tokio::time::timeout(PATIENCE, client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer.status()),
            Ok(Err(_)) => Err("no answer".to_owned()),
            Err(_) => Err("no answer in 2 s".to_owned()),
        },
        Err(_) => Err("no address".to_owned()),
    };
    (answer, began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_for_sockets_answers_calls() {
        for (door, url) in [
            ("ws://127.0.0.1:8081/x", "http://127.0.0.1:8081/health"),
            ("wss://a.example", "https://a.example:443/health"),
        ] {
            assert_eq!(address(&door.parse().unwrap(), "health"), url);
        }
    }
}
