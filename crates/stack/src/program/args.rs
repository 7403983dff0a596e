//! The program's flags and environment, as clap reads them, and what they mean in the library's terms.

use crate::{
    fault::{DEFAULT_NAME, Fault, is_name, state_directory},
    native::{Persistence, Role},
};
use clap::{
    Args as ClapArgs, Parser, Subcommand, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
};
use std::{path::PathBuf, str::FromStr};

/// Starts and holds a Streamstress stack of plain processes: Redis, servers, gateways, HAProxy.
#[derive(Debug, Parser)]
#[command(
    name = "streamstress stack",
    bin_name = "streamstress stack",
    version,
    max_term_width = 100,
    args_override_self = true
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which stack is meant.
#[derive(Debug, ClapArgs)]
pub(crate) struct Place {
    /// The stack's name: several can run side by side on ports of their own
    #[arg(long, global = true, default_value = DEFAULT_NAME, value_parser = name)]
    name: String,
    /// Where its socket, logs and files are [default: $XDG_RUNTIME_DIR/streamstress/NAME or /tmp/streamstress-UID/NAME]
    #[arg(long, global = true, env = "STREAMSTRESS_STATE_DIR", value_parser = path())]
    state_dir: Option<PathBuf>,
    #[arg(long, global = true, env = "XDG_RUNTIME_DIR", hide = true, value_parser = path())]
    runtime_dir: Option<PathBuf>,
}

