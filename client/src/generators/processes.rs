//! `--generators 4`: starts the generators as processes of this program and leads them. They read their settings from stdin and meet
//! on a unix socket. If this process ends, they end too.

use super::{
    file_of, leader,
    member::{Delivery, Member},
};
use crate::{
    cli::RunArgs,
    config::{Config, Processes},
    endpoints,
    generator::host_name,
    lead::{Companions, Generators, Lead, LeadSettings, planned_faults},
    preflight,
    run_error::{RunError, refused},
    signals,
};
use anyhow::Context;
use coordination::{Claimed, Coordinator, Run, Timing, unix};
use load::watch::Source;
use measure::GeneratorHeader;
use plan::{Shard, Stop};
use report::{messages, output::Finished};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use time::OffsetDateTime;

/// The hidden subcommand that the generators run.
pub(crate) const SUBCOMMAND: &str = "generator";
/// Time that the processes have to end after the run.
const END: Duration = Duration::from_secs(10);
/// Interval between two looks at a process.
const LOOK: Duration = Duration::from_millis(20);

/// What a generator reads from stdin.
#[derive(Debug, Serialize, Deserialize)]
struct ProcessSettings {
    /// Socket at which the parent listens.
    socket: PathBuf,
    /// Which part of which run it plays.
    header: GeneratorHeader,
    /// Common start of the names of its files.
    base: PathBuf,
    wait_ms: u64,
    /// Options of the run, secrets included.
    options: RunArgs,
}

/// Starts the generators, leads them, and returns the result of the run.
///
/// # Errors
/// The run was refused or interrupted before it began, or failed.
pub(crate) fn run(
    config: &Config,
    Processes { count, wait }: Processes,
    Companions { injector, steering }: Companions<'_>,
    members: Source,
    stop: &Stop,
    started_at: OffsetDateTime,
) -> Result<Finished, RunError> {
    if !stop.begin() {
        return Err(RunError::Interrupted);
    }
    let run = super::run_of(config, count);
    let dir =
        tempfile::Builder::new().prefix("streamstress-").tempdir().context("cannot create a directory")?;
    let socket = dir.path().join("run.sock");
    let leadership = unix::Parent::listen(&socket, &run, Timing::default())
        .context("the generators cannot meet on this machine")?;
    let settings =
        LeadSettings::new(config, injector, stop, started_at).with_generators(count).with_steering(steering);
    let lead = Lead::prepare(settings, members)?;
    let base = |shard: u32| lead.results().path(&format!("_shard{}", shard + 1));
    let bases: Vec<_> = (0..count).map(base).collect();
    let mut processes = Started::default();
    for (shard, base) in (0..count).zip(&bases) {
        let settings = ProcessSettings {
            socket: socket.clone(),
            header: super::header(config, &run, shard, started_at),
            base: base.clone(),
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            options: options_of(config, shard, count),
        };
        processes.start(&settings).with_context(|| format!("cannot start generator {}", shard + 1))?;
    }
    let mut any_lost = false;
    let rows = |generators: &Generators| {
        any_lost = generators.any_lost();
        bases.iter().map(|base| file_of(base, ".csv")).filter(|rows| rows.exists()).collect()
    };
    let joined = lead.results().path(".csv");
    let finished = leader::lead(leadership, lead, &mut || processes.ended_early(), rows)
        .and_then(|finished| finished.ok_or_else(|| anyhow::anyhow!("another process leads the run").into()));
    processes.end();
    if finished.is_err() && !joined.exists() {
        // The run did not start, so that nothing in these files is of use.
        remove_joined(&bases, false);
    }
    let finished = finished?;
    if finished.unwritten.is_empty() {
        remove_joined(&bases, any_lost);
    }
    Ok(finished)
}

/// Removes the generators' rows, which are joined, and their parts, unless one was lost and its part may explain why.
fn remove_joined(bases: &[PathBuf], any_lost: bool) {
    for base in bases {
        let _ = std::fs::remove_file(file_of(base, ".csv"));
        if !any_lost {
            let _ = std::fs::remove_file(file_of(base, ".part"));
        }
    }
}

/// Returns the options of one generator: those of the run, with the target that the parent found, and its own addresses.
fn options_of(config: &Config, shard: u32, count: u32) -> RunArgs {
    let workers = config.given.workers.unwrap_or_else(|| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        (cores / 2 / count as usize).max(1) as i64
    });
    RunArgs {
        seed: Some(config.plan.load.seed),
        workers: Some(workers),
        embedded: false,
        local_ips: local_addresses(config, shard, count),
        generators: None,
        tui: false,
        out: None,
        web: None,
        ..target_options(config)
    }
}

/// Returns the options of the run with the addresses of the embedded stack, if there is one.
fn target_options(config: &Config) -> RunArgs {
    let target = &config.plan.target;
    let given = config.given.clone();
    if let Some(foreign) = &target.foreign {
        // A generator cannot tell from its URL that the server is the simulator.
        let api_url = if config.embedded { vec![target.api.base()] } else { given.api_url };
        RunArgs { api_url, simulator: foreign.is_simulator, ..config.given.clone() }
    } else if config.embedded {
        RunArgs { api_url: vec![target.api.base()], wsproxy_url: vec![target.ws.base()], ..given }
    } else {
        given
    }
}

