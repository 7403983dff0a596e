//! Turns the options of a run into a validated [`Config`], and reports all config errors together.
//! Reads neither the environment nor the network.

mod addresses;
mod behaviour;
mod check;
mod criteria;
mod dialect;
mod division;
mod faults;
mod json;
mod target;
mod workload;

pub use criteria::CriteriaConfig;
pub use division::{Control, Division, Processes};
pub use settings::flags::ConfigErrors;

use crate::cli::RunArgs;
use check::Check;
use plan::{Load, Plan, Reconnect, Shard};
use report::output::Destination;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use telemetry::Url;

const MAX_CLIENTS: i64 = 1_000_000;
const MAX_QUERIES: i64 = 1_000_000;
const LONGEST_RUN: Duration = check::LONGEST_DURATION;
const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Everything about a run.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the generator does.
    pub plan: Plan,
    /// Thresholds and objectives.
    pub criteria: CriteriaConfig,
    /// Where results go, and what is shown during the run.
    pub output: Output,
    /// Run the whole stack in this process.
    pub embedded: bool,
    /// How the run is divided among generators.
    pub division: Division,
    /// The options that the run was given, secrets included.
    pub(crate) given: RunArgs,
    /// Print the plan and start nothing.
    pub dry_run: bool,
    /// Whether the options name neither a URL of the API nor one of the gateway.
    pub(crate) has_default_urls: bool,
    /// The options that the schedule was made from.
    origin: json::Origin,
    /// Warnings to print before the run.
    pub warnings: Vec<String>,
}

/// Where results go, and what is shown during the run.
#[derive(Clone, Debug)]
pub struct Output {
    /// Directory for the result files. It is created if it does not exist.
    pub dir: PathBuf,
    /// First part of the names of the result files.
    pub name: String,
    /// Number of runs whose files are kept, this one included. `None` keeps all.
    pub keep_results: Option<usize>,
    /// Prints the verdict only.
    pub quiet: bool,
    /// Shows the live view instead of the progress line.
    pub tui: bool,
    /// Destination of the events of `--out json`.
    pub events: Option<Destination>,
    /// Address that serves `/metrics` during the run.
    pub metrics_address: Option<SocketAddr>,
    /// OpenTelemetry collector that metrics are pushed to.
    pub otlp: Option<Url>,
    /// Address of the page of the run.
    pub web: Option<String>,
}

impl Config {
    /// Validates the options for a machine with this number of cores. `drawn_seed` is used if the options name no seed.
    ///
    /// # Errors
    /// Lists all config errors.
    pub fn new(args: RunArgs, cores: usize, drawn_seed: u64) -> Result<Self, ConfigErrors> {
        let mut check = Check::default();
        let mut warnings = Vec::new();
        let asked = check.count("--clients", args.clients, 100, 1, MAX_CLIENTS);
        let workers = check.count("--workers", args.workers, (cores / 2).clamp(1, 1024) as i64, 1, 1024);
        let seed = args.seed.unwrap_or(drawn_seed);
        let workload = workload::workload(&mut check, &args, asked, seed);
        let load = load(&mut check, &args, &workload, (workers, seed));
        let reconnect = reconnect(&mut check, &args);
        let (schedule, users) = (Arc::new(workload.schedule), Arc::new(workload.users));
        let behaviour = behaviour::behaviour(&mut check, &args);
        let faults = faults::planned(&mut check, &args);
        let criteria = criteria::criteria(&mut check, &args);
        warnings.extend(criteria.unanswerable(schedule.steady_window().is_some(), args.embedded));
        let (embedded, dry_run) = (args.embedded, args.dry_run);
        let origin = json::Origin::of(&args);
        let dividing = division::options(&mut check, &args);
        let given = args.clone();
        let has_default_urls = args.api_url.is_empty()
            && args.target.is_none()
            && args.wsproxy_url.iter().all(|url| url.trim().is_empty());
        if embedded && !has_default_urls {
            warnings.push("--embedded brings its own stack: --api-url and --wsproxy-url are ignored".into());
        }
        let output = output(&mut check, &args);
        let target = target::target(&mut check, args);
        let file = target.as_ref().and_then(|target| target.foreign.as_ref()?.dialect.file());
        let unverified = file.map(|file| file.unverified()).unwrap_or_default();
        warnings.extend(unverified.iter().map(|what| format!("--target leaves unverified: {what}")));
        match target {
            Some(target) if check.errors.is_empty() => {
                let plan = Plan { load, target, schedule, users, reconnect, behaviour, faults };
                let division = division::divide(&mut check, dividing, &plan, &given, cores);
                if !check.errors.is_empty() {
                    return Err(ConfigErrors(check.errors));
                }
                Ok(Self {
                    plan,
                    criteria,
                    output,
                    embedded,
                    division,
                    given,
                    dry_run,
                    has_default_urls,
                    origin,
                    warnings,
                })
            }
            _ => Err(ConfigErrors(check.errors)),
        }
    }
}