impl Place {
    /// The stack's state directory.
    pub(crate) fn directory(&self) -> PathBuf {
        let given = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        state_directory(&self.name, given(&self.state_dir), given(&self.runtime_dir))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a stack and hold it until Ctrl+C, or in the background with --detach
    Up(Up),
    /// End the running stack
    Down,
    /// Show what runs
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the end of the logs
    Logs(Logs),
    /// Break something on purpose, e.g. `fault wsproxy-1:kill`; --help lists what can be broken, and how
    Fault(FaultArgs),
    /// Change numbers of instances, e.g. `scale wsproxy=5 server=3`; open sockets stay
    Scale {
        /// ROLE=COUNT, where ROLE is server or wsproxy
        #[arg(required = true, value_parser = target)]
        to: Vec<(Role, u16)>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Up {
    /// How many servers
    #[arg(long, default_value_t = 2)]
    pub(crate) servers: u16,
    /// How many gateways
    #[arg(long, default_value_t = 3)]
    pub(crate) proxies: u16,
    /// Workers of each server [default: the server's own]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) server_workers: Option<u16>,
    /// Port of the HTTP API; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    pub(crate) api_port: u16,
    /// Port of the WebSockets; 0 takes a free one
    #[arg(long, default_value_t = 8081)]
    pub(crate) ws_port: u16,
    /// Port of HAProxy's statistics and metrics; 0 takes a free one
    #[arg(long, default_value_t = 8404)]
    pub(crate) stats_port: u16,
    /// A TCP port for Redis, for a gateway of your own; 0 takes a free one [default: none, Redis has a unix socket]
    #[arg(long)]
    pub(crate) redis_port: Option<u16>,
    /// What Redis writes to disk: nothing, or every write, synced once a second or always
    #[arg(long, value_enum, default_value_t = RedisPersistence::None)]
    pub(crate) redis_persistence: RedisPersistence,
    /// A relay in every link from the start, so that `streamstress stack fault link:…` meets connections that are open; costs CPU
    #[arg(long)]
    pub(crate) relays: bool,
    /// Return when the stack is up; it runs on until `streamstress stack down`
    #[arg(long)]
    pub(crate) detach: bool,
    /// Directory with other `server` and `wsproxy` programs [default: this program itself]
    #[arg(long, env = "STREAMSTRESS_BIN_DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
    /// Signs the sessions' tokens [default: a random one]
    #[arg(long, env = "JWT_SECRET", hide = true, hide_env_values = true)]
    pub(crate) jwt_secret: Option<String>,
    #[arg(long, env = "PATH", hide = true, default_value = "/usr/local/bin:/usr/bin:/bin")]
    pub(crate) search_path: String,
    /// Told by `--detach` to the process that it starts
    #[arg(long, hide = true)]
    pub(crate) announce: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RedisPersistence {
    None,
    Everysec,
    Always,
}

impl From<RedisPersistence> for Persistence {
    fn from(wanted: RedisPersistence) -> Self {
        match wanted {
            RedisPersistence::None => Self::None,
            RedisPersistence::Everysec => Self::Everysec,
            RedisPersistence::Always => Self::Always,
        }
    }
}

/// Break something on purpose: `streamstress stack fault wsproxy-1:kill`
#[derive(Debug, ClapArgs)]
#[command(after_long_help = FAULT_HELP)]
pub(crate) struct FaultArgs {
    /// TARGET:ACTION, one or several, one after another
    #[arg(required = true, value_name = "TARGET:ACTION")]
    pub(crate) faults: Vec<Fault>,
    /// Break the stack that Compose runs (give =PROJECT where several do)
    #[arg(long, value_name = "PROJECT", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) compose: Option<String>,
    /// Break nothing; only see whether it could be
    #[arg(long)]
    pub(crate) check: bool,
    /// As JSON, a line a fault
    #[arg(long)]
    pub(crate) json: bool,
}

const FAULT_HELP: &str = "\
Targets:
  server-1, wsproxy-2      one instance
  server-any, wsproxy-any  the one with the lowest number that the action fits
  servers, wsproxies       all of a role, one after the other
  redis, haproxy
  link:wsproxy-1           HAProxy -> that gateway (link:server-1, link:wsproxies, ... alike)
  link:redis/wsproxy-1     that process -> Redis
  link:ws, link:api        clients -> HAProxy; needs `streamstress stack up --relays`

Actions on processes:
  kill            SIGKILL; stays down
  stop            SIGTERM; drains and stays down (returns at once)
  start           starts what is down, with its number, port and socket
  restart         kill, then start
  drain           SIGTERM, wait for the end, start (`wsproxies:drain` is a rolling restart)
  pause, pause=5s SIGSTOP, and SIGCONT after that time or at `resume`
Redis only:
  restart=keep       back with every acknowledged write
  restart=empty      back with nothing
  restart=rollback   back without its last second
  cut-pubsub         closes all subscribers' connections
  refuse=300ms       refuses writes for that time (NOREPLICAS)
  demote=3s          becomes a replica for that time, then a primary again (READONLY)
  full=3s            is out of memory for that time (OOM)
HAProxy only:
  reload             a new worker; open sockets stay with the old one

Actions on links (native stacks only):
  delay=50ms, jitter=20ms  everything arrives later, in order
  cut, reset               ends all connections now (reset: by RST where they are TCP)
  half-open=10s            nothing passes, nothing is closed
  slow, slow=10s           a byte a second
  heal                     back to normal
A relay enters a link at its first fault: between HAProxy and an instance for new connections, before Redis by closing
everybody's connections to it. `streamstress stack up --relays` has relays everywhere from the start; cut and reset need that.

Examples:
  streamstress stack fault wsproxy-1:kill
  streamstress stack fault wsproxies:drain
  streamstress stack fault redis:restart=rollback
  streamstress stack fault link:redis/wsproxy-1:delay=50ms
  streamstress stack fault --compose redis:pause=5s";

#[derive(Debug, ClapArgs)]
pub(crate) struct Logs {
    /// Whose log, e.g. wsproxy-2; all of them where absent
    pub(crate) process: Option<String>,
    /// Go on as the log grows, until Ctrl+C
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How many lines of each
    #[arg(long, default_value_t = 20)]
    pub(crate) lines: usize,
}

fn name(text: &str) -> Result<String, String> {
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a name has 1 to 40 letters, digits, `-` or `_`".to_owned())
    }
}

/// Also an empty one: a variable that is set to nothing is as good as not set.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn target(text: &str) -> Result<(Role, u16), String> {
    let expected = || format!("`{text}` is no ROLE=COUNT: give for example wsproxy=5 or server=3");
    let (role, count) = text.split_once('=').ok_or_else(expected)?;
    let role = match role {
        "server" => Role::Server,
        "wsproxy" => Role::Wsproxy,
        _ => return Err(expected()),
    };
    Ok((role, u16::from_str(count).map_err(|_| expected())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_fit_together() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn targets() {
        assert_eq!(target("wsproxy=5"), Ok((Role::Wsproxy, 5)));
        for text in ["", "wsproxy", "redis=2", "server=", "server=-1", "server=x", "server=99999"] {
            assert!(target(text).unwrap_err().contains("ROLE=COUNT"), "{text:?}");
        }
    }

    #[test]
    fn names_never_leave_their_directory() {
        assert!(name("load-1").is_ok());
        for text in ["", "../x", "a/b", "a b", &"x".repeat(41)] {
            assert!(name(text).is_err(), "{text:?}");
        }
    }
}
