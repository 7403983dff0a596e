//! Targets of faults: processes by role and number, Redis, HAProxy, and the links between them.

use crate::role::Role;
use std::{fmt, str::FromStr};

/// Selects instances of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceSelector {
    /// One instance: `wsproxy-2`.
    Number(u16),
    /// The instance with the lowest number to which the action applies: `wsproxy-any`.
    Any,
    /// All instances, one after the other: `wsproxies`.
    All,
}

/// The connections from one part of the stack to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// From HAProxy to instances: `link:wsproxy-1`.
    Instance(Role, InstanceSelector),
    /// From instances to Redis: `link:redis/wsproxy-1`.
    Redis(Role, InstanceSelector),
    /// From clients to HAProxy's port for WebSockets: `link:ws`.
    Ws,
    /// From clients to HAProxy's port for HTTP calls: `link:api`.
    Api,
}

/// The part of a stack that a fault affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Servers or gateways.
    Instance(Role, InstanceSelector),
    /// Redis.
    Redis,
    /// HAProxy, its workers included. Every stack has an instance with the number 1.
    Haproxy(InstanceSelector),
    /// The connections between two parts.
    Link(Link),
}

impl Target {
    /// All forms of a target, for messages.
    pub const FORMS: &str = "server-1, wsproxy-2, server-any, wsproxy-any, servers, wsproxies, redis, haproxy, haproxy-2, haproxy-any, \
                             link:wsproxy-1, link:server-1, link:redis/wsproxy-1, link:redis/server-1, link:ws, link:api";
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = match text {
            "redis" => Some(Self::Redis),
            "haproxy" => Some(Self::Haproxy(InstanceSelector::All)),
            "link:ws" => Some(Self::Link(Link::Ws)),
            "link:api" => Some(Self::Link(Link::Api)),
            _ => match text.strip_prefix("link:") {
                Some(link) => match link.strip_prefix("redis/") {
                    Some(instance) => instances(instance).map(|(role, selector)| Link::Redis(role, selector)),
                    None => instances(link).map(|(role, selector)| Link::Instance(role, selector)),
                }
                .map(Self::Link),
                None => match text.strip_prefix("haproxy-") {
                    Some(instance) => selector(instance).map(Self::Haproxy),
                    None => instances(text).map(|(role, selector)| Self::Instance(role, selector)),
                },
            },
        };
        found.ok_or_else(|| format!("invalid target `{text}`: expected one of {}", Self::FORMS))
    }
}

/// Reads `server-1`, `wsproxy-any` or `servers`.
fn instances(text: &str) -> Option<(Role, InstanceSelector)> {
    let (role, instance) = match text {
        "servers" => return Some((Role::Server, InstanceSelector::All)),
        "wsproxies" => return Some((Role::Wsproxy, InstanceSelector::All)),
        _ => text.split_once('-')?,
    };
    let role = match role {
        "server" => Role::Server,
        "wsproxy" => Role::Wsproxy,
        _ => return None,
    };
    Some((role, selector(instance)?))
}

/// Reads `any` or the number of an instance.
fn selector(text: &str) -> Option<InstanceSelector> {
    if text == "any" {
        return Some(InstanceSelector::Any);
    }
    // `wsproxy-01` and `wsproxy-+1` parse as numbers, but they are not names of instances.
    let number: u16 = text.parse().ok()?;
    (number > 0 && number.to_string() == text).then_some(InstanceSelector::Number(number))
}

/// Formats the instances that a selector means.
struct Instances(Role, InstanceSelector);

impl fmt::Display for Instances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (role, InstanceSelector::Number(number)) => write!(f, "{role}-{number}"),
            (role, InstanceSelector::Any) => write!(f, "{role}-any"),
            (Role::Server, InstanceSelector::All) => f.write_str("servers"),
            (Role::Wsproxy, InstanceSelector::All) => f.write_str("wsproxies"),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Instance(role, selector) => write!(f, "link:{}", Instances(role, selector)),
            Self::Redis(role, selector) => write!(f, "link:redis/{}", Instances(role, selector)),
            Self::Ws => f.write_str("link:ws"),
            Self::Api => f.write_str("link:api"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Instance(role, selector) => Instances(role, selector).fmt(f),
            Self::Redis => f.write_str("redis"),
            Self::Haproxy(InstanceSelector::All) => f.write_str("haproxy"),
            Self::Haproxy(InstanceSelector::Any) => f.write_str("haproxy-any"),
            Self::Haproxy(InstanceSelector::Number(number)) => write!(f, "haproxy-{number}"),
            Self::Link(link) => link.fmt(f),
        }
    }
}
