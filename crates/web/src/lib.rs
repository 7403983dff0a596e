//! The web page: an HTTP server for one browser user, its protection, and the files of the page. It knows runs only as a [`Program`]
//! that starts them, and as the events that `--out` writes. So a crash of a run does not end the page, and no browser can delay a run.
//!
//! Data flow: a run writes its events into a pipe. A thread reads it (`run.rs`) and appends to one log with a limit (`feed.rs`). Each
//! browser has a position in that log, and no queue. A browser that falls behind the log misses events, which are counted.

mod api;
mod assets;
mod connections;
mod feed;
mod history;
mod links;
mod options;
mod page;
mod program;
mod protection;
mod refusal;
mod run;
mod server;
mod token;
mod trial;

pub use page::PageSettings;
pub use program::{Called, Frame, Program, Run, RunEnd, Session};
pub use server::serve;
pub use token::Token;
