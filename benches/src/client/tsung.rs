//! tsung, an Erlang load client. One user is one session, from its creation to the end of its stream. tsung counts the bytes that
//! a socket receives and does not parse them, so the bytes are compared with the gateway's count.

use super::{Load, RAMP_UP, scrape::Scrape};
use crate::record::{Record, Verdict};
use anyhow::{Context, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

/// Paths of the grammar that every configuration must name.
const GRAMMARS: [&str; 2] = ["/usr/share/tsung/tsung-1.0.dtd", "/usr/local/share/tsung/tsung-1.0.dtd"];
/// Time before the first token. In it tsung returns from the call that submitted the query to its socket.
const TTFT: Duration = Duration::from_millis(500);
/// Time for which sockets stay open after the last token. It must exceed the lateness of the machine.
const LINGER: Duration = Duration::from_secs(3);
/// Erlang's flags: no name daemon, no other nodes, Ctrl+C ends it, and schedulers sleep instead of spinning.
const ERLANG: &str = "-start_epmd false -erl_epmd_port 0 -kernel inet_dist_use_interface {127,0,0,1} \
                      +Bd +sbwt none +sbwtdcpu none +sbwtdio none";

pub(super) fn command(load: &Load) -> anyhow::Result<Command> {
    let Some(grammar) = GRAMMARS.into_iter().find(|grammar| Path::new(grammar).is_file()) else {
        bail!("cannot find tsung's grammar in {}: run `apt-get install tsung`", GRAMMARS.join(", "));
    };
    let file = load.output.join("tsung.xml");
    fs::write(&file, configuration(load, grammar))?;
    let mut command = Command::new("tsung");
    command
        .args(["-n", "-w", "0", "-f"])
        .arg(&file)
        .arg("-l")
        .arg(&load.output)
        .arg("start")
        .env("HOME", &load.output)
        .env("ERL_FLAGS", ERLANG)
        .env("ERL_CRASH_DUMP_BYTES", "0")
        // tsung's monitors report their end there.
        .stderr(Stdio::null());
    Ok(command)
}

/// Returns the configuration. tsung's plug-in for WebSockets cannot send an additional header, so the path, which may contain
/// variables, carries it. One user creates a session, opens its socket and submits its query.
fn configuration(load: &Load, grammar: &str) -> String {
    let Load { clients, tokens, api, gateway, .. } = load;
    let per_second = f64::from(*clients) / RAMP_UP.as_secs_f64();
    // Users come at random times, so the last one may be late.
    let phase = 2 * RAMP_UP.as_secs();
    let (ttft_ms, itl_ms) = (TTFT.as_millis(), load.interval_ms());
    let stay = (TTFT + load.length() + LINGER).as_secs_f64().ceil();
    let [api_host, gateway_host] = [api, gateway].map(|address| address.ip().to_string());
    let [api_port, gateway_port] = [api, gateway].map(|address| address.port());
    format!(
        r#"<?xml version="1.0"?>
<!DOCTYPE tsung SYSTEM "{grammar}">
<tsung loglevel="warning" version="1.0">
  <clients><client host="localhost" use_controller_vm="true" maxusers="20000"/></clients>
  <servers><server host="{api_host}" port="{api_port}" type="tcp"/></servers>
  <load>
    <arrivalphase phase="1" duration="{phase}" unit="second">
      <users maxnumber="{clients}" arrivalrate="{per_second}" unit="second"/>
    </arrivalphase>
  </load>
  <sessions>
    <session name="stream" probability="100" type="ts_http">
      <setdynvars sourcetype="eval" code='fun(_) -> "\r\n" end.'><var name="crlf"/></setdynvars>
      <request>
        <dyn_variable name="id" jsonpath="$.session_id"/>
        <dyn_variable name="token" jsonpath="$.auth_token"/>
        <http url="/session/create" method="POST" content_type="application/json" contents="{{}}"/>
      </request>
      <change_type new_type="ts_websocket" host="{gateway_host}" port="{gateway_port}" server_type="tcp" store="true" bidi="true"/>
      <request subst="true">
        <websocket type="connect" path="/bench/ws/%%_id%% HTTP/1.1%%_crlf%%Authorization: Bearer %%_token%%%%_crlf%%X-Version:"/>
      </request>
      <change_type new_type="ts_http" host="{api_host}" port="{api_port}" server_type="tcp" store="true" restore="true"/>
      <request subst="true">
        <http url="/session/%%_id%%/run" method="POST" content_type="application/json" contents='{{"query":"bench","tokens":{tokens},"ttft_ms":{ttft_ms},"itl_ms":{itl_ms}}}'/>
      </request>
      <change_type new_type="ts_websocket" host="{gateway_host}" port="{gateway_port}" server_type="tcp" restore="true" bidi="true"/>
      <thinktime value="{stay}"/>
      <request><websocket type="close"/></request>
    </session>
  </sessions>
</tsung>
"#
    )
}

pub(super) fn judge(record: &mut Record, load: &Load, gateway: &Scrape) -> anyhow::Result<()> {
    let log = fs::read_to_string(log(&load.output)?)?;
    let totals = Totals::parse(&log);
    record.add("tokens_expected", load.all_tokens() as f64);
    record.add("bytes_sent{gateway}", gateway.bytes as f64);
    record.add("bytes_received{client}", totals.bytes as f64);
    record.reasons.extend(faults(load, gateway, &totals));
    if !record.reasons.is_empty() {
        record.verdict = Verdict::NotClean;
    }
    Ok(())
}

/// `<output>/<date>/tsung.log`.
fn log(output: &Path) -> anyhow::Result<PathBuf> {
    let entries = fs::read_dir(output)?.filter_map(|entry| Some(entry.ok()?.path().join("tsung.log")));
    entries.into_iter().find(|log| log.is_file()).context("tsung wrote no log: check its configuration")
}

/// Counts of tsung over the whole run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    /// Received bytes, with the responses to calls.
    bytes: u64,
    /// Sockets that were opened.
    sockets: u64,
    /// Error counters by tsung's names.
    errors: Vec<(String, u64)>,
}

