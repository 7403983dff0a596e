//! The rows of the fault matrix: what breaks, and what proves that it did.

use super::summary::Summary;

/// New sockets that a gateway accepts per second, and at once.
pub(super) const CONNECT_RATE: u64 = 200;
pub(super) const CONNECT_BURST: u64 = 20;
/// Gateways of the stack.
pub(super) const GATEWAYS: u16 = 3;
/// The most reconnects per second that the gateways admit together.
pub(super) const MOST_RECONNECTS: u64 = GATEWAYS as u64 * (CONNECT_RATE + CONNECT_BURST);

/// The load under which faults are injected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Sessions, all of which stream at the same time.
    pub(super) clients: u32,
    /// Tokens of each answer.
    pub(super) tokens: u32,
    /// Seconds over which sessions start.
    pub(super) ramp_up_s: u32,
    /// Seconds from the first send to the fault.
    pub(super) fault_at_s: u32,
}

impl Load {
    /// Returns the load of the whole matrix.
    pub(super) const fn full(clients: u32) -> Self {
        Self { clients, tokens: 100, ramp_up_s: 4, fault_at_s: 8 }
    }

    /// Returns the load of a smaller matrix: shorter streams, an earlier fault.
    pub(super) const fn quick(clients: u32) -> Self {
        Self { clients, tokens: 50, ramp_up_s: 1, fault_at_s: 3 }
    }
}

/// A figure of the summary that only a run with the fault can have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    /// The condition in words.
    pub(super) what: &'static str,
    pub(super) holds: fn(&Summary) -> bool,
}

/// What happens to the stack before the load starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preparation {
    Nothing,
    /// Stops server-2, and waits until its peer has removed it.
    StopServer,
    /// Makes server-1 keep 250,000 tokens, about 50 MB, before server-2 runs again.
    FillServer,
}

/// One run of the matrix.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    /// Options of the client, separated by blanks.
    pub(super) options: String,
    pub(super) evidence: Option<Evidence>,
    /// Whether every link of the stack has a relay from the start.
    pub(super) relays: bool,
    /// HAProxies of the stack. The client uses all of them.
    pub(super) haproxies: u16,
    pub(super) preparation: Preparation,
}

impl Row {
    /// Returns the faults that the client injects.
    pub(super) fn faults(&self) -> usize {
        self.options.split(' ').filter(|word| *word == "--fault").count()
    }

    /// Whether a server dies, and its running queries with it.
    pub(super) fn kills_server(&self) -> bool {
        self.options.contains("server-1:kill")
    }
}

/// Returns a row whose client has these options.
fn row(name: &'static str, options: String) -> Row {
    Row { name, options, evidence: None, relays: false, haproxies: 1, preparation: Preparation::Nothing }
}

/// Returns the condition that justifies to say that the fault happened.
fn evidence(what: &'static str, holds: fn(&Summary) -> bool) -> Option<Evidence> {
    Some(Evidence { what, holds })
}

/// Returns all rows in the order of the table.
pub(super) fn all(load: Load) -> Vec<Row> {
    [processes(load), redis(load), network_and_clients(load)].concat()
}

fn processes(load: Load) -> Vec<Row> {
    let fault = |name, fault: &str| row(name, format!("--fault {fault}@{}s", load.fault_at_s));
    vec![
        Row {
            evidence: evidence("sockets_cut is more than half of total_sessions", |summary| {
                2 * summary.sockets_cut > summary.total_sessions
            }),
            ..row("client cuts 10 % of its sockets a second", "--cut-rate 0.1".to_owned())
        },
        Row {
            evidence: evidence(
                "sockets broke without a close frame, and peak_reconnect_rate is at most two thirds of what the gateways admit",
                |summary| {
                    summary.reconnects("none") > 0 && summary.peak_reconnect_rate <= MOST_RECONNECTS * 2 / 3
                },
            ),
            ..fault("wsproxy SIGKILL", "wsproxy-1:kill")
        },
        Row {
            evidence: evidence("sockets were closed with 1012", |summary| summary.reconnects("1012") > 0),
            ..fault("wsproxy SIGTERM", "wsproxy-1:stop")
        },
        Row {
            // A run proves something only if it sees the end of the restart.
            options: format!("--fault wsproxies:drain@{}s --queries 3", load.fault_at_s),
            evidence: evidence("sockets closed with 1012 are at least half of total_sessions", |summary| {
                2 * summary.reconnects("1012") >= summary.total_sessions
            }),
            ..fault("rolling restart of all proxies", "wsproxies:drain")
        },
        fault("server SIGTERM", "server-1:stop"),
        Row {
            evidence: evidence("queries_error is above 0", |summary| summary.queries_error > 0),
            ..fault("server SIGKILL", "server-1:kill")
        },
    ]
}

