//! nchan instead of `wsproxy`: nginx with that module in a single process, with default settings except for its memory. One
//! instance holds the sockets, a second one is the front end that takes publications. It checks no JWT, and uses TCP to Redis.

use anyhow::{Context, bail};
use std::{
    fmt::Write as _,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Paths of the module in distributions.
const MODULES: [&str; 2] =
    ["/usr/lib/nginx/modules/ngx_nchan_module.so", "/usr/lib64/nginx/modules/ngx_nchan_module.so"];
/// Messages of a channel that nchan stores by default.
pub const DEFAULT_MESSAGES: u32 = 10;
/// How to install nginx and the module.
const INSTALL: &str =
    "run `apt-get install nginx-light libnginx-mod-nchan` or install the packages of your distribution";

/// Configuration of nginx.
#[derive(Debug)]
pub struct Settings {
    /// Port on loopback to listen on.
    pub port: u16,
    /// Unix socket to listen on in addition.
    pub unix_socket: Option<PathBuf>,
    /// Port of Redis on loopback.
    pub redis_port: u16,
    /// Messages of a channel that Redis stores: the last ten with nchan's default.
    pub messages: u32,
    /// Directory for its configuration and temporary files.
    pub directory: PathBuf,
}

/// Replaces this process with nginx. Returns only if that fails.
///
/// # Errors
/// nginx or the module is missing, or the configuration cannot be written.
pub fn become_nginx(settings: &Settings) -> anyhow::Result<std::convert::Infallible> {
    let Some(module) = MODULES.map(Path::new).into_iter().find(|module| module.is_file()) else {
        bail!("cannot find nginx's module nchan in {}: {INSTALL}", MODULES.join(", "));
    };
    fs::create_dir_all(&settings.directory)?;
    let file = settings.directory.join("nginx.conf");
    fs::write(&file, configuration(settings, module))
        .with_context(|| format!("cannot write {}", file.display()))?;
    // The directory of nginx is often only on root's PATH.
    let program = Some(Path::new("/usr/sbin/nginx")).filter(|program| program.is_file());
    let mut nginx = Command::new(program.unwrap_or(Path::new("nginx")));
    let error = nginx.args(["-e", "stderr", "-p"]).arg(&settings.directory).arg("-c").arg(&file).exec();
    Err(error).with_context(|| format!("cannot start nginx: {INSTALL}"))
}

/// Returns the configuration: subscribers at `/{agent}/ws/{session}`, publications at `/publish?session=…`.
fn configuration(settings: &Settings, module: &Path) -> String {
    let Settings { port, unix_socket, redis_port, messages, directory: _ } = settings;
    let mut listen = format!("listen 127.0.0.1:{port};");
    if let Some(socket) = unix_socket {
        write!(listen, "\n    listen unix:{};", socket.display()).expect("a string takes every write");
    }
    let (storage, fast) = match messages {
        0 => ("nostore", "\n    nchan_redis_nostore_fastpublish on;"),
        _ => ("distributed", ""),
    };
    let length = match *messages {
        0 | DEFAULT_MESSAGES => String::new(),
        more => format!("\n      nchan_message_buffer_length {more};"),
    };
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
      nchan_redis_pass redis;{length}
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

    fn text(unix_socket: Option<&str>, messages: u32) -> String {
        let settings = Settings {
            port: 4040,
            unix_socket: unix_socket.map(Into::into),
            redis_port: 6379,
            messages,
            directory: "/d".into(),
        };
        configuration(&settings, Path::new("/m.so"))
    }

    #[test]
    fn one_process_with_its_log_in_redis() {
        insta::assert_snapshot!(text(Some("/s.sock"), DEFAULT_MESSAGES));
    }

    #[test]
    fn without_storage_messages_are_only_forwarded() {
        let text = text(None, 0);
        for part in ["storage_mode nostore;", "nostore_fastpublish on;", "listen 127.0.0.1:4040;"] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert!(!text.contains("unix:"), "{text}");
    }

    #[test]
    fn more_messages_are_stored_if_asked() {
        let text = text(None, 1_000);
        assert!(text.contains("nchan_message_buffer_length 1000;"), "{text}");
    }
}
