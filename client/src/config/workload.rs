//! Reads the options of the workload: makes the schedule and the kinds of users. Reads trace and prompt files.
//! Options of two workload models at once are a config error.

use super::check::Check;
use crate::cli::{ArrivalOf, RunArgs};
use plan::{
    schedule::{Arrival, ArrivalSource, MAX_PLANNED, Process, Schedule, Stages, trace},
    users::{Kind, PROFILES, UserKind, Users, seed_for_arrivals},
};
use settings::{cells, distribution::Distribution, duration};
use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    time::Duration,
};

/// Largest size of a prompt file, in bytes.
const MAX_PROMPT_BYTES: u64 = 64 << 20;

/// The workload of a run.
pub(super) struct Workload {
    pub(super) schedule: Schedule,
    pub(super) users: Users,
    /// Time over which sessions start, as reported in the summary.
    pub(super) ramp_up: Duration,
    /// Queries per session. `None`: each session sends queries until its planned end.
    pub(super) queries: Option<u32>,
}

pub(super) fn workload(check: &mut Check, args: &RunArgs, clients: u64, seed: u64) -> Workload {
    let scale = factor(check, "--time-scale", args.time_scale);
    let duration = check
        .duration_in("--duration", args.duration.as_ref(), 1.0, super::MILLISECOND..=super::LONGEST_RUN)
        .map(|duration| duration.mul_f64(scale));
    let ramp_up = ramp_up(check, args, clients, scale);
    let schedule =
        one_model(check, args).and_then(|()| match (&args.stages, args.arrival_rate, &args.trace) {
            (Some(stages), _, _) => staged(check, stages, scale),
            (_, Some(rate), _) => arriving(check, args, rate, duration, scale, seed).map(|arrivals| {
                let source = ArrivalSource::Drawn { process: process(args), seed: seed_for_arrivals(seed) };
                let duration = duration.unwrap_or_default();
                open(check, args, arrivals, duration, ramp_up, source, ArrivalOf::Sessions)
            }),
            (_, _, Some(file)) => replayed(check, args, file, duration, scale).map(|(arrivals, duration)| {
                open(check, args, arrivals, duration, ramp_up, ArrivalSource::Listed, ArrivalOf::Queries)
            }),
            _ => Some(Schedule::closed(clients, ramp_up, duration)),
        });
    let schedule = schedule.unwrap_or_default();
    let endless = schedule.model() == plan::schedule::Model::OpenQueries
        || schedule.session(0).until.is_some() && args.queries.is_none();
    let default = if args.trace.is_some() { 1 } else { 10 };
    let queries =
        (!endless).then(|| check.count("--queries", args.queries, default, 1, super::MAX_QUERIES) as u32);
    let users = users(check, args, queries, seed);
    Workload { schedule, users, ramp_up, queries }
}

/// Checks that the options name at most one workload model.
fn one_model(check: &mut Check, args: &RunArgs) -> Option<()> {
    let asked = [
        ("--stages", args.stages.is_some()),
        ("--arrival-rate", args.arrival_rate.is_some()),
        ("--trace", args.trace.is_some()),
    ];
    let asked: Vec<_> = asked.iter().filter(|(_, asked)| *asked).map(|(flag, _)| *flag).collect();
    if asked.len() > 1 {
        check.error(format!("{} are different workloads: use one of them", asked.join(" and ")));
        return None;
    }
    if args.burst && (!asked.is_empty() || args.duration.is_some()) {
        check.error("--burst is a workload: remove --duration, --stages, --arrival-rate and --trace".into());
    }
    if args.trace_from.is_some() && args.trace.is_none() {
        check.error("--trace-from needs --trace FILE: add it, or remove --trace-from".into());
    }
    if args.stages.is_some() && args.duration.is_some() {
        check.error("--stages set the length of the run: remove --duration".into());
    }
    Some(())
}

