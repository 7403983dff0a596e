//! Hands the metrics of a program to others: serves them for Prometheus, and pushes them to an OpenTelemetry collector.
//! Both read the text of the program's registry, so that each metric is instrumented once. Each has its own thread, and neither can delay
//! the program.

mod exposition;
mod otlp;
mod push;
mod serve;

pub use otlp::Resource;
pub use push::{Push, PushCounts, PushError, Url, push_url};
pub use serve::MetricsServer;
