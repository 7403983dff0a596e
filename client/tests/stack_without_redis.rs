//! Start without Redis: both programs run, are not ready, and serve when Redis is there.

mod rig;

use rig::{processes::ChildGuard, programs, traffic::Session, wait_until};
use stack::native::free_port;
use std::process::{Command, Stdio};

const SECRET: &str = "a key of thirty-two bytes or more, for tests";

struct Part {
    url: String,
    _process: ChildGuard,
}

impl Part {
    fn start(name: &str, port: u16, redis_port: u16) -> Self {
        let mut command = programs::program(name);
        command
            .env("HOST", "127.0.0.1")
            .env("PORT", port.to_string())
            .env("REDIS_URL", format!("redis://127.0.0.1:{redis_port}"))
            .env("JWT_SECRET", SECRET)
            .env("DRAIN_SECONDS", "1")
            .stderr(Stdio::null());
        Self { url: format!("127.0.0.1:{port}"), _process: ChildGuard::start(&mut command) }
    }

    fn answers(&self, path: &str) -> Option<u16> {
        let url = format!("http://{}{path}", self.url);
        reqwest_status(&url)
    }
}

/// Returns the status of a GET, from a thread without a runtime.
fn reqwest_status(url: &str) -> Option<u16> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Some(reqwest::get(url).await.ok()?.status().as_u16()) })
}

#[test]
fn programs_wait_for_redis() {
    let mut ports = Vec::new();
    for _ in 0..3 {
        ports.push(free_port(&ports).unwrap());
    }
    let parts = [Part::start("server", ports[0], ports[2]), Part::start("wsproxy", ports[1], ports[2])];
    for part in &parts {
        wait_until("the program runs", || part.answers("/health") == Some(200));
        assert_eq!(part.answers("/ready"), Some(503), "ready without Redis");
    }

    let directory = tempfile::tempdir().unwrap();
    let _redis = ChildGuard::start(
        Command::new("redis-server")
            .args(["--port", &ports[2].to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(directory.path())
            .stdout(Stdio::null()),
    );
    for part in &parts {
        wait_until("the program is ready", || part.answers("/ready") == Some(200));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let [server, wsproxy] = &parts;
        let mut session =
            Session::open(&format!("http://{}", server.url), &format!("ws://{}", wsproxy.url)).await;
        session.completes(20).await;
        session.close().await;
    });
}