fn factor(check: &mut Check, flag: &str, value: Option<f64>) -> f64 {
    let value = value.unwrap_or(1.0);
    if (0.0001..=1000.0).contains(&value) {
        return value;
    }
    check.error(format!("{flag} {value} is out of range: expected a factor from 0.0001 to 1000"));
    1.0
}

fn rate(check: &mut Check, flag: &str, value: f64) -> f64 {
    if (0.001..=1e6).contains(&value) {
        return value;
    }
    check.error(format!(
        "{flag} {value} is out of range: expected a number per second, from 0.001 to 1000000"
    ));
    1.0
}

fn ramp_up(check: &mut Check, args: &RunArgs, clients: u64, scale: f64) -> Duration {
    let clients = clients as f64;
    let Some(spawn) = args.spawn_rate else {
        let default = Duration::from_secs_f64((clients / 500.0).max(1.0));
        return check.duration("--ramp-up", args.ramp_up.as_ref(), default, Duration::ZERO).mul_f64(scale);
    };
    if args.ramp_up.is_some() {
        check.error("--spawn-rate and --ramp-up set the same time: use one of them".into());
    }
    Duration::from_secs_f64(clients / rate(check, "--spawn-rate", spawn) * scale)
}

fn staged(check: &mut Check, text: &str, scale: f64) -> Option<Schedule> {
    let mut stages: Stages = text.parse().map_err(|error| check.error(format!("--stages: {error}"))).ok()?;
    let sessions = stages.session_count();
    if sessions == 0 || sessions > MAX_PLANNED {
        check.error(format!("--stages `{text}` has {sessions} sessions: expected 1 to {MAX_PLANNED}"));
        return None;
    }
    for stage in &mut stages.0 {
        stage.duration = stage.duration.mul_f64(scale);
    }
    Some(Schedule::staged(&stages))
}

fn process(args: &RunArgs) -> Process {
    args.arrival_process.unwrap_or(Process::Constant)
}

/// Draws arrivals at a rate.
fn arriving(
    check: &mut Check,
    args: &RunArgs,
    asked: f64,
    duration: Option<Duration>,
    scale: f64,
    seed: u64,
) -> Option<Vec<Arrival>> {
    let rate = rate(check, "--arrival-rate", asked) / scale;
    let Some(duration) = duration else {
        if args.duration.is_none() {
            check.error("--arrival-rate needs --duration, for example --duration 5m".into());
        }
        return None;
    };
    let expected = rate * duration.as_secs_f64();
    if expected > MAX_PLANNED as f64 {
        check.error(format!(
            "--arrival-rate {asked} plans {expected:.0} arrivals: shorten --duration so that there are at most {MAX_PLANNED}"
        ));
        return None;
    }
    let process = process(args);
    let most = (MAX_PLANNED * 2) as usize;
    let moments = process.moments(rate, duration, seed_for_arrivals(seed), most);
    if moments.is_empty() {
        check.error(format!("--arrival-rate {asked} has no arrival within {duration:?}: extend --duration"));
        return None;
    }
    Some(moments.into_iter().map(|at| Arrival { at, tokens: None }).collect())
}

/// Returns the arrivals of a trace and its length.
fn replayed(
    check: &mut Check,
    args: &RunArgs,
    path: &Path,
    duration: Option<Duration>,
    scale: f64,
) -> Option<(Vec<Arrival>, Duration)> {
    let scale = scale * factor(check, "--trace-scale", args.trace_scale);
    let file = File::open(path).map_err(trace::TraceError::Unreadable);
    let within = duration.map(|duration| duration.div_f64(scale));
    let part = trace::Part { from: trace_start(check, args.trace_from.as_deref())?, within };
    let read = file.and_then(|file| trace::read(BufReader::new(file), part));
    let trace = read.map_err(|error| check.error(format!("--trace {} {error}", path.display()))).ok()?;
    let arrivals = trace
        .requests
        .iter()
        .map(|request| Arrival { at: request.at.mul_f64(scale), tokens: Some(request.tokens) });
    let arrivals: Vec<_> = arrivals.collect();
    let last = arrivals.last().map_or(Duration::ZERO, |arrival| arrival.at);
    let whole = last + Duration::from_millis(1);
    if whole > super::LONGEST_RUN {
        check.error(format!(
            "--trace {} lasts {} s: limit it with --duration, or shorten it with --trace-scale",
            path.display(),
            whole.as_secs()
        ));
        return None;
    }
    Some((arrivals, duration.unwrap_or(whole)))
}

