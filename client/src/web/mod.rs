//! The web page. `streamstress web` starts each run as a child process ([`child`]) and shows its events. `run --web` shows the run of
//! this process ([`own`]). A page that is started again
//! finds the run of an earlier one ([`found`]) by the directory that each run has ([`directory`]). The server and the page are the crate `web`; what it needs of this program is [`program`].
//!
//! Both kinds of runs write their events into a named pipe ([`events`]), as `--out seconds=FILE` does, and are stopped by signals, so that
//! the page uses the same ways into a run as the command line.

mod child;
mod command;
mod directory;
mod events;
mod found;
mod journal;
mod own;
mod program;
mod trial;
mod watched;

pub(crate) use command::web;
pub(crate) use own::OwnPage;
