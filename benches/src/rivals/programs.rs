//! The rivals as processes: configuration as their documentation recommends it for one machine, start, SIGKILL and restart.

use super::lanes::Connection;
use crate::usage::Watched;
use anyhow::{Context, bail};
use parking_lot::Mutex;
use serde_json::json;
use stack::native::free_port;
use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::sleep,
};

/// Longest time until a program accepts connections.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);
/// User of PostgreSQL, which does not run as root.
const POSTGRES_USER: &str = "postgres";

/// A program that is ended with SIGKILL, and when this value is dropped.
#[derive(Debug)]
pub(super) struct Program {
    name: &'static str,
    arguments: Vec<String>,
    path: PathBuf,
    environment: Vec<(&'static str, String)>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Program {
    fn start(&self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.path.display()))?;
        *self.child.lock() = Some(child);
        Ok(())
    }

    async fn kill(&self) -> anyhow::Result<()> {
        let child = self.child.lock().take();
        if let Some(mut child) = child {
            child.kill().await?;
        }
        Ok(())
    }

    fn pid(&self) -> Option<u32> {
        self.child.lock().as_ref().and_then(Child::id)
    }

    /// Waits until `address` responds to an HTTP request.
    async fn ready(&self, address: SocketAddr, path: &str) -> anyhow::Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.wait(async || Connection::open(address).await?.exchange(request.as_bytes()).await.map(drop))
            .await
    }

    /// Waits until `look` succeeds.
    async fn wait(&self, look: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            let Err(error) = look().await else { return Ok(()) };
            let ended = self.child.lock().as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended {
                bail!("{} ended with {status}: {}", self.name, self.last_lines());
            }
            if began.elapsed() > PATIENCE {
                return Err(error.context(format!("{} is not ready: {}", self.name, self.last_lines())));
            }
            sleep(LOOK).await;
        }
    }

    /// Returns the end of the log.
    fn last_lines(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join(" | ")
    }
}

/// Returns the file of a program on `search_path`.
///
/// # Errors
/// There is none. The message says how to install it.
pub(super) fn find(program: &str, search_path: &str, install: &str) -> anyhow::Result<PathBuf> {
    let found = search_path.split(':').map(|directory| Path::new(directory).join(program));
    found
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("cannot find `{program}`: {install}"))
}

/// A rival that needs at most a database, and takes publications itself.
#[derive(Debug)]
pub(super) struct Alone {
    pub(super) address: SocketAddr,
    program: Program,
    postgres: Option<Program>,
    /// Removed with the rival.
    _directory: TempDir,
}

/// Application of Sockudo.
pub(super) const SOCKUDO: [&str; 3] = ["bench", "bench-key", "bench-secret-of-sockudo"];
/// Keys that Sockudo may keep: two for each token of two minutes at 5,000 tokens/s.
const SOCKUDO_KEYS: u64 = 1_200_000;
/// Basin of `s2 lite`.
pub(super) const BASIN: &str = "benchmark-basin";

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