impl Config {
    /// Returns the options as TOML, with the seed and without secrets.
    pub(crate) fn options(&self) -> String {
        let target = &self.plan.target;
        let options = RunArgs {
            seed: Some(self.plan.load.seed),
            api_url: vec![target.api.to_string()],
            wsproxy_url: if target.has_sockets() { vec![target.ws.to_string()] } else { Vec::new() },
            auth_token: None,
            api_key: None,
            token_command: None,
            headers: Vec::new(),
            ws_path: None,
            generators: None,
            shard: None,
            control: None,
            run_id: None,
            control_force: false,
            always_exit_0: false,
            metrics_address: None,
            otlp: None,
            ..self.given.clone()
        };
        toml::to_string(&options).unwrap_or_default()
    }

    /// Returns the configuration of the generator that plays this shard.
    pub(crate) fn part(&self, shard: Shard) -> Self {
        Self { plan: self.plan.part(shard), ..self.clone() }
    }
}

/// Returns where results go, and what is shown.
fn output(check: &mut Check, args: &RunArgs) -> Output {
    let output = Output {
        dir: args.output_dir.clone().unwrap_or_else(|| "results".into()),
        name: check.name(args.name.as_deref().unwrap_or("loadtest")),
        keep_results: args.keep_results.map(|keep| keep as usize),
        quiet: args.quiet,
        tui: args.tui,
        events: args
            .out
            .as_deref()
            .and_then(|text| text.parse().map_err(|error: String| check.error(error)).ok()),
        metrics_address: args.metrics_address.as_deref().and_then(|text| metrics_address(check, text)),
        otlp: args
            .otlp
            .as_deref()
            .and_then(|text| telemetry::push_url(text).map_err(|error| check.error(error.to_string())).ok()),
        web: args.web.clone(),
    };
    if output.web.is_some() && output.events.is_some() {
        check.error(
            "--web and --out exclude each other, because the page reads the events: use one of them".into(),
        );
    }
    if output.tui && output.quiet {
        check.error("--tui and --quiet exclude each other: use one of them".into());
    }
    output
}

/// Reads an address with a port, or a port of this machine alone.
fn metrics_address(check: &mut Check, text: &str) -> Option<SocketAddr> {
    let port = text.trim_start_matches(':').parse().ok().map(|port: u16| (Ipv4Addr::LOCALHOST, port).into());
    let address = text.parse().ok().or(port);
    if address.is_none() {
        check.error(format!(
            "invalid address {text:?} for --metrics-address: expected a port or IP:PORT, for example 127.0.0.1:9464"
        ));
    }
    address
}

fn load(
    check: &mut Check,
    args: &RunArgs,
    workload: &workload::Workload,
    (workers, seed): (u64, u64),
) -> Load {
    let clients = workload.schedule.most_concurrent().max(1);
    let (timeout, stall) = (args.query_timeout.as_ref(), args.stall_threshold.as_ref());
    Load {
        clients,
        queries: workload.queries,
        ramp_up: workload.ramp_up,
        burst: args.burst,
        query_timeout: check.duration_in("--query-timeout", timeout, 1.0, MILLISECOND..=LONGEST_RUN),
        stall_limit: check
            .duration_in("--stall-threshold", stall, 1e-3, Duration::ZERO..=HOUR)
            .unwrap_or(Duration::from_millis(250)),
        grace: check.duration("--grace", args.grace.as_ref(), Duration::from_secs(30), Duration::ZERO),
        workers: workers.min(clients).max(1) as usize,
        seed,
    }
}

