//! Options of `streamstress stack` and its commands, as clap reads them.

use crate::{
    autoscale::Rule,
    fault::Fault,
    native::Persistence,
    role::Role,
    stack_ref::{DEFAULT_NAME, StackRef, is_name, state_directory},
};
use clap::{
    Args as ClapArgs, Subcommand,
    builder::{OsStringValueParser, TypedValueParser},
};
use std::{path::PathBuf, str::FromStr, time::Duration};

const STACK: &str = "Stack";
const PROCESSES: &str = "Processes";
const PORTS: &str = "Ports on 127.0.0.1";
const REDIS: &str = "Redis";

/// The options and the command of `streamstress stack`.
#[derive(Debug, ClapArgs)]
#[command(
    version,
    max_term_width = 100,
    args_override_self = true,
    after_help = STACK_EXAMPLES
)]
pub struct Args {
    #[command(flatten)]
    pub(crate) selection: Selection,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const STACK_EXAMPLES: &str = "\
Examples:
  streamstress stack up --detach                start a stack in the background
  streamstress stack status                     list the processes and whether they are ready
  streamstress stack fault wsproxy-1:kill       kill a gateway
  streamstress stack logs --follow wsproxy-2    print the log of a gateway as it grows
  streamstress stack down                       end the stack; the logs stay";

/// Options that select a stack.
#[derive(Debug, ClapArgs)]
pub(crate) struct Selection {
    /// Name of the stack. Stacks with different names can run at the same time on different ports
    // The default id, `name`, is that of an option of `streamstress run`: its variable would set this option as well.
    #[arg(id = "stack_name", long = "name", value_name = "NAME", global = true, default_value = DEFAULT_NAME,
          value_parser = name, help_heading = STACK)]
    name: String,
    /// Directory for the control socket, logs and files of the stack [default: $XDG_RUNTIME_DIR/streamstress/NAME or
    /// /tmp/streamstress-UID/NAME]
    #[arg(long, value_name = "DIR", global = true, env = "STREAMSTRESS_STATE_DIR", hide_env_values = true,
          value_parser = path(), help_heading = STACK)]
    state_dir: Option<PathBuf>,
}

impl Selection {
    /// Returns the state directory of the stack.
    pub(crate) fn directory(&self) -> PathBuf {
        let explicit = self.state_dir.clone().filter(|path| !path.as_os_str().is_empty());
        explicit.unwrap_or_else(|| state_directory(&self.name))
    }

