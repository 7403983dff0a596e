//! `streamstress web`: checks the address and the files for TLS, and serves the page until a signal.

use super::{found, program::ThisProgram};
use crate::{
    cli::{RunArgs, WebArgs},
    run_error::{RunError, refused},
};
use anyhow::Context;
use host::shutdown_on_signal;
use report::messages;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
};
use web::{PageSettings, Run, Token, serve};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// An address that the page listens on.
pub(super) struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listening {
    /// Listens on `address`. Without `names`, that must be a loopback address.
    ///
    /// # Errors
    /// The address is invalid, not allowed or in use.
    pub(super) fn on(address: &str, names: &[String]) -> Result<Self, RunError> {
        let text = address;
        let address: SocketAddr = text.parse().map_err(|_| {
            refused(&format!("invalid address \"{text}\" for the page: expected for example 127.0.0.1:8089"))
        })?;
        if !address.ip().is_loopback() && names.is_empty() {
            return Err(refused(&format!(
                "{address} can be reached from other machines: add --web-allow with the name or address by which browsers reach \
                 the page, and --tls-cert and --tls-key, or listen on 127.0.0.1"
            )));
        }
        let listen = || -> io::Result<TcpListener> {
            let listener = TcpListener::bind(address)?;
            nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(BACKLOG)?)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = listen().map_err(|error| {
            refused(&format!("the page cannot listen on {address} ({error}): choose another address, for example 127.0.0.1:0"))
        })?;
        let address = listener.local_addr().context("the listener has no address")?;
        Ok(Self { listener, address })
    }

    /// Returns the address to open in a browser. The token is in the fragment, which no browser sends.
    pub(super) fn url(&self, token: &Token, is_secure: bool) -> String {
        let scheme = if is_secure { "https" } else { "http" };
        format!("{scheme}://{}/#t={}", self.address, token.reveal())
    }

    /// Returns the listener for a runtime.
    ///
    /// # Errors
    /// The runtime cannot be built.
    pub(super) fn listener(self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.listener)
    }
}

/// Serves the page until a signal. `run`: the options of a run at the target of the page.
///
/// # Errors
/// The address or the files for TLS cannot be used.
pub(crate) fn web(args: &WebArgs, run: RunArgs) -> Result<(), RunError> {
    let listening = Listening::on(&args.address, &args.web_allow)?;
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Some(Arc::new(tls(certificate, key)?)),
        _ => None,
    };
    if !args.web_allow.is_empty() && tls.is_none() {
        messages::print_stderr(
            "warning: without --tls-cert and --tls-key, others on the network can read the access token and the results",
        );
    }
    let program = ThisProgram {
        results: run.output_dir.clone().unwrap_or_else(|| "results".into()),
        target: args.target(),
        run,
        starts_runs: true,
    };
    let earlier = found::find(&program.results).map_err(|error| {
        refused(&format!(
            "cannot look for a run of an earlier page in {}: {error}",
            program.results.display()
        ))
    })?;
    let token = Token::draw();
    messages::print_stdout(&format!("{}\n", listening.url(&token, tls.is_some())));
    messages::print_stderr(
        "Open this address in a browser. Ctrl+C ends the page; a run that it started goes on.",
    );
    let run = earlier.map(|(pid, run)| {
        messages::print_stderr(&format!(
            "The page shows the run that an earlier page started (process {pid})."
        ));
        Box::new(run) as Box<dyn Run>
    });
    let settings = PageSettings { names: args.web_allow.clone(), tls };
    let runtime = host::runtime(2).context("cannot start a runtime")?;
    runtime.block_on(async {
        let shutdown = shutdown_on_signal().context("cannot listen to signals")?;
        serve(listening.listener()?, Arc::new(program), settings, token, run, shutdown).await;
        anyhow::Ok(())
    })?;
    // A command that the page called may still run.
    runtime.shutdown_background();
    Ok(())
}

fn tls(certificate: &Path, key: &Path) -> Result<rustls::ServerConfig, RunError> {
    let unreadable = |flag: &str, path: &Path, error: &dyn std::fmt::Display| {
        refused(&format!("{flag} {}: {error}: expected a PEM file", path.display()))
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable("--tls-cert", certificate, &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable("--tls-key", key, &error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(anyhow::Error::from)?
        .with_no_client_auth()
        .with_single_cert(chain, private);
    config.map_err(|error| refused(&format!("--tls-cert and --tls-key do not fit together: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_machines_need_permission() {
        let why = |address: &str, names: &[String]| {
            Listening::on(address, names).err().map(|error| error.to_string())
        };
        assert_eq!(why("127.0.0.1:0", &[]), None);
        assert_eq!(why("0.0.0.0:0", &["load.example".into()]), None);
        assert!(why("0.0.0.0:0", &[]).unwrap().contains("--web-allow"));
        assert!(why("[::]:0", &[]).unwrap().contains("--web-allow"));
        assert!(why("localhost", &[]).unwrap().contains("127.0.0.1:8089"));
    }
}
