//! Hands the metrics of a run to others while it goes on: serves them for Prometheus, and pushes them to an OpenTelemetry collector.
//! Each has its own thread that reads shared counters. Nothing waits for them, except the end of the run for the last export.

use crate::{
    config::Config,
    run_error::{RunError, refused},
};
use anyhow::Context;
use host::{Exporter, Reading};
use measure::live::{LiveCounters, totals};
use report::{messages, output::RunMetrics};
use std::{net::TcpListener, sync::Arc, time::Instant};
use telemetry::{MetricsServer, Push, PushCounts, Resource};

/// What is opened before the run begins: the address is taken, or the run is refused.
#[derive(Debug, Default)]
pub(crate) struct PreparedObserver {
    listener: Option<TcpListener>,
}

/// What observes a run.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    _server: Option<MetricsServer>,
    push: Option<Push>,
}

impl PreparedObserver {
    /// Listens on the address of the metrics, if there is one.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub(crate) fn prepare(config: &Config) -> Result<Self, RunError> {
        let Some(address) = config.output.metrics_address else { return Ok(Self::default()) };
        let listener = TcpListener::bind(address).map_err(|error| {
            refused(&format!("cannot listen on {address}: {error}; choose another --metrics-address"))
        })?;
        Ok(Self { listener: Some(listener) })
    }

    /// Begins to serve and to push.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(crate) fn begin(
        self,
        config: &Config,
        run: &str,
        metrics: &RunMetrics,
        counters: Vec<Arc<LiveCounters>>,
        epoch: Instant,
    ) -> anyhow::Result<Observer> {
        let pushed = PushCounts::default();
        let (metrics, shown) = (metrics.clone(), config.output.otlp.as_ref().map(|_| pushed.clone()));
        let facts = vec![("run".to_owned(), run.to_owned())];
        let exporter = Exporter::new(Default::default(), move || {
            let mut readings = metrics.readings();
            readings.extend(live(&counters, epoch));
            readings.push(Reading::info("streamstress_run", "1, with the id of the run", facts.clone()));
            readings.extend(shown.iter().flat_map(PushCounts::readings));
            readings
        });
        let exporter = Arc::new(exporter);
        let read = || {
            let exporter = Arc::clone(&exporter);
            move || exporter.text()
        };
        let server = self.listener.map(|listener| MetricsServer::start(listener, read())).transpose();
        let server = server.context("cannot serve the metrics")?;
        if let Some(server) = &server
            && !config.output.quiet
        {
            messages::print_stderr(&format!("metrics: http://{}/metrics", server.address()));
        }
        let resource = Resource {
            service: "streamstress-generator",
            instance: run.to_owned(),
            version: env!("CARGO_PKG_VERSION"),
        };
        let push = config.output.otlp.as_ref().map(|url| Push::start(url, resource, pushed, read()));
        let push = push.transpose().context("cannot start the thread that pushes metrics")?;
        Ok(Observer { _server: server, push })
    }
}

impl Observer {
    /// Pushes the final values, and ends. Failed exports are reported and do not change the verdict.
    pub(crate) fn end(self) {
        let Some(counts) = self.push.map(Push::end) else { return };
        if counts.failed() > 0 {
            let all = counts.ok() + counts.failed();
            messages::warn(&[format!(
                "{} of {all} exports to the OpenTelemetry collector failed: its metrics of this run are incomplete",
                counts.failed()
            )]);
        }
    }
}

/// Returns the metrics that are known at once, from the counters of the workers.
fn live(counters: &[Arc<LiveCounters>], epoch: Instant) -> Vec<Reading> {
    let totals = totals(counters.iter().map(|counters| &**counters));
    vec![
        Reading::counter("streamstress_sessions_started", "Sessions that started", totals.started),
        Reading::counter("streamstress_sessions_ended", "Sessions that ended", totals.ended),
        Reading::gauge(
            "streamstress_sessions_active",
            "Open sessions",
            i64::try_from(totals.open_sessions()).unwrap_or(i64::MAX),
        ),
        Reading::counter(
            "streamstress_sockets_opened",
            "Sockets that were opened, reconnects included",
            totals.connects,
        ),
        Reading::counter(
            "streamstress_tokens_received",
            "Tokens that arrived for the first time",
            totals.tokens,
        ),
        Reading::counter(
            "streamstress_dropped_iterations",
            "Planned queries and arrivals that never started",
            totals.dropped,
        ),
        Reading::seconds(
            "streamstress_run_time",
            "Time since the start of the plan",
            epoch.elapsed().as_secs_f64(),
        ),
    ]
}
