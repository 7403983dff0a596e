//! Several generators as one run.
//!
//! One process can only produce so much load. This crate lets several processes, on one machine or on many, play one plan together:
//! each *claims* a shard of the plan, all *start* at one instant, and each sends what it measured to one *leader*, which judges the
//! run. The crate carries bytes and knows nothing of plans, measurements or reports.
//!
//! ```text
//!  generator (shard 0)                 meeting place                     leader (one of the processes)
//!  ───────────────────                 ─────────────                     ─────────────────────────────
//!  Coordinator::claim  ── shard? ────► claims, the plan's fingerprint
//!  Generator::ready    ── ready ─────► barrier: when all came, ─────────► Event::Claimed …, Started
//!                      ◄── start ────  one start for all
//!  Generator::send     ── part 1, 2 ─► parts of each shard, in order ──► Event::Part, Dropped
//!  (its own thread)    ── heartbeat ─► alive? latest status ───────────► Event::Status, Lost
//!  Claimed::commands   ◄── 1, 2, … ──  commands, numbered ◄──────────────  Leader::command
//!  Generator::finish   ── report ────► last message of the shard ──────► Event::Finished
//!  Generator::verdict  ◄── verdict ──  verdict ◄─────────────────────────  Leader::conclude
//! ```
//!
//! There are two meeting places behind the same traits, and one test suite for both:
//!
//! | | [`unix`] | [`redis`] |
//! |---|---|---|
//! | for | the processes of one machine | any machines |
//! | place | a unix socket of the parent process | a control Redis, not the one under test |
//! | leader | the parent | the lowest living shard; [`Claimed::leadership`] tells a process that it leads |
//! | lost | its socket closes, or several heartbeats are missing | several polls that succeeded saw the same heartbeat |
//! | outage | the parent's death aborts all | parts wait for 60 s, nobody is lost for 3 s afterwards, and after 180 s the leader ends the run |
//! | results | end with the parent | stay for an hour: [`redis::Control::collect`] |
//!
//! What holds for both: a shard has one holder. A part arrives once and in order, or the leader counts it as dropped. A lost shard stays
//! lost, its generator gets the command to abort, and [`Event::Lost`] is its last event. A command arrives once and in order at every
//! generator. All queues have limits. The calls block, or use threads of this crate; none needs an asynchronous runtime.
//!
//! All durations are in [`Timing`].

mod generator;
mod leader;
mod outbox;
pub mod redis;
mod run;
mod timing;
pub mod unix;
mod watch;

pub use generator::{BarrierError, ClaimError, Claimed, Coordinator, FinishError, Generator};
pub use leader::{CommandError, ConcludeError, Event, Leader, Leadership};
pub use run::{Command, MAX_COMMANDS, MAX_PAYLOAD, MAX_STATUS, Run, Start, TooLarge};
pub use timing::Timing;