    /// Returns the command that ends the stack, for example `streamstress stack down --name second`.
    pub(crate) fn down_command(&self) -> String {
        let explicit = self.state_dir.as_ref().filter(|path| !path.as_os_str().is_empty());
        let selection = match explicit {
            Some(path) => format!(" --state-dir {}", path.display()),
            None if self.name == DEFAULT_NAME => String::new(),
            None => format!(" --name {}", self.name),
        };
        format!("streamstress stack down{selection}")
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a stack. It runs until Ctrl+C or `streamstress stack down`
    Up(Up),
    /// End the running stack
    Down,
    /// Show the processes of the running stack, their ports and whether they are ready
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the last lines of the logs, also after the stack has ended
    Logs(Logs),
    /// Inject faults into the running stack, for example `fault wsproxy-1:kill`
    #[command(after_help = FAULT_EXAMPLES, after_long_help = FAULT_HELP)]
    Fault(FaultArgs),
    /// Change the number of servers or gateways, for example `scale wsproxy=5 server=3`
    ///
    /// Prints what changed and how long the new instances took, when they get connections. Instances with the highest numbers leave
    /// first: HAProxy sends them nothing more, and they drain in the background. Sockets of the other instances stay open.
    Scale(ScaleArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ScaleArgs {
    /// Role (server or wsproxy) and number of its instances, 1 to 64
    #[arg(required = true, value_name = "ROLE=COUNT", value_parser = role_count)]
    pub(crate) to: Vec<(Role, u16)>,
    /// Scale a stack that Docker Compose started; =PROJECT is needed if several run
    #[arg(long, value_name = "PROJECT", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) compose: Option<String>,
    /// Wait at most this long for the first session of each new gateway and the first query of each new server, and print when it came
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = wait)]
    pub(crate) wait: Duration,
    /// Print one line of JSON per role, after the wait
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = UP_EXAMPLES)]
pub(crate) struct Up {
    /// Return when the stack is ready; it runs until `streamstress stack down`
    #[arg(long)]
    pub(crate) detach: bool,
    /// Put a relay into every link from the start, so that faults of links affect open connections. Costs CPU time
    #[arg(long)]
    pub(crate) relays: bool,
    /// Number of servers, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = PROCESSES)]
    pub(crate) servers: u16,
    /// Number of gateways, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = PROCESSES)]
    pub(crate) proxies: u16,
    /// Scale the gateways by their open sockets, for example `wsproxy: connections/1000, 1..8`. `--proxies` is the number at the start
    #[arg(long, value_name = "RULE", help_heading = PROCESSES)]
    pub(crate) autoscale: Option<Rule>,
    /// Number of HAProxy instances, 1 to 16. The ports of each are 10 above those of the previous one
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = PROCESSES)]
    pub(crate) haproxy_instances: u16,
    /// Worker threads of each server, 1 to 256 [default: chosen by the server]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), help_heading = PROCESSES)]
    pub(crate) server_workers: Option<u16>,
    /// Directory with other `server` and `wsproxy` programs [default: this program]
    #[arg(long, value_name = "DIR", env = "STREAMSTRESS_BIN_DIR", hide_env_values = true, help_heading = PROCESSES)]
    pub(crate) bin_dir: Option<PathBuf>,
    /// Port of the HTTP API at the first HAProxy; 0 selects a free port
    #[arg(long, value_name = "PORT", default_value_t = 8080, help_heading = PORTS)]
    pub(crate) api_port: u16,
    /// Port for WebSockets at the first HAProxy; 0 selects a free port
    #[arg(long, value_name = "PORT", default_value_t = 8081, help_heading = PORTS)]
    pub(crate) ws_port: u16,
    /// Port of the first HAProxy's statistics and metrics; 0 selects a free port
    #[arg(long, value_name = "PORT", default_value_t = 8404, help_heading = PORTS)]
    pub(crate) stats_port: u16,
    /// TCP port of Redis on 127.0.0.1, for your own gateway; 0 selects a free port [default: none, Redis has a unix socket]
    #[arg(long, value_name = "PORT", help_heading = REDIS)]
    pub(crate) redis_port: Option<u16>,
    /// Writes that Redis stores on disk
    #[arg(long, value_name = "MODE", value_enum, default_value_t, help_heading = REDIS)]
    pub(crate) redis_persistence: Persistence,
    /// Key that signs the tokens of sessions [default: random]
    #[arg(long, env = "JWT_SECRET", hide = true, hide_env_values = true)]
    pub(crate) jwt_secret: Option<String>,
    /// Reports the result of the start on stdout as JSON; `--detach` adds this option for the supervisor process
    #[arg(long, hide = true)]
    pub(crate) announce: bool,
}

const UP_EXAMPLES: &str = "\
The variable JWT_SECRET sets the key that signs the tokens of sessions (32 bytes or more).
Without it the key is random.

Examples:
  streamstress stack up                                     run a stack until Ctrl+C
  streamstress stack up --detach --servers 3 --proxies 5    start a stack in the background
  streamstress stack up --detach --haproxy-instances 2      start a stack with two load balancers
  streamstress stack up --name second --api-port 0 --ws-port 0 --stats-port 0    add a stack";

#[derive(Debug, ClapArgs)]
pub(crate) struct FaultArgs {
    /// Target and action of each fault. Several faults are injected one after the other
    #[arg(required = true, value_name = "TARGET:ACTION")]
    pub(crate) faults: Vec<Fault>,
    /// Inject into a stack that Docker Compose started; =PROJECT is needed if several run
    #[arg(long, value_name = "PROJECT", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) compose: Option<String>,
    /// Check whether the faults can be injected, and inject nothing
    #[arg(long)]
    pub(crate) check: bool,
    /// Print one line of JSON per fault
    #[arg(long)]
    pub(crate) json: bool,
}

/// Examples of faults; the long help is the same with the targets and actions before it.
macro_rules! fault_examples {
    () => {
        "\
Examples:
  streamstress stack fault wsproxy-1:kill                     kill a gateway; it stays down
  streamstress stack fault wsproxies:drain                    restart the gateways one by one
  streamstress stack fault redis:restart=rollback             lose the last second of writes
  streamstress stack fault link:redis/wsproxy-1:delay=50ms    delay a gateway's link to Redis
  streamstress stack fault --compose redis:pause=5s           pause Redis of a Compose stack"
    };
}

const FAULT_EXAMPLES: &str = concat!("--help lists all targets and actions.\n\n", fault_examples!());

