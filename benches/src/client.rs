//! `bench client`: measures CPU time per token and memory of a load client while it creates sessions, connects, submits and
//! receives, against real servers and one gateway. Every client runs the same load, and its own counts are recorded too.

mod k6;
mod ours;
mod scrape;
mod tsung;

use crate::{
    args::{Client, Clients, Way},
    dial::Address,
    judge,
    record::Record,
    rig::{Rig, programs},
    usage::{Snapshot, Used, Watched},
};
use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use scrape::Scrape;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, sleep_until, timeout},
};

/// Time over which clients start, evenly.
const RAMP_UP: Duration = Duration::from_secs(4);
/// Time by which streams are longer than the window, so that each of them covers all of it.
const SPARE: Duration = Duration::from_secs(2);
/// Time limit for opening all sockets, and for ending after the streams.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two scrapes of the gateway while a peer opens its sockets.
const SCRAPE_EVERY: Duration = Duration::from_millis(50);

/// The load that every client runs: sessions with one query each.
#[derive(Clone, Debug)]
struct Load {
    clients: u32,
    /// Tokens of each query.
    tokens: u32,
    /// Time between two tokens of a query.
    interval: Duration,
    api: SocketAddr,
    gateway: SocketAddr,
    /// Directory for all files of the client.
    output: PathBuf,
}

impl Load {
    fn of(rig: &Rig, options: &Client, output: &Path) -> anyhow::Result<Self> {
        let Address::Tcp(gateway) = rig.address(options.target.way)? else {
            bail!("load clients use TCP: use --way {} or {}", Way::Tcp.name(), Way::Haproxy.name());
        };
        let length = RAMP_UP + options.shape.warm_up + options.shape.duration + SPARE;
        let api = rig.api_url().strip_prefix("http://").unwrap_or_default();
        Ok(Self {
            clients: options.clients,
            tokens: (length.as_secs_f64() * options.shape.per_connection).ceil() as u32,
            interval: Duration::from_secs_f64(options.shape.per_connection.recip()),
            api: api.parse().with_context(|| format!("`{api}` is not an address"))?,
            gateway,
            output: output.to_owned(),
        })
    }

    /// Returns the duration of a stream.
    fn length(&self) -> Duration {
        self.interval * self.tokens
    }

    fn interval_ms(&self) -> f64 {
        self.interval.as_secs_f64() * 1e3
    }

    /// Returns the number of tokens of all clients.
    fn all_tokens(&self) -> u64 {
        u64::from(self.clients) * u64::from(self.tokens)
    }
}

/// Starts a rig and a client, and measures both.
pub(crate) async fn measure(options: &Client) -> anyhow::Result<Record> {
    if options.target.gateway.is_nchan() {
        bail!("nchan does not work with our servers: use another --gateway");
    }
    let rig = Rig::start(&options.target).await?;
    let record = run(&rig, options).await;
    rig.stop().await;
    record
}

async fn run(rig: &Rig, options: &Client) -> anyhow::Result<Record> {
    let output = tempfile::tempdir()?;
    let load = Load::of(rig, options, output.path())?;
    let command = match options.client {
        Clients::Ours => ours::command(&load, &programs(&options.target)?.join("streamstress")),
        Clients::Tsung => tsung::command(&load)?,
        Clients::K6 => k6::command(&load)?,
    };
    let client = Running::start(command, options.client)?;
    let mut watched = rig.watched();
    watched.push(Watched { group: "client".into(), pid: client.pid, with_children: true });
    let began = Instant::now();
    match options.client {
        Clients::Ours => sleep_until(began + RAMP_UP).await,
        Clients::Tsung | Clients::K6 => wait_for_sockets(rig, &load).await?,
    }
    sleep(options.shape.warm_up).await;
    let begin = Snapshot::take(&watched)?;
    sleep(options.shape.duration).await;
    let last = Snapshot::take(&watched)?;
    let status = client.end(load.length() + PATIENCE).await?;

    let mut record =
        Record::new("client", format!("{} to {}", options.client.name(), options.target.variant()));
    let rate = f64::from(load.clients) * options.shape.per_connection;
    record.add("clients", f64::from(load.clients));
    record.add("tokens_per_second", rate);
    match options.client {
        Clients::Ours => ours::judge(&mut record, &load, status)?,
        Clients::Tsung => tsung::judge(&mut record, &load, &Scrape::of(rig).await?)?,
        Clients::K6 => k6::judge(&mut record, &load, status)?,
    }
    write_usage(&mut record, &last.since(&begin), rate * options.shape.duration.as_secs_f64());
    record.add("rss_mib{client}", last.rss_kib("client") / 1024.0);
    record.add("rss_peak_kib_per_client", last.peak_rss_kib("client") / f64::from(load.clients));
    Ok(record)
}

fn write_usage(record: &mut Record, used: &Used, tokens: f64) {
    for (name, usage) in used.groups.iter().filter(|(name, _)| *name != "generator") {
        record.add(format!("cpu_us_per_token{{{name}}}"), usage.cpu_s * 1e6 / tokens);
        record.add(format!("busiest_thread{{{name}}}"), usage.busiest_thread);
    }
    record.add("machine", used.machine);
    record.add("steal", used.steal);
    judge::saturation(record, used);
}

/// Waits until every session has its socket. The time that a peer needs to start does not count.
async fn wait_for_sockets(rig: &Rig, load: &Load) -> anyhow::Result<()> {
    let mut open = 0;
    let all = async {
        while open < u64::from(load.clients) {
            sleep(SCRAPE_EVERY).await;
            open = Scrape::of(rig).await?.connections;
        }
        anyhow::Ok(())
    };
    match timeout(PATIENCE, all).await {
        Ok(waited) => waited,
        Err(_) => bail!("only {open} of {} sockets are open after {} s", load.clients, PATIENCE.as_secs()),
    }
}

/// A running client. tsung is a script with the client as its child: both are killed on drop.
struct Running {
    child: Child,
    pid: u32,
}

impl Running {
    fn start(mut command: Command, which: Clients) -> anyhow::Result<Self> {
        let name = which.name();
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {name}: {}", which.install()))?;
        let pid = child.id().with_context(|| format!("{name} has no id"))?;
        Ok(Self { child, pid })
    }

    async fn end(mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        Ok(timeout(limit, self.child.wait()).await.context("the client did not end in time")??)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let is_running = self.child.id().is_some();
        for child in if is_running { host::children(self.pid) } else { Vec::new() } {
            // It fails if the child has ended already.
            let _ = kill(Pid::from_raw(child.cast_signed()), Signal::SIGKILL);
        }
    }
}
