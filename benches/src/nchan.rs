//! nchan in the place of our gateway: nginx with that module, at its defaults but for its memory, in a single process.
//! Started once it holds the sockets, started again it is the front end that takes publications to Redis. It checks no JWT,
//! and speaks TCP to Redis.

use anyhow::{Context, bail};
use std::{
    fmt::Write as _,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Where distributions put the module.
const MODULES: [&str; 2] =
    ["/usr/lib/nginx/modules/ngx_nchan_module.so", "/usr/lib64/nginx/modules/ngx_nchan_module.so"];
/// What nginx is to be installed with.
const INSTALL: &str = "run `apt-get install nginx-light libnginx-mod-nchan` (or the like)";

/// How nginx is set up.
#[derive(Debug)]
pub struct Settings {
    /// Where to listen on loopback.
    pub port: u16,
    /// A unix socket to listen on as well.
    pub unix_socket: Option<PathBuf>,
    /// Redis' port on loopback.
    pub redis_port: u16,
    /// Whether Redis keeps messages, the last ten of a channel, or only hands them on.
    pub stores: bool,
    /// Its configuration and its temporary files go here.
    pub directory: PathBuf,
}

/// Becomes nginx: it returns only what went wrong.
///
/// # Errors
/// The module or nginx is missing, or there is no writing its configuration.
pub fn become_nginx(settings: &Settings) -> anyhow::Result<std::convert::Infallible> {
    let Some(module) = MODULES.map(Path::new).into_iter().find(|module| module.is_file()) else {
        bail!("nginx's module nchan is in none of {}: {INSTALL}", MODULES.join(", "));
    };
    fs::create_dir_all(&settings.directory)?;
    let file = settings.directory.join("nginx.conf");
    fs::write(&file, configuration(settings, module))
        .with_context(|| format!("cannot write {}", file.display()))?;
    // nginx lives in a directory that is on root's PATH alone.
    let program = Some(Path::new("/usr/sbin/nginx")).filter(|program| program.is_file());
    let mut nginx = Command::new(program.unwrap_or(Path::new("nginx")));
    let error = nginx.args(["-e", "stderr", "-p"]).arg(&settings.directory).arg("-c").arg(&file).exec();
    Err(error).with_context(|| format!("cannot start nginx: {INSTALL}"))
}

/// Subscribers at `/{agent}/ws/{session}`, publications at `/publish?session=…`.
fn configuration(settings: &Settings, module: &Path) -> String {
    let Settings { port, unix_socket, redis_port, stores, directory: _ } = settings;
    let mut listen = format!("listen 127.0.0.1:{port};");
    if let Some(socket) = unix_socket {
        write!(listen, "\n    listen unix:{};", socket.display()).expect("a string takes every write");
    }
    let storage = if *stores { "distributed" } else { "nostore" };
    let fast = if *stores { "" } else { "\n    nchan_redis_nostore_fastpublish on;" };
    format!(
        r"load_module {module};
daemon off;
master_process off;
pid nginx.pid;
events {{ worker_connections 19900; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  # Messages stay in it for a while; those that do not fit are lost.
  nchan_shared_memory_size 1G;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  upstream redis {{
    nchan_redis_server redis://127.0.0.1:{redis_port};
    nchan_redis_storage_mode {storage};{fast}
  }}
  server {{
    {listen}
    location = /ready {{ return 200; }}
    location ~ ^/[^/]+/ws/([0-9a-f-]+)$ {{
      nchan_subscriber websocket;
      nchan_channel_id $1;
      nchan_redis_pass redis;
    }}
    location = /publish {{
      nchan_publisher http;
      nchan_channel_id $arg_session;
      nchan_redis_pass redis;
    }}
  }}
}}
",
        module = module.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(unix_socket: Option<&str>, stores: bool) -> String {
        let settings = Settings {
            port: 4040,
            unix_socket: unix_socket.map(Into::into),
            redis_port: 6379,
            stores,
            directory: "/d".into(),
        };
        configuration(&settings, Path::new("/m.so"))
    }

    #[test]
    fn one_process_with_its_log_in_redis() {
        insta::assert_snapshot!(text(Some("/s.sock"), true));
    }

    #[test]
    fn without_storage_messages_are_handed_on_alone() {
        let text = text(None, false);
        for part in ["storage_mode nostore;", "nostore_fastpublish on;", "listen 127.0.0.1:4040;"] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert!(!text.contains("unix:"), "{text}");
    }
}