const FAULT_HELP: &str = concat!(
    "\
Targets:
  server-1, wsproxy-2      one instance
  server-any, wsproxy-any  the instance with the lowest number to which the action applies
  servers, wsproxies       all instances of a role, one after the other
  redis                    Redis
  haproxy                  HAProxy with its workers; if there are several, one after the other
  haproxy-2, haproxy-any   one of several HAProxies
  link:wsproxy-1           the link from HAProxy to a gateway (also link:server-1, link:wsproxies)
  link:redis/wsproxy-1     the link from a gateway to Redis (also link:redis/servers)
  link:ws, link:api        the links from clients to every HAProxy; needs `stack up --relays`

Actions on processes:
  kill                SIGKILL; the process stays down
  stop                SIGTERM; the process drains and stays down. Returns at once
  start               start a process that is down, with the same number, port and socket
  restart             kill, then start
  drain               SIGTERM, wait until the process has ended, then start
  pause, pause=5s     SIGSTOP, until `resume` or for this time
  resume              SIGCONT
  scale=6             change the number of servers or gateways, as `stack scale` does, for example
                      wsproxy:scale=6
  scale=3..6          have 3 of them, then one more per second until 6; scale=6..3 removes them
Actions on Redis only:
  restart=keep        restart with every acknowledged write
  restart=empty       restart without data
  restart=rollback    restart without the last second of writes
  cut-pubsub          close the connections of all subscribers
  refuse=300ms        reject writes for this time (NOREPLICAS)
  demote=3s           be a replica for this time, then a primary again (READONLY)
  full=3s             be out of memory for this time (OOM)
Actions on HAProxy only:
  reload              start a new worker; open sockets stay with the old one

Actions on links (native stacks only):
  delay=50ms          deliver all data this much later, in both directions and in order
  jitter=20ms         deliver all data up to this much later, in order
  cut, reset          close all connections now; reset sends RST on TCP connections
  half-open=10s       pass nothing and close nothing for this time
  slow, slow=10s      pass one byte per second, until `heal` or for this time
  heal                pass everything again

Times are written as 500ms, 5s or 1m30s, from 1ms to 1h.
The first fault of a link puts a relay into it. Between HAProxy and an instance, the relay affects
only new connections. Before Redis, every connection to Redis is closed once. With `streamstress
stack up --relays` all links have relays from the start; cut and reset need that.

",
    fault_examples!()
);

#[derive(Debug, ClapArgs)]
pub(crate) struct Logs {
    /// Process, for example wsproxy-2 [default: all]
    pub(crate) process: Option<String>,
    /// Print new lines as the logs grow, until Ctrl+C
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Number of lines per log
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) lines: usize,
}

/// Returns the stack that `--compose` or else the selection means.
pub(crate) fn stack(selection: &Selection, compose: Option<&str>) -> anyhow::Result<StackRef> {
    match compose {
        None => Ok(StackRef::Native(selection.directory())),
        Some("") => Ok(StackRef::Compose { project: None }),
        Some(project) => StackRef::find(Some(&format!("compose:{project}"))),
    }
}

/// Reads the name of a stack.
fn name(text: &str) -> Result<String, String> {
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 40 ASCII letters, digits, `-` or `_`".to_owned())
    }
}

/// Reads a path. Accepts an empty one, because an empty environment variable counts as not set.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Reads the time to wait for the first session, at most an hour.
fn wait(text: &str) -> Result<Duration, String> {
    let wait = settings::duration::parse(text).filter(|wait| *wait <= Duration::from_secs(3600));
    wait.ok_or_else(|| "expected 0s to 1h, for example 10s".to_owned())
}

/// Reads a role and the number of its instances.
fn role_count(text: &str) -> Result<(Role, u16), String> {
    let expected = || "expected ROLE=COUNT, for example wsproxy=5 or server=3".to_owned();
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
        Args::augment_args(clap::Command::new("stack")).debug_assert();
    }

    #[test]
    fn roles_have_counts() {
        assert_eq!(role_count("wsproxy=5"), Ok((Role::Wsproxy, 5)));
        for text in ["", "wsproxy", "redis=2", "server=", "server=-1", "server=x", "server=99999"] {
            assert!(role_count(text).unwrap_err().contains("ROLE=COUNT"), "{text:?}");
        }
    }

    #[test]
    fn a_wait_is_at_most_an_hour() {
        assert_eq!(wait("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(wait("0s"), Ok(Duration::ZERO));
        for text in ["", "x", "-1s", "61m"] {
            assert!(wait(text).unwrap_err().contains("for example 10s"), "{text:?}");
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
