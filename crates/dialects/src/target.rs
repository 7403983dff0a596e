//! Target files: the description of a backend's dialect as TOML, and the state machines that play it.
//!
//! A [`TargetFile`] is read and checked once. Each session has a [`Conversation`], which knows what to send. Each question has a
//! [`FileAnswer`], which knows what the received messages mean.

mod answer;
mod builtin;
mod check;
mod conversation;
mod file;
mod hints;
mod parse;
mod places;
mod pointer;
mod rule;
mod section;
mod template;

pub use answer::{FileAnswer, Incoming, Read, ResumePoint};
pub use builtin::{BUILTIN, Builtin, builtin};
pub use conversation::{Conversation, Greeted, Greeting, Logged, Upgrade};
pub use file::TargetFile;
pub use hints::{describe, mismatches, missing_end, wrong_scope};
pub use parse::BadFile;
pub use places::Places;
pub use rule::Is;
