//! A run through a real HAProxy with the configuration that all stacks share.

mod fake;
mod runs;

use client::cli::RunArgs;
use fake::{Running, Script};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use runs::{everything_came, summary};
use std::{
    fs,
    net::TcpListener,
    os::fd::AsRawFd,
    path::Path,
    process::{Child, Command, Stdio},
};

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docker/haproxy/base.cfg");

/// HAProxy in front of the scripted server. It ends with the test.
struct Haproxy {
    child: Child,
    api: String,
    ws: String,
}

impl Haproxy {
    fn start(directory: &Path, server: &Running) -> Self {
        let backends = directory.join("backends.cfg");
        let address = |url: &str| url.split("://").nth(1).unwrap().to_owned();
        let backend = |name: &str, defaults: &str, url: &str| {
            format!("backend {name} from {defaults}\n    server only {} no-check\n", address(url))
        };
        let api = backend("api", "toward-servers", &server.api);
        let ws = backend("ws", "toward-gateways", &server.ws);
        fs::write(&backends, api + &ws).unwrap();
        // HAProxy inherits the listeners. They accept connections before it runs, and no other process can take their ports.
        let listeners = [0; 2].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
        for listener in &listeners {
            fcntl(listener, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        }
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "haproxy", "-db", "-f", BASE, "-f"])
            .arg(backends)
            .env("PATH", path)
            .env("API_BIND", format!("fd@{}", listeners[0].as_raw_fd()))
            .env("WS_BIND", format!("fd@{}", listeners[1].as_raw_fd()))
            .env("STATS_BIND", directory.join("stats.sock"))
            .env("HAPROXY_FD_LIMIT", "1000")
            .env("HAPROXY_THREADS", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start haproxy: run scripts/test.sh, which installs it");
        let [api, ws] = listeners.map(|listener| listener.local_addr().unwrap());
        Self { child, api: format!("http://{api}"), ws: format!("ws://{ws}") }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_host_that_is_given_reaches_the_backend() {
    const HOST: &str = "staging.example.test";
    let server = Running::start(Script::default());
    let directory = tempfile::tempdir().unwrap();
    let haproxy = Haproxy::start(directory.path(), &server);
    for (headers, host) in [(vec![format!("Host: {HOST}")], Some(HOST)), (Vec::new(), None)] {
        let before = server.seen().heads.len();
        let change = |args: &mut RunArgs| {
            args.headers = headers;
            args.api_url = vec![haproxy.api.clone()];
            args.wsproxy_url = vec![haproxy.ws.clone()];
        };
        everything_came(&summary(&server, change, 1, 1), 1, 1, 18);
        let heads = server.seen().heads.split_off(before);
        for call in ["/ready", "/session/create", "/run", "/close", "/ws/"] {
            let (_, headers) = heads.iter().find(|(uri, _)| uri.contains(call)).expect(call);
            let own = if call == "/ws/" { &haproxy.ws } else { &haproxy.api };
            let expected = host.unwrap_or_else(|| own.split("://").nth(1).unwrap());
            assert_eq!(headers.get_all("host").iter().collect::<Vec<_>>(), [expected], "{call}");
            assert!(headers.contains_key("x-forwarded-for"), "{call} did not pass through HAProxy");
        }
    }
}