fn reconnect(check: &mut Check, args: &RunArgs) -> Reconnect {
    let (initial, max) = (args.ws_initial_backoff_seconds.as_ref(), args.ws_max_backoff_seconds.as_ref());
    let reconnect = Reconnect {
        initial: check.duration("--ws-initial-backoff-seconds", initial, Duration::from_secs(1), MILLISECOND),
        max: check.duration("--ws-max-backoff-seconds", max, Duration::from_secs(30), MILLISECOND),
        attempts: check.count("--ws-max-reconnect-attempts", args.ws_max_reconnect_attempts, 5, 0, 10_000)
            as u32,
        ping_timeout: check.duration(
            "--ping-timeout",
            args.ping_timeout.as_ref(),
            Duration::from_secs(45),
            Duration::from_millis(100),
        ),
    };
    if reconnect.initial > reconnect.max {
        check.error(format!(
            "--ws-initial-backoff-seconds {:?} is more than --ws-max-backoff-seconds {:?}: lower the first or raise the second",
            reconnect.initial, reconnect.max
        ));
    }
    reconnect
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(args: RunArgs) -> Vec<String> {
        Config::new(args, 2, 1).map_or_else(|faults| faults.0, |_| Vec::new())
    }

    #[test]
    fn defaults_hold() {
        let config = Config::new(RunArgs::default(), 2, 7).unwrap();
        assert_eq!(
            (config.plan.load.clients, config.plan.load.queries, config.plan.load.workers),
            (100, Some(10), 1)
        );
        assert_eq!((config.plan.load.ramp_up, config.plan.load.seed), (Duration::from_secs(1), 7));
        let many = RunArgs { clients: Some(5000), ..RunArgs::default() };
        assert_eq!(Config::new(many, 2, 1).unwrap().plan.load.ramp_up, Duration::from_secs(10));
        let one = RunArgs { clients: Some(1), workers: Some(8), ..RunArgs::default() };
        assert_eq!(Config::new(one, 2, 1).unwrap().plan.load.workers, 1);
    }

    #[test]
    fn all_faults_are_listed_at_once() {
        let args = RunArgs {
            clients: Some(0),
            queries: Some(-3),
            ramp_up: Some("soon".into()),
            query_timeout: Some(0.0.into()),
            http_connections: Some(0),
            ws_path: Some("socket".into()),
            api_url: vec!["http://fine".into(), "ftp://x".into()],
            wsproxy_url: vec!["not a url".into()],
            headers: vec!["no colon".into()],
            name: Some("../x".into()),
            ws_initial_backoff_seconds: Some("1m".into()),
            stall_threshold: Some("250x".into()),
            metrics_address: Some("here".into()),
            otlp: Some("grpc://x".into()),
            ..RunArgs::default()
        };
        let faults = faults(args);
        for flag in [
            "--clients 0",
            "--queries -3",
            "invalid duration \"soon\" for --ramp-up: expected for example 30s, 5m or 1h30m",
            "--query-timeout 0",
            "invalid URL \"ftp://x\" for --api-url",
            "invalid URL \"not a url\" for --wsproxy-url",
            "invalid path \"socket\" for --ws-path",
            "invalid header \"no…\" for --header",
            "invalid name \"../x\" for --name",
            "--ws-initial-backoff-seconds",
            "invalid duration \"250x\" for --stall-threshold",
            "invalid address \"here\" for --metrics-address",
            "invalid URL \"grpc://x\" for --otlp",
        ] {
            assert!(faults.iter().any(|fault| fault.contains(flag)), "{flag} is not among {faults:#?}");
        }
    }

    #[test]
    fn a_bare_number_keeps_the_unit_of_its_option() {
        let args = RunArgs {
            grace: Some("2".into()),
            stall_threshold: Some("300".into()),
            ping_timeout: Some("1m30s".into()),
            ..RunArgs::default()
        };
        let plan = Config::new(args, 2, 1).unwrap().plan;
        assert_eq!(plan.load.grace, Duration::from_secs(2));
        assert_eq!(plan.load.stall_limit, Duration::from_millis(300));
        assert_eq!(plan.reconnect.ping_timeout, Duration::from_secs(90));
    }

    #[test]
    fn no_secret_is_printed() {
        let args = RunArgs {
            auth_token: Some("hush".into()),
            headers: vec!["x-key: hush".into()],
            api_url: vec!["http://me:hush@127.0.0.1/?key=hush".into(), "http://127.0.0.1/?key=hush".into()],
            wsproxy_url: vec!["ws://hush@127.0.0.1".into(), "ws://x:hush@127.0.0.1".into()],
            ws_path: Some("/{session}?key=hush&token={token}".into()),
            ..RunArgs::default()
        };
        let config = Config::new(args, 2, 1).unwrap();
        let printed = config.to_json().to_string();
        assert!(!printed.contains("hush"), "{printed}");
        let foreign = RunArgs {
            dialect: Some("openai-chat".into()),
            api_key: Some("hush".into()),
            token_command: Some("echo hush".into()),
            ..RunArgs::default()
        };
        let config = Config::new(foreign, 2, 1).unwrap();
        let printed = format!("{} {} {:?}", config.to_json(), config.options(), config.plan.target.foreign);
        assert!(!printed.contains("hush\"") && printed.contains("openai-chat"), "{printed}");
        let no_urls = RunArgs {
            api_url: vec!["ftp://me:hush@127.0.0.1".into()],
            wsproxy_url: vec!["me:hush@127.0.0.1?token=hush".into(), "ws://me:hush".into()],
            ..RunArgs::default()
        };
        let faults = faults(no_urls).concat();
        assert!(faults.contains("--api-url") && !faults.contains("hush"), "{faults}");
    }
}
