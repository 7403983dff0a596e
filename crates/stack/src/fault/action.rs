//! What can be done to a target. Which action fits which target is decided here, before anything is broken.

use super::{Target, span};
use std::{fmt, str::FromStr, time::Duration};

/// What Redis knows when it is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Everything it ever acknowledged.
    Keep,
    /// Nothing.
    Empty,
    /// All but its last second.
    Rollback,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL; it stays down.
    Kill,
    /// SIGTERM; it drains and stays down. In force when the signal is sent.
    Stop,
    /// Starts what is down.
    Start,
    /// Kills and starts again. Redis: with what it remembers, as its persistence has it where nothing is said.
    Restart(Option<Memory>),
    /// SIGTERM, a wait until it has ended, a start.
    Drain,
    /// Stops the process where it stands (SIGSTOP), for this long or until `resume`.
    Pause(Option<Duration>),
    /// Lets a paused process go on (SIGCONT).
    Resume,
    /// Redis: closes every subscriber's connection.
    CutPubsub,
    /// Redis: refuses every write for this long, as one does that lacks replicas (`NOREPLICAS`).
    Refuse(Duration),
    /// Redis: a replica of an instance that is not there for this long, then a primary again (`READONLY`).
    Demote(Duration),
    /// Redis: out of memory for this long (`OOM`).
    Full(Duration),
    /// HAProxy: a new worker takes over, the old one keeps its open connections.
    Reload,
    /// Link: everything arrives so much later, in both directions.
    Delay(Duration),
    /// Link: everything arrives up to so much later, in order.
    Jitter(Duration),
    /// Link: closes all connections.
    Cut,
    /// Link: resets all TCP connections, closes all others.
    Reset,
    /// Link: for this long nothing passes and nothing is closed.
    HalfOpen(Duration),
    /// Link: a byte a second, for this long or until `heal`.
    Slow(Option<Duration>),
    /// Link: as if nothing had been.
    Heal,
}

const INSTANCE_FORMS: &str = "kill, stop, start, restart, drain, pause, pause=5s, resume";

impl Action {
    /// What can be done to a link.
    pub const LINK_FORMS: &str = "delay=50ms, jitter=20ms, cut, reset, half-open=10s, slow, slow=10s, heal";

    /// What can be done to `target`, as it is written.
    #[must_use]
    pub fn forms(target: &Target) -> String {
        match target {
            Target::Instance(..) => INSTANCE_FORMS.to_owned(),
            Target::Redis => {
                format!(
                    "{INSTANCE_FORMS}, restart=keep, restart=empty, restart=rollback, cut-pubsub, \
                     refuse=300ms, demote=3s, full=3s"
                )
            }
            Target::Haproxy => format!("{INSTANCE_FORMS}, reload"),
            Target::Link(_) => Self::LINK_FORMS.to_owned(),
        }
    }

    /// Whether `target` knows this action.
    #[must_use]
    pub fn fits(self, target: &Target) -> bool {
        match self {
            Self::Kill
            | Self::Stop
            | Self::Start
            | Self::Restart(None)
            | Self::Drain
            | Self::Pause(_)
            | Self::Resume => !matches!(target, Target::Link(_)),
            Self::Restart(Some(_)) | Self::CutPubsub | Self::Refuse(_) | Self::Demote(_) | Self::Full(_) => {
                *target == Target::Redis
            }
            Self::Reload => *target == Target::Haproxy,
            Self::Delay(_)
            | Self::Jitter(_)
            | Self::Cut
            | Self::Reset
            | Self::HalfOpen(_)
            | Self::Slow(_)
            | Self::Heal => matches!(target, Target::Link(_)),
        }
    }
}

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let span = || value.map(span::parse).transpose();
        let needed = |example: &str| {
            span()?.ok_or_else(|| format!("`{name}` needs a span of time: give for example {name}={example}"))
        };
        let plain = |action: Self| match value {
            None => Ok(action),
            Some(value) => Err(format!("`{name}` takes no value, `{value}` is one too many: give {name}")),
        };
        match name {
            "kill" => plain(Self::Kill),
            "stop" => plain(Self::Stop),
            "start" => plain(Self::Start),
            "restart" => Ok(Self::Restart(value.map(memory).transpose()?)),
            "drain" => plain(Self::Drain),
            "pause" => Ok(Self::Pause(span()?)),
            "resume" => plain(Self::Resume),
            "cut-pubsub" => plain(Self::CutPubsub),
            "refuse" => Ok(Self::Refuse(needed("300ms")?)),
            "demote" => Ok(Self::Demote(needed("3s")?)),
            "full" => Ok(Self::Full(needed("3s")?)),
            "reload" => plain(Self::Reload),
            "delay" => Ok(Self::Delay(needed("50ms")?)),
            "jitter" => Ok(Self::Jitter(needed("20ms")?)),
            "cut" => plain(Self::Cut),
            "reset" => plain(Self::Reset),
            "half-open" => Ok(Self::HalfOpen(needed("10s")?)),
            "slow" => Ok(Self::Slow(span()?)),
            "heal" => plain(Self::Heal),
            _ => Err(format!(
                "`{text}` is no action: choose one of {INSTANCE_FORMS}; redis: restart=keep|empty|rollback, \
                 cut-pubsub, refuse=300ms, demote=3s, full=3s; haproxy: reload; links: {}",
                Self::LINK_FORMS
            )),
        }
    }
}

fn memory(text: &str) -> Result<Memory, String> {
    match text {
        "keep" => Ok(Memory::Keep),
        "empty" => Ok(Memory::Empty),
        "rollback" => Ok(Memory::Rollback),
        _ => Err(format!(
            "`restart={text}` is unknown: give restart, restart=keep, restart=empty or restart=rollback"
        )),
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "keep",
            Self::Empty => "empty",
            Self::Rollback => "rollback",
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Kill => f.write_str("kill"),
            Self::Stop => f.write_str("stop"),
            Self::Start => f.write_str("start"),
            Self::Restart(None) => f.write_str("restart"),
            Self::Restart(Some(memory)) => write!(f, "restart={memory}"),
            Self::Drain => f.write_str("drain"),
            Self::Pause(None) => f.write_str("pause"),
            Self::Pause(Some(time)) => write!(f, "pause={}", span::show(time)),
            Self::Resume => f.write_str("resume"),
            Self::CutPubsub => f.write_str("cut-pubsub"),
            Self::Refuse(time) => write!(f, "refuse={}", span::show(time)),
            Self::Demote(time) => write!(f, "demote={}", span::show(time)),
            Self::Full(time) => write!(f, "full={}", span::show(time)),
            Self::Reload => f.write_str("reload"),
            Self::Delay(time) => write!(f, "delay={}", span::show(time)),
            Self::Jitter(time) => write!(f, "jitter={}", span::show(time)),
            Self::Cut => f.write_str("cut"),
            Self::Reset => f.write_str("reset"),
            Self::HalfOpen(time) => write!(f, "half-open={}", span::show(time)),
            Self::Slow(None) => f.write_str("slow"),
            Self::Slow(Some(time)) => write!(f, "slow={}", span::show(time)),
            Self::Heal => f.write_str("heal"),
        }
    }
}