impl Alone {
    /// Starts Sockudo: one node with connection recovery, and without the limits on how often one address may connect and
    /// publish. With `durable`, PostgreSQL keeps the history of the channels, and publishing is idempotent.
    pub(super) async fn sockudo(search_path: &str, durable: bool) -> anyhow::Result<Self> {
        let install = "run `cargo install sockudo --features postgres`";
        let path = find("sockudo", search_path, install)?;
        let directory = tempfile::Builder::new().prefix("rival").tempdir()?;
        let (port, metrics) = two_ports()?;
        let [id, key, secret] = SOCKUDO;
        let mut configuration = json!({
            "host": "127.0.0.1", "port": port,
            "metrics": {"host": "127.0.0.1", "port": metrics},
            "rate_limiter": {"enabled": false},
            "connection_recovery": {"enabled": true},
            "cache": {"driver": "memory"}, "queue": {"driver": "memory"},
            "app_manager": {
                "driver": "memory",
                "array": {"apps": [{"id": id, "key": key, "secret": secret, "enabled": true}]},
            },
        });
        let postgres = match durable {
            true => {
                let (postgres, port) = postgres(directory.path(), search_path).await?;
                // Keys against repeats outlive a node only in the history. In memory they are kept for two minutes: the default of ten
                // thousand keys forgets them within seconds, and each that is forgotten too early fails its request.
                configuration["idempotency"] = json!({"enabled": true});
                configuration["cache"]["memory"] = json!({"max_capacity": SOCKUDO_KEYS});
                configuration["history"] = json!({"enabled": true, "backend": "postgres"});
                configuration["database"] = json!({"postgres": {
                    "host": "127.0.0.1", "port": port, "username": POSTGRES_USER, "password": "", "database": "postgres",
                }});
                Some(postgres)
            }
            false => None,
        };
        let file = directory.path().join("sockudo.json");
        fs::write(&file, configuration.to_string())?;
        let arguments = vec!["--config".to_owned(), file.to_string_lossy().into()];
        Self::start("sockudo", path, arguments, port, "/up", postgres, directory).await
    }

    /// Starts the durable-streams server with its defaults: every append is on disk before its response.
    pub(super) async fn durable_streams(search_path: &str) -> anyhow::Result<Self> {
        let path = find("durable-streams-server", search_path, "run `cargo install durable-streams`")?;
        let directory = tempfile::Builder::new().prefix("rival").tempdir()?;
        let (port, _) = two_ports()?;
        let data = directory.path().join("data").to_string_lossy().into_owned();
        let arguments = ["--port", &port.to_string(), "--data-dir", &data].map(str::to_owned).to_vec();
        Self::start("durable-streams-server", path, arguments, port, "/", None, directory).await
    }

    /// Starts `s2 lite` with its data on disk: every append is there before its response.
    pub(super) async fn s2(search_path: &str) -> anyhow::Result<Self> {
        let path = find("s2", search_path, "run `cargo install s2-cli`")?;
        let directory = tempfile::Builder::new().prefix("rival").tempdir()?;
        let (port, _) = two_ports()?;
        let root = directory.path().join("data").to_string_lossy().into_owned();
        let arguments =
            ["lite", "--port", &port.to_string(), "--local-root", &root].map(str::to_owned).to_vec();
        let this = Self::start("s2 lite", path, arguments, port, "/health", None, directory).await?;
        let body = r#"{"config":{"create_stream_on_append":true,"create_stream_on_read":true}}"#;
        this.put(&format!("/v1/basins/{BASIN}"), "application/json", body).await?;
        Ok(this)
    }

    async fn start(
        name: &'static str,
        path: PathBuf,
        arguments: Vec<String>,
        port: u16,
        health: &str,
        postgres: Option<Program>,
        directory: TempDir,
    ) -> anyhow::Result<Self> {
        let log = directory.path().join("log");
        let environment = vec![("RUST_LOG", "warn".to_owned())];
        let program = Program { name, arguments, path, environment, log, child: Mutex::default() };
        program.start()?;
        program.ready(loopback(port), health).await?;
        Ok(Self { address: loopback(port), program, postgres, _directory: directory })
    }