/// Returns the local addresses of one generator: its part of those that were given, or a separate loopback address if the target is
/// on this machine.
fn local_addresses(config: &Config, shard: u32, count: u32) -> Option<String> {
    let target = &config.plan.target;
    if !target.local_ips.is_empty() {
        let own = target.local_ips.iter().skip(shard as usize).step_by(count as usize);
        let own: Vec<_> = own.map(ToString::to_string).collect();
        return if own.is_empty() { config.given.local_ips.clone() } else { Some(own.join(",")) };
    }
    let is_loopback =
        |host: &str| host == "localhost" || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback());
    let gateways = std::iter::once(&target.ws).chain(&target.more_ws);
    let local = gateways.into_iter().all(|url| url.url().host_str().is_some_and(is_loopback));
    // 127.0.1.1, 127.0.1.2, …: 127.0.0.0/8 belongs to this machine, and each address has its own outgoing ports.
    let address = IpAddr::from([127, 0, 1 + (shard / 250) as u8, 1 + (shard % 250) as u8]);
    local.then(|| address.to_string())
}

/// The processes of the generators. Dropping it kills those that still run.
#[derive(Debug, Default)]
struct Started(Vec<Child>);

impl Started {
    fn start(&mut self, settings: &ProcessSettings) -> io::Result<()> {
        // The kernel's name for this program stays valid when its file is replaced during the run.
        let mut command = Command::new("/proc/self/exe");
        // In a separate process group, so that Ctrl+C reaches only the parent, which stops the generators.
        command.arg(SUBCOMMAND).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn()?;
        let settings = toml::to_string(settings).map_err(io::Error::other);
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(settings?.as_bytes()));
        self.0.push(child);
        // A child that ends at once reads nothing, and says why itself.
        written.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
    }

    /// Returns why the run cannot start if a generator has ended.
    fn ended_early(&mut self) -> Option<RunError> {
        for (number, child) in (1..).zip(&mut self.0) {
            let Ok(Some(status)) = child.try_wait() else { continue };
            let why = format!("generator {number} ended before the start ({status}): see its message above");
            return Some(match status.code() {
                Some(104) => refused(&why),
                _ => RunError::Broken(anyhow::anyhow!(why)),
            });
        }
        None
    }

    /// Waits at most ten seconds until all processes have ended.
    fn end(&mut self) {
        let deadline = Instant::now() + END;
        let running = |child: &mut Child| matches!(child.try_wait(), Ok(None));
        while self.0.iter_mut().any(running) && Instant::now() < deadline {
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        for child in &mut self.0 {
            if matches!(child.try_wait(), Ok(None)) {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
    }
}

/// Runs one generator with the settings on stdin, and returns its exit code. Errors go to stderr.
pub(crate) fn generator() -> u8 {
    let mut text = String::new();
    let settings = io::stdin().read_to_string(&mut text).map_err(|error| error.to_string());
    let settings = settings.and_then(|_| toml::from_str(&text).map_err(|error| error.to_string()));
    let settings: ProcessSettings = match settings {
        Ok(settings) => settings,
        Err(error) => {
            messages::print_stderr(&format!(
                "error: `streamstress {SUBCOMMAND}` is started by `streamstress run --generators N`, which passes its settings ({error})"
            ));
            return 104;
        }
    };
    let number = settings.header.shard + 1;
    match play(settings) {
        Ok(()) => 0,
        Err(error) => {
            messages::print_stderr(&format!("generator {number}: {error}"));
            error.exit_code()
        }
    }
}

fn play(settings: ProcessSettings) -> Result<(), RunError> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut config = Config::new(settings.options, cores, 0).map_err(RunError::Refused)?;
    endpoints::find(&mut config);
    let stop = Stop::default();
    signals::listen(stop.clone()).context("cannot listen to signals")?;
    let ProcessSettings { socket, header, base, wait_ms, .. } = settings;
    let shard = Shard::new(header.shard, header.generators)
        .context("the shard is outside the number of generators")?;
    preflight::host(&config.part(shard))?;
    let run = Run {
        id: header.run_id.clone(),
        generators: header.generators,
        fingerprint: header.fingerprint.clone(),
    };
    let Claimed { generator, commands, .. } = unix::Child::new(&socket, Timing::default())
        .claim(&run, &host_name(), Some(header.shard))
        .map_err(|error| refused(&error.to_string()))?;
    let faults = Arc::new(planned_faults(&config));
    let within = Duration::from_millis(wait_ms);
    let member = Member { config: &config, stop: &stop, header, base, within, faults };
    match member.play(&Arc::from(generator), commands)? {
        Delivery::Complete => Ok(()),
        Delivery::Failed(why) => Err(RunError::Broken(anyhow::anyhow!(why))),
    }
}
