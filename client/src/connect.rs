//! Connects to the target before the first session, to see that it answers.

use crate::{
    config::Config,
    preflight,
    run_error::{RunError, refused},
};
use anyhow::Context;
use load::{connector::Connector, tls};
use plan::Stop;
use std::sync::Arc;

/// Returns the TLS configuration of a run.
pub(crate) fn tls(config: &Config) -> Result<rustls::ClientConfig, RunError> {
    tls::client_config(config.plan.target.ca_file.as_deref()).map_err(|error| refused(&format!("{error:#}")))
}

/// Checks that the target answers. Returns early if the run is asked to stop.
pub(crate) fn connect(
    config: &Config,
    tls: &rustls::ClientConfig,
    stop: &Stop,
) -> Result<Arc<Connector>, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot build a runtime for the preflight")?;
    let connector = runtime.block_on(async {
        tokio::select! {
            biased;
            () = stop.starting.cancelled() => Err(RunError::Interrupted),
            connector = preflight::network(config, tls) => Ok(connector?),
        }
    });
    // A name lookup that has not returned would delay the end of the program.
    runtime.shutdown_background();
    connector
}