impl Totals {
    /// Reads lines of the form `stats: NAME now TOTAL`, which tsung writes every ten seconds and at the end.
    fn parse(log: &str) -> Self {
        let mut totals = Self::default();
        for line in log.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let &["stats:", name, _, total] = fields.as_slice() else { continue };
            let Ok(total) = total.parse() else { continue };
            match name {
                "size_rcv" => totals.bytes = total,
                "websocket_succ" => totals.sockets = total,
                name if name.starts_with("error") || name == "websocket_fail" => {
                    totals.errors.retain(|(known, _)| known != name);
                    totals.errors.push((name.to_owned(), total));
                }
                _ => {}
            }
        }
        totals
    }
}

/// Returns what is missing. tsung's bytes minus the gateway's are the responses to its calls. These have the same length for
/// every client. If the difference is not a multiple of the number of clients, something did not arrive.
fn faults(load: &Load, gateway: &Scrape, totals: &Totals) -> Vec<String> {
    let clients = u64::from(load.clients);
    let mut faults: Vec<String> =
        totals.errors.iter().map(|(name, count)| format!("tsung counted {count} {name}")).collect();
    let sent = load.all_tokens() + clients;
    if gateway.events != sent {
        faults.push(format!("the gateway sent {} events of {sent}", gateway.events));
    }
    if totals.sockets != clients {
        faults.push(format!("{} sockets of {clients} were opened", totals.sockets));
    }
    match totals.bytes.checked_sub(gateway.bytes) {
        Some(responses) if responses > 0 && responses % clients == 0 => {}
        _ => {
            let Totals { bytes, .. } = totals;
            faults.push(format!(
                "{bytes} bytes arrived, responses included; the gateway sent {}",
                gateway.bytes
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        Load {
            clients: 100,
            tokens: 100,
            interval: Duration::from_millis(50),
            api: ([127, 0, 0, 1], 8080).into(),
            gateway: ([127, 0, 0, 1], 4040).into(),
            output: "/output".into(),
        }
    }

    #[test]
    fn one_user_is_one_session() {
        insta::assert_snapshot!(configuration(&load(), "/tsung.dtd"));
    }

    #[test]
    fn the_last_totals_count() {
        let log = "# stats: dump at 1\nstats: users 0 100\nstats: size_rcv 10 10\nstats: websocket_succ 60 60\n\
                   stats: error_closed 1 1\nstats: request 28 0.41 0.1 17.8 0.0 1.5 372\n# stats: dump at 2\n\
                   stats: size_rcv 5 15\nstats: websocket_succ 40 100\nstats: error_closed 1 2\nEndMonitor:{1,2,3}\n";
        let errors = vec![("error_closed".to_owned(), 2)];
        assert_eq!(Totals::parse(log), Totals { bytes: 15, sockets: 100, errors });
    }

    #[test]
    fn a_token_that_did_not_arrive_is_noticed() {
        let gateway = Scrape { connections: 0, events: 10_100, bytes: 1_548_100 };
        let check = |gateway: Scrape, bytes, expected: &str| {
            let totals = Totals { bytes, sockets: 100, errors: Vec::new() };
            assert_eq!(faults(&load(), &gateway, &totals).join("; "), expected);
        };
        check(gateway, 1_630_800, "");
        check(gateway, 1_630_648, "1630648 bytes arrived, responses included; the gateway sent 1548100");
        check(gateway, 1_500_000, "1500000 bytes arrived, responses included; the gateway sent 1548100");
        check(Scrape { events: 10_099, ..gateway }, 1_630_800, "the gateway sent 10099 events of 10100");
        let totals = Totals { bytes: 1_630_800, sockets: 99, errors: vec![("error_closed".into(), 1)] };
        let expected = ["tsung counted 1 error_closed", "99 sockets of 100 were opened"];
        assert_eq!(faults(&load(), &gateway, &totals), expected);
    }
}
