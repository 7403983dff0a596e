//! Actions of faults, their text form, and the targets to which each applies.

use super::{InstanceSelector, Target, duration};
use crate::scaling::Counts;
use std::{fmt, str::FromStr, time::Duration};

/// The data that Redis has after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartData {
    /// Every acknowledged write.
    Keep,
    /// No data.
    Empty,
    /// All writes but those of the last second.
    Rollback,
}

/// The failure to cause, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sends SIGKILL; the process stays down.
    Kill,
    /// Sends SIGTERM; the process drains and stays down. In force when the signal is sent.
    Stop,
    /// Starts a process that is down.
    Start,
    /// Kills a process and starts it again. `None` starts Redis with what its persistence has stored.
    Restart(Option<RestartData>),
    /// Sends SIGTERM, waits until the process has ended, and starts it again.
    Drain,
    /// Stops the process (SIGSTOP) for this time, or until `resume`.
    Pause(Option<Duration>),
    /// Continues a paused process (SIGCONT).
    Resume,
    /// All servers or all gateways: changes their number, at once or in steps of one instance per second. New ones get connections when
    /// they are ready; removed ones drain.
    Scale(Counts),
    /// Redis: closes the connections of all subscribers.
    CutPubsub,
    /// Redis: rejects writes for this time for lack of replicas (`NOREPLICAS`).
    Refuse(Duration),
    /// Redis: is a replica of an unreachable instance for this time (`READONLY`), then a primary again.
    Demote(Duration),
    /// Redis: is out of memory for this time (`OOM`).
    Full(Duration),
    /// HAProxy: starts a new worker; the old one keeps its open connections.
    Reload,
    /// Link: delivers all data this much later, in both directions.
    Delay(Duration),
    /// Link: delivers all data up to this much later, in order.
    Jitter(Duration),
    /// Link: closes all connections.
    Cut,
    /// Link: resets all TCP connections and closes all others.
    Reset,
    /// Link: passes nothing and closes nothing for this time.
    HalfOpen(Duration),
    /// Link: passes one byte per second for this time, or until `heal`.
    Slow(Option<Duration>),
    /// Link: passes everything again.
    Heal,
}

const INSTANCE_FORMS: &str = "kill, stop, start, restart, drain, pause, pause=5s, resume";

impl Action {
    /// All actions on links, for messages.
    pub const LINK_FORMS: &str = "delay=50ms, jitter=20ms, cut, reset, half-open=10s, slow, slow=10s, heal";

    /// Lists the actions that apply to `target`, as text.
    #[must_use]
    pub fn forms(target: &Target) -> String {
        match target {
            Target::Instance(_, InstanceSelector::All) => format!("{INSTANCE_FORMS}, scale=6, scale=3..6"),
            Target::Instance(..) => INSTANCE_FORMS.to_owned(),
            Target::Redis => {
                format!(
                    "{INSTANCE_FORMS}, restart=keep, restart=empty, restart=rollback, cut-pubsub, \
                     refuse=300ms, demote=3s, full=3s"
                )
            }
            Target::Haproxy(_) => format!("{INSTANCE_FORMS}, reload"),
            Target::Link(_) => Self::LINK_FORMS.to_owned(),
        }
    }

    /// Returns whether this action applies to `target`.
    #[must_use]
    pub fn applies_to(self, target: &Target) -> bool {
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
            Self::Scale(_) => matches!(target, Target::Instance(_, InstanceSelector::All)),
            Self::Reload => matches!(target, Target::Haproxy(_)),
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
        let duration = || value.map(duration::parse).transpose();
        let needed = |example: &str| {
            duration()?.ok_or_else(|| {
                format!("action `{name}` needs a duration: expected for example {name}={example}")
            })
        };
        let plain = |action: Self| match value {
            None => Ok(action),
            Some(value) => Err(format!("action `{name}` takes no value, but has `{value}`: expected {name}")),
        };
        match name {
            "kill" => plain(Self::Kill),
            "stop" => plain(Self::Stop),
            "start" => plain(Self::Start),
            "restart" => Ok(Self::Restart(value.map(restart_data).transpose()?)),
            "drain" => plain(Self::Drain),
            "pause" => Ok(Self::Pause(duration()?)),
            "resume" => plain(Self::Resume),
            "scale" => value.and_then(Counts::parse).map(Self::Scale).ok_or_else(|| {
                format!(
                    "invalid action `{text}`: expected a number of instances, for example scale=6, or two different numbers, \
                     for example scale=3..6"
                )
            }),
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
            "slow" => Ok(Self::Slow(duration()?)),
            "heal" => plain(Self::Heal),
            _ => Err(format!(
                "invalid action `{text}`: expected one of {INSTANCE_FORMS}; servers and wsproxies: scale=6, scale=3..6; redis: restart=keep|empty|rollback, \
                 cut-pubsub, refuse=300ms, demote=3s, full=3s; haproxy: reload; links: {}",
                Self::LINK_FORMS
            )),
        }
    }
}

fn restart_data(text: &str) -> Result<RestartData, String> {
    match text {
        "keep" => Ok(RestartData::Keep),
        "empty" => Ok(RestartData::Empty),
        "rollback" => Ok(RestartData::Rollback),
        _ => Err(format!(
            "invalid action `restart={text}`: expected restart, restart=keep, restart=empty or restart=rollback"
        )),
    }
}

impl fmt::Display for RestartData {
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
            Self::Restart(Some(data)) => write!(f, "restart={data}"),
            Self::Drain => f.write_str("drain"),
            Self::Pause(None) => f.write_str("pause"),
            Self::Pause(Some(time)) => write!(f, "pause={}", duration::format(time)),
            Self::Resume => f.write_str("resume"),
            Self::Scale(counts) => write!(f, "scale={counts}"),
            Self::CutPubsub => f.write_str("cut-pubsub"),
            Self::Refuse(time) => write!(f, "refuse={}", duration::format(time)),
            Self::Demote(time) => write!(f, "demote={}", duration::format(time)),
            Self::Full(time) => write!(f, "full={}", duration::format(time)),
            Self::Reload => f.write_str("reload"),
            Self::Delay(time) => write!(f, "delay={}", duration::format(time)),
            Self::Jitter(time) => write!(f, "jitter={}", duration::format(time)),
            Self::Cut => f.write_str("cut"),
            Self::Reset => f.write_str("reset"),
            Self::HalfOpen(time) => write!(f, "half-open={}", duration::format(time)),
            Self::Slow(None) => f.write_str("slow"),
            Self::Slow(Some(time)) => write!(f, "slow={}", duration::format(time)),
            Self::Heal => f.write_str("heal"),
        }
    }
}