/// Reads the point at which the replay of a trace starts.
fn trace_start(check: &mut Check, text: Option<&str>) -> Option<trace::Start> {
    let Some(text) = text else { return Some(trace::Start::default()) };
    let start = duration::parse_unlimited(text).map(trace::Start::Offset);
    let start = start.or_else(|| trace::moment(text.trim()).map(trace::Start::Moment));
    if start.is_none() {
        check.error(format!(
            "invalid time \"{text}\" for --trace-from: expected a duration after the trace's first request, for example 30m, or a \
             date and time, for example 2023-11-16T18:30:00Z"
        ));
    }
    start
}

fn open(
    check: &mut Check,
    args: &RunArgs,
    arrivals: Vec<Arrival>,
    duration: Duration,
    ramp_up: Duration,
    source: ArrivalSource,
    default: ArrivalOf,
) -> Schedule {
    match args.arrival.unwrap_or(default) {
        ArrivalOf::Sessions => {
            let most = check.count("--max-clients", args.max_clients, 1000, 1, super::MAX_CLIENTS);
            Schedule::open_sessions(&arrivals, duration, most, source)
        }
        ArrivalOf::Queries => {
            let default = args.clients.unwrap_or(100);
            let most =
                check.count("--max-clients", args.max_clients.or(Some(default)), 100, 1, super::MAX_CLIENTS);
            // Sockets need time to open, regardless of the scale.
            let ramp_up = ramp_up.max(Duration::from_secs(1));
            Schedule::open_queries(arrivals, duration, most, ramp_up, source)
        }
    }
}

fn users(check: &mut Check, args: &RunArgs, queries: Option<u32>, seed: u64) -> Users {
    let run = UserKind {
        name: "user".into(),
        think_time: args.think_time,
        answer_tokens: args.answer_tokens,
        ttft_ms: args.ttft_ms,
        itl_ms: args.itl_ms,
        profile: args.profile.clone(),
        ..UserKind::default()
    };
    let mut kinds = vec![kind(check, &run, &UserKind::default(), queries)];
    if !args.user.is_empty() {
        kinds = args.user.iter().map(|user| kind(check, user, &run, queries)).collect();
    }
    let prompts = args.prompts.as_deref().and_then(|path| {
        let prompts = read_prompts(path);
        prompts.map_err(|error| check.error(format!("--prompts {}: {error}", path.display()))).ok()
    });
    if args.prompt.is_some() && args.prompts.is_some() {
        check.error("--prompt and --prompts exclude each other: use one of them".into());
    }
    let prompts = prompts.or_else(|| Some(vec![args.prompt.clone()?]));
    Users { kinds, prompts: prompts.unwrap_or_default(), seed }
}

