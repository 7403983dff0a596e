//! Reads, writes and renders results: text, CSV, JSON, HDR logs, JUnit, Markdown, HTML, the progress line and the live view.
//! Nothing here opens a socket or takes part in the load.

pub mod capacity;
pub mod capacity_files;
pub mod compare;
mod file_error;
mod file_names;
pub mod html;
pub mod inspect;
pub mod messages;
pub mod output;
pub mod progress;
mod query_table;
pub mod retention;
pub mod screen;
pub mod sizing;
pub mod sweep;
pub mod sweep_files;
mod text_builder;
mod values;

pub use file_error::FileError;
pub use text_builder::{DEFAULT_COLUMNS, wrap};