fn redis(load: Load) -> Vec<Row> {
    let at = load.fault_at_s;
    let fault = |name, fault: &str| row(name, format!("--fault redis:{fault}@{at}s"));
    vec![
        fault("Redis CLIENT KILL TYPE pubsub", "cut-pubsub"),
        fault("Redis restart, data kept", "restart=keep"),
        fault("Redis restart, data lost", "restart=empty"),
        fault("Redis restart, a second lost", "restart=rollback"),
        Row {
            preparation: Preparation::FillServer,
            ..fault("Redis data lost, one server restores 50 MB", "restart=empty")
        },
        Row {
            options: format!("--fault redis:restart=empty@{at}s --fault server-2:start@{}s", at + 1),
            preparation: Preparation::StopServer,
            ..fault("Redis data lost, a server starts 1 s later", "restart=empty")
        },
        Row {
            evidence: evidence("longest_token_gap_ms is above 4500", |summary| summary.gap_ms() > 4500.0),
            ..fault("Redis paused 5 s", "pause=5s")
        },
        Row {
            evidence: evidence("longest_token_gap_ms is above 250", |summary| summary.gap_ms() > 250.0),
            ..fault("Redis refuses writes for 0.3 s", "refuse=300ms")
        },
        Row {
            evidence: evidence("longest_token_gap_ms is above 2500", |summary| summary.gap_ms() > 2500.0),
            ..fault("Redis demoted and promoted", "demote=3s")
        },
        Row {
            evidence: evidence("longest_token_gap_ms is above 2500", |summary| summary.gap_ms() > 2500.0),
            ..fault("Redis full for 3 s", "full=3s")
        },
    ]
}

fn network_and_clients(load: Load) -> Vec<Row> {
    let fault = |name, fault: &str| row(name, format!("--fault {fault}@{}s", load.fault_at_s));
    let stalled = if load.clients < 100 { load.clients / 2 } else { 50 };
    vec![
        fault("HAProxy reload", "haproxy:reload"),
        Row {
            evidence: evidence(
                "sockets that broke without a close frame are at least half of total_sessions",
                |summary| 2 * summary.reconnects("none") >= summary.total_sessions,
            ),
            ..fault("HAProxy killed and restarted", "haproxy:restart")
        },
        Row {
            evidence: evidence(
                "sockets that broke without a close frame are between a third and two thirds of total_sessions",
                |summary| {
                    let broken = 3 * summary.reconnects("none");
                    (summary.total_sessions..=2 * summary.total_sessions).contains(&broken)
                },
            ),
            haproxies: 2,
            ..fault("HAProxy SIGKILL, one of two", "haproxy-1:kill")
        },
        Row {
            evidence: evidence("longest_token_gap_ms is above 3000", |summary| summary.gap_ms() > 3000.0),
            relays: true,
            ..fault("a link half-open for 10 s", "link:wsproxy-1:half-open=10s")
        },
        row("no fault, clients of the old contract", "--late-connect 0..5".to_owned()),
        Row {
            evidence: evidence("sessions_stalled is above 0", |summary| summary.sessions_stalled > 0),
            ..row("50 readers stalled for 10 s", format!("--pause-readers {stalled}:10s"))
        },
    ]
}