    /// Creates a resource.
    ///
    /// # Errors
    /// The status is not of success.
    pub(super) async fn put(&self, path: &str, content_type: &str, body: &str) -> anyhow::Result<()> {
        let length = body.len();
        let request = format!(
            "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let response = Connection::open(self.address).await?.exchange(request.as_bytes()).await?;
        if !(200..300).contains(&response.status) {
            bail!("PUT {path} returned {}: {}", response.status, String::from_utf8_lossy(&response.body));
        }
        Ok(())
    }

    /// Every process that takes part, this one too.
    pub(super) fn watched(&self) -> Vec<Watched> {
        let watched =
            |group: &str, pid| Watched { group: group.to_owned(), pid, with_children: group == "postgres" };
        let gateway = self.program.pid().map(|pid| watched("gateway", pid));
        let postgres = self.postgres.as_ref().and_then(Program::pid).map(|pid| watched("postgres", pid));
        gateway.into_iter().chain(postgres).chain([watched("generator", std::process::id())]).collect()
    }

    pub(super) async fn kill(&self) -> anyhow::Result<()> {
        self.program.kill().await
    }

    pub(super) fn restart(&self) -> anyhow::Result<()> {
        self.program.start()
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.program.kill().await?;
        match &self.postgres {
            Some(postgres) => postgres.kill().await,
            None => Ok(()),
        }
    }
}

fn two_ports() -> anyhow::Result<(u16, u16)> {
    let first = free_port(&[])?;
    Ok((first, free_port(&[first])?))
}

/// Starts PostgreSQL with its default settings and an empty data directory. Returns it and its port.
async fn postgres(directory: &Path, search_path: &str) -> anyhow::Result<(Program, u16)> {
    // Distributions keep the server's programs apart.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<_> =
        versions.map(|entry| entry.path().join("bin").to_string_lossy().into_owned()).collect();
    places.sort();
    places.reverse();
    let places = format!("{}:{search_path}", places.join(":"));
    let install = "run `apt-get install postgresql` or install the package of your distribution";
    let (initdb, server) = (find("initdb", &places, install)?, find("postgres", &places, install)?);
    let data = directory.join("postgres");
    fs::create_dir(&data)?;
    let mut prefix = Vec::new();
    if fs::metadata("/proc/self")?.uid() == 0 {
        // PostgreSQL refuses to run as root.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o711))?;
        let chown = std::process::Command::new("chown").arg(POSTGRES_USER).arg(&data).status()?;
        if !chown.success() {
            bail!("cannot give {} to the user {POSTGRES_USER}", data.display());
        }
        let user = format!("--reuid={POSTGRES_USER}");
        prefix =
            ["/usr/bin/setpriv", &user, "--regid=postgres", "--clear-groups"].map(PathBuf::from).to_vec();
    }
    let command = |program: &Path, arguments: &[&str]| {
        let words = prefix.iter().cloned().chain([program.to_owned()]);
        let mut words: Vec<PathBuf> = words.chain(arguments.iter().map(PathBuf::from)).collect();
        (
            words.remove(0),
            words.into_iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>(),
        )
    };
    let place = data.to_string_lossy().into_owned();
    let (path, arguments) =
        command(&initdb, &["-D", &place, "-A", "trust", "-U", POSTGRES_USER, "-E", "UTF8"]);
    let made = std::process::Command::new(path).args(arguments).output()?;
    if !made.status.success() {
        bail!("initdb failed: {}", String::from_utf8_lossy(&made.stderr));
    }
    let (port, _) = two_ports()?;
    let number = port.to_string();
    let (path, arguments) = command(
        &server,
        &["-D", &place, "-p", &number, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="],
    );
    let log = directory.join("postgres.log");
    let program =
        Program { name: "postgres", arguments, path, environment: Vec::new(), log, child: Mutex::default() };
    program.start()?;
    program
        .wait(async || {
            tokio::net::TcpStream::connect(loopback(port)).await?;
            Ok(())
        })
        .await?;
    Ok((program, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_installation() {
        let error = find("no-such-rival", "/bin:/usr/bin", "run `cargo install no-such-rival`").unwrap_err();
        assert_eq!(error.to_string(), "cannot find `no-such-rival`: run `cargo install no-such-rival`");
        assert!(find("sh", "/nowhere:/bin", "").is_ok());
    }

    #[tokio::test]
    async fn a_program_that_ends_at_once_is_an_error_with_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let arguments = ["-c", "echo no configuration; exit 3"].map(str::to_owned).to_vec();
        let (path, log) = ("/bin/sh".into(), directory.path().join("log"));
        let program =
            Program { name: "rival", arguments, path, environment: Vec::new(), log, child: Mutex::default() };
        program.start().unwrap();
        let error = program.ready(loopback(1), "/").await.unwrap_err().to_string();
        assert!(error.contains("rival ended with exit status: 3: no configuration"), "{error}");
    }
}