fn kind(check: &mut Check, user: &UserKind, run: &UserKind, queries: Option<u32>) -> Kind {
    let weight = user.weight.unwrap_or(1.0);
    if !(0.001..=1e6).contains(&weight) {
        check.error(format!(
            "user `{}`: weight {weight} is out of range: expected 0.001 to 1000000",
            user.name
        ));
    }
    let timing = |check: &mut Check, name: Option<&str>| {
        let name = name?;
        let found = PROFILES.iter().find(|profile| profile.name == name);
        if found.is_none() {
            let known: Vec<_> = PROFILES.iter().map(|profile| profile.name).collect();
            check.error(format!("unknown profile \"{name}\" for --profile: expected {}", known.join(", ")));
        }
        found
    };
    let profile = timing(check, user.profile.as_deref().or(run.profile.as_deref()));
    let mut distribution =
        |flag: &str, own: Option<Distribution>, of_run: Option<Distribution>, least: f64, most: f64| {
            let distribution = own.or(of_run)?;
            let bad =
                distribution.parameters().into_iter().find(|end| !(0.0..=most).contains(end)).or_else(|| {
                    // Drawn values below `least` are raised to it; a fixed value below it is an error.
                    matches!(distribution, Distribution::Fixed(value) if value < least)
                        .then(|| distribution.mean())
                });
            if let Some(bad) = bad {
                check.error(format!("{flag} {bad} is out of range: expected {least} to {most}"));
            }
            Some(distribution)
        };
    Kind {
        name: if user.name.is_empty() { "user".into() } else { user.name.clone() },
        weight,
        think_time: distribution("--think-time", user.think_time, run.think_time, 0.0, 86_400.0)
            .unwrap_or(Distribution::Fixed(0.0)),
        tokens: distribution("--answer-tokens", user.answer_tokens, run.answer_tokens, 1.0, 1e6),
        ttft_ms: distribution("--ttft-ms", user.ttft_ms, run.ttft_ms, 0.0, 3.6e6)
            .or(profile.map(|profile| profile.ttft_ms)),
        itl_ms: distribution("--itl-ms", user.itl_ms, run.itl_ms, 0.0, 3.6e6)
            .or(profile.map(|profile| profile.itl_ms)),
        queries: match (queries, user.queries) {
            (_, Some(own)) => Some(check.count("queries", Some(own), 1, 1, super::MAX_QUERIES) as u32),
            (of_run, None) => of_run,
        },
    }
}

fn read_prompts(path: &Path) -> Result<Vec<String>, String> {
    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    if length > MAX_PROMPT_BYTES {
        return Err(format!("the file has {length} bytes: expected at most {MAX_PROMPT_BYTES}"));
    }
    let mut file = BufReader::new(file);
    let start = file.fill_buf().map_err(|error| error.to_string())?;
    let separator = cells::separator(start.split(|&byte| byte == b'\n').next().unwrap_or_default());
    let mut rows = csv::ReaderBuilder::new().delimiter(separator).from_reader(file);
    let headers = rows.headers().map_err(|error| error.to_string())?;
    let column = headers.iter().position(|name| name.trim() == "prompt");
    let column = column.ok_or("no column `prompt`: expected its name in the first line")?;
    let prompt = |row: csv::Result<csv::StringRecord>| {
        let row = row.map_err(|error| error.to_string())?;
        Ok::<_, String>(row.get(column).unwrap_or_default().to_owned())
    };
    let prompts: Vec<_> = rows.records().map(prompt).collect::<Result<_, _>>()?;
    if prompts.is_empty() { Err("no prompt after the first line".into()) } else { Ok(prompts) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_of_other_programs() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            read_prompts(file.path())
        };
        let expected = Ok(vec!["why, so".to_owned(), "a;b \"c\"\n".to_owned()]);
        for text in [
            "id,prompt\n1,\"why, so\"\n2,\"a;b \"\"c\"\"\n\"\n",
            "\u{feff}prompt;id\r\n\"why, so\";1\r\n\"a;b \"\"c\"\"\n\";2\r\n",
            "id\t prompt \n1\twhy, so\n2\t\"a;b \"\"c\"\"\n\"\n",
        ] {
            assert_eq!(read(text), expected, "{text:?}");
        }
        assert!(read("question\nwhy\n").unwrap_err().contains("no column `prompt`"));
        assert!(read("prompt\n").unwrap_err().contains("no prompt after the first line"));
    }
}
