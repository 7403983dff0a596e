//! The decision of an autoscaler. It follows the controller of the HorizontalPodAutoscaler step by step: a recommendation from the metric,
//! its stabilization over time, and a limit of the rate of change.

use super::Rule;
use std::{collections::VecDeque, fmt, time::Duration};

/// Deviation from the target, relative to it, that changes nothing: 10 %, the default of Kubernetes.
const TOLERANCE_PERCENT: u128 = 10;

/// Why the number of gateways is as decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is the recommended number.
    AsRecommended,
    /// The recommended number is outside the bounds of the rule.
    Bounded,
    /// A higher number was recommended within the down window.
    Stabilizing,
    /// The number changes only so fast.
    Limited,
}

/// The decision at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Present number of gateways.
    pub current: u16,
    /// Open sockets of the gateways whose metrics could be read.
    pub connections: u64,
    /// Number of gateways whose metrics could not be read.
    pub unread: u16,
    /// Connections that the load balancers refused for want of a gateway.
    pub refused: u64,
    /// Number that the open sockets call for.
    pub recommended: u16,
    /// Number to have now.
    pub wanted: u16,
    /// Why it is not the recommended number.
    pub reason: Reason,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections on {} gateways", self.connections, self.current)?;
        if self.unread > 0 {
            write!(f, " ({} without metrics)", self.unread)?;
        }
        if self.refused > 0 {
            write!(f, ", {} refused", self.refused)?;
        }
        write!(f, ", {} recommended", self.recommended)?;
        let why = match self.reason {
            Reason::AsRecommended => return Ok(()),
            Reason::Bounded => "the bounds of the rule",
            Reason::Stabilizing => "a higher recommendation within the down window",
            Reason::Limited => "the limit of changes per period",
        };
        write!(f, ", {} because of {why}", self.wanted)
    }
}

/// Decides the number of gateways from readings over time.
#[derive(Clone, Debug)]
pub struct Autoscaler {
    rule: Rule,
    /// Recommendations within the down window, with their times.
    recommended: VecDeque<(Duration, u16)>,
    /// Changes within the longest period, with their times.
    changes: VecDeque<(Duration, i32)>,
}

impl Autoscaler {
    /// Creates an autoscaler of a stack with `current` gateways, which count as recommended at time zero.
    #[must_use]
    pub fn new(rule: Rule, current: u16) -> Self {
        Self { rule, recommended: [(Duration::ZERO, current)].into(), changes: VecDeque::new() }
    }

    /// Returns the rule.
    #[must_use]
    pub const fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Decides at a time that does not decrease. `readings`: the open sockets of each gateway, `None` if its metrics could not be read.
    /// `refused`: the connections that the load balancers refused since the last gateway left; ignored while there is one. The caller
    /// reports with [`Autoscaler::changed`] what it changed.
    #[must_use]
    pub fn decide(&mut self, now: Duration, readings: &[Option<u64>], refused: u64) -> Decision {
        let current = u16::try_from(readings.len()).unwrap_or(u16::MAX);
        let (min, max) = (self.rule.min, self.rule.max);
        let refused = if readings.is_empty() { refused } else { 0 };
        let recommended = match refused {
            0 => recommend(readings, self.rule.target),
            waiting => u16::try_from(waiting.div_ceil(self.rule.target)).unwrap_or(u16::MAX),
        };
        let bounded = recommended.clamp(min, max);
        let stable = self.stabilize(now, bounded, current);
        let limited = self.limit(now, stable, current);
        // A stack outside the bounds moves into them at once.
        let wanted = if (min..=max).contains(&current) { limited } else { current.clamp(min, max) };
        let reason = match wanted {
            _ if wanted == recommended => Reason::AsRecommended,
            _ if wanted == bounded => Reason::Bounded,
            _ if wanted == stable => Reason::Stabilizing,
            _ => Reason::Limited,
        };
        let unread = readings.iter().filter(|reading| reading.is_none()).count();
        let unread = u16::try_from(unread).unwrap_or(u16::MAX);
        let connections = readings.iter().flatten().fold(0, |sum: u64, &one| sum.saturating_add(one));
        Decision { current, connections, unread, refused, recommended, wanted, reason }
    }

    /// Notes that the number of gateways has changed.
    pub fn changed(&mut self, now: Duration, from: u16, to: u16) {
        self.changes.push_back((now, i32::from(to) - i32::from(from)));
    }

    /// Returns the highest recommendation of the down window if the number would decrease.
    fn stabilize(&mut self, now: Duration, recommended: u16, current: u16) -> u16 {
        self.recommended.push_back((now, recommended));
        while self.recommended.front().is_some_and(|(at, _)| *at + self.rule.down_window < now) {
            self.recommended.pop_front();
        }
        let highest = self.recommended.iter().map(|(_, number)| *number).max().unwrap_or(recommended);
        if recommended < current { highest.min(current) } else { recommended }
    }

    /// Limits the change: at most twice the number at the start of the up period, and at most one less than that at the start of the
    /// down period.
    fn limit(&mut self, now: Duration, wanted: u16, current: u16) -> u16 {
        let longest = self.rule.up_period.max(self.rule.down_period);
        while self.changes.front().is_some_and(|(at, _)| *at + longest <= now) {
            self.changes.pop_front();
        }
        let at_start_of = |period: Duration| {
            let within = self.changes.iter().filter(|(at, _)| *at + period > now);
            i32::from(current) - within.map(|(_, change)| change).sum::<i32>()
        };
        if wanted > current {
            let most = at_start_of(self.rule.up_period).max(1) * 2;
            wanted.min(u16::try_from(most).unwrap_or(current).max(current))
        } else {
            let least = at_start_of(self.rule.down_period) - 1;
            wanted.max(u16::try_from(least).unwrap_or(0).min(current))
        }
    }
}

/// Returns the number of gateways for these open sockets. A gateway without a reading counts as on target if the number would
/// decrease, and as idle if it would increase, so that a missing reading never causes the change.
fn recommend(readings: &[Option<u64>], target: u64) -> u16 {
    let current = readings.len() as u128;
    let known: Vec<u128> = readings.iter().flatten().map(|&one| one.into()).collect();
    let target = u128::from(target);
    let (sum, missing) = (known.iter().sum::<u128>(), current - known.len() as u128);
    let keep = u16::try_from(current).unwrap_or(u16::MAX);
    if known.is_empty() || is_near(sum, target * known.len() as u128) {
        return keep;
    }
    let grows = sum > target * known.len() as u128;
    let all = if grows { sum } else { sum + missing * target };
    if is_near(all, target * current) || (all > target * current) != grows {
        return keep;
    }
    u16::try_from(all.div_ceil(target)).unwrap_or(u16::MAX)
}

/// Returns whether a sum of open sockets is within the tolerance of what it should be.
const fn is_near(sum: u128, wanted: u128) -> bool {
    sum.abs_diff(wanted) * 100 <= wanted * TOLERANCE_PERCENT
}

#[cfg(test)]
mod tests;
