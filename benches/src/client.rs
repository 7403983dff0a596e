//! The client's role: what a load client costs a token while it opens sessions, connects, submits and receives, against real
//! servers and one gateway. Ours, or a peer that is told the same load; what each says of itself is kept beside its cost.

mod k6;
mod ours;
mod scrape;
mod tsung;

use crate::{
    args::{Client, Clients, Way},
    dial::Address,
    gateway::variant,
    judge,
    record::Record,
    rig::{Rig, programs},
    usage::{Between, Look, Watched, children},
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

/// Clients start evenly over this time.
const RAMP_UP: Duration = Duration::from_secs(4);
/// The first look at our client's memory, when it has started and few of its sessions are open.
const FIRST_LOOK: Duration = Duration::from_millis(200);
/// Streams last so much longer than the window, so that all of them run through all of it.
const SPARE: Duration = Duration::from_secs(2);
/// What a client may take to open everything, and to end, above the streams' length.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at the gateway while a peer opens its sockets.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One load, as every client is told it: sessions with one query each.
#[derive(Clone, Debug)]
struct Load {
    clients: u32,
    /// Tokens of each query.
    tokens: u32,
    /// Between two tokens of a query.
    interval: Duration,
    api: SocketAddr,
    gateway: SocketAddr,
    /// Whatever the client writes goes here.
    output: PathBuf,
}

impl Load {
    fn of(rig: &Rig, options: &Client, output: &Path) -> anyhow::Result<Self> {
        let Address::Tcp(gateway) = rig.address(options.target.way)? else {
            bail!("the clients speak TCP: give --way {} or {}", Way::Tcp.name(), Way::Haproxy.name());
        };
        let length = RAMP_UP + options.shape.warm_up + options.shape.duration + SPARE;
        let api = rig.api_url().strip_prefix("http://").unwrap_or_default();
        Ok(Self {
            clients: options.clients,
            tokens: (length.as_secs_f64() * options.shape.per_connection).ceil() as u32,
            interval: Duration::from_secs_f64(options.shape.per_connection.recip()),
            api: api.parse().with_context(|| format!("{api} is no address"))?,
            gateway,
            output: output.to_owned(),
        })
    }

    /// How long a stream is.
    fn length(&self) -> Duration {
        self.interval * self.tokens
    }

    fn interval_ms(&self) -> f64 {
        self.interval.as_secs_f64() * 1e3
    }

    /// All tokens of all clients.
    fn all_tokens(&self) -> u64 {
        u64::from(self.clients) * u64::from(self.tokens)
    }
}

/// Starts a rig and a client, and looks at both.
pub(crate) async fn measure(options: &Client) -> anyhow::Result<Record> {
    if options.target.gateway.is_nchan() {
        bail!("nchan knows nothing of our servers: give another --gateway");
    }
    let rig = Rig::start(&options.target).await?;
    let seen = run(&rig, options).await;
    rig.stop().await;
    seen
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
    let first = match options.client {
        Clients::Ours => {
            sleep_until(began + FIRST_LOOK).await;
            let first = Look::at(&watched).context("the client has ended at once")?;
            sleep_until(began + RAMP_UP).await;
            Some(first)
        }
        Clients::Tsung | Clients::K6 => {
            everybody_is_there(rig, &load).await?;
            None
        }
    };
    sleep(options.shape.warm_up).await;
    let begin = Look::at(&watched)?;
    sleep(options.shape.duration).await;
    let last = Look::at(&watched)?;
    let status = client.end(load.length() + PATIENCE).await?;

    let mut record =
        Record::new("client", format!("{} to {}", options.client.name(), variant(&options.target)));
    let rate = f64::from(load.clients) * options.shape.per_connection;
    record.add("clients", f64::from(load.clients));
    record.add("tokens_per_second", rate);
    match options.client {
        Clients::Ours => ours::judge(&mut record, &load, status)?,
        Clients::Tsung => tsung::judge(&mut record, &load, &Scrape::of(rig).await?)?,
        Clients::K6 => k6::judge(&mut record, &load, status)?,
    }
    write_usage(&mut record, &last.since(&begin), rate * options.shape.duration.as_secs_f64());
    if let Some(first) = first {
        let opened_since = f64::from(load.clients) * (1.0 - FIRST_LOOK.div_duration_f64(RAMP_UP));
        let grown = last.rss_kib("client") - first.rss_kib("client");
        record.add("rss_kib_per_connection{client}", grown / opened_since);
    }
    record.add("rss_mib{client}", last.rss_kib("client") / 1024.0);
    record.add("rss_peak_kib_per_client", last.peak_rss_kib("client") / f64::from(load.clients));
    Ok(record)
}

fn write_usage(record: &mut Record, between: &Between, tokens: f64) {
    for (name, usage) in between.groups.iter().filter(|(name, _)| *name != "generator") {
        record.add(format!("cpu_us_per_token{{{name}}}"), usage.cpu_s * 1e6 / tokens);
        record.add(format!("busiest_thread{{{name}}}"), usage.busiest_thread);
    }
    record.add("machine", between.machine);
    record.add("steal", between.steal);
    judge::saturation(record, between);
}

/// Waits until every session has its socket: how long a peer takes to start is its own affair.
async fn everybody_is_there(rig: &Rig, load: &Load) -> anyhow::Result<()> {
    let mut open = 0;
    let all = async {
        while open < u64::from(load.clients) {
            sleep(LOOK_EVERY).await;
            open = Scrape::of(rig).await?.connections;
        }
        anyhow::Ok(())
    };
    match timeout(PATIENCE, all).await {
        Ok(waited) => waited,
        Err(_) => bail!("after {} s {open} of {} sockets are open", PATIENCE.as_secs(), load.clients),
    }
}

/// A client that runs; tsung is a script with the client as its child. Dropped, both are killed.
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
        Ok(timeout(limit, self.child.wait()).await.context("the client does not end")??)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let is_running = self.child.id().is_some();
        for child in if is_running { children(self.pid) } else { Vec::new() } {
            // An error says that it has gone already.
            let _ = kill(Pid::from_raw(child.cast_signed()), Signal::SIGKILL);
        }
    }
}
