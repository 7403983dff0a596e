//! What can be broken: processes by role and number, Redis, HAProxy, and the links between them.

use crate::native::Role;
use std::{fmt, str::FromStr};

/// Which instances of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// This one: `wsproxy-2`.
    Number(u16),
    /// The one with the lowest number that the action fits: `wsproxy-any`.
    Any,
    /// All of them, one after the other: `wsproxies`.
    All,
}

/// A connection's way from one part to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// From HAProxy to instances: `link:wsproxy-1`.
    Instance(Role, Which),
    /// From instances to Redis: `link:redis/wsproxy-1`.
    Redis(Role, Which),
    /// From clients to HAProxy's door for sockets: `link:ws`.
    Ws,
    /// From clients to HAProxy's door for HTTP calls: `link:api`.
    Api,
}

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Servers or gateways.
    Instance(Role, Which),
    /// Redis.
    Redis,
    /// HAProxy, its workers included.
    Haproxy,
    /// What lies between two of them.
    Link(Link),
}

impl Target {
    /// What can be written, for messages and help.
    pub const FORMS: &str = "server-1, wsproxy-2, server-any, wsproxy-any, servers, wsproxies, redis, haproxy, \
                             link:wsproxy-1, link:server-1, link:redis/wsproxy-1, link:redis/server-1, link:ws, link:api";
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = match text {
            "redis" => Some(Self::Redis),
            "haproxy" => Some(Self::Haproxy),
            "link:ws" => Some(Self::Link(Link::Ws)),
            "link:api" => Some(Self::Link(Link::Api)),
            _ => match text.strip_prefix("link:") {
                Some(link) => match link.strip_prefix("redis/") {
                    Some(instance) => instances(instance).map(|(role, which)| Link::Redis(role, which)),
                    None => instances(link).map(|(role, which)| Link::Instance(role, which)),
                }
                .map(Self::Link),
                None => instances(text).map(|(role, which)| Self::Instance(role, which)),
            },
        };
        found.ok_or_else(|| format!("`{text}` is nothing that can be broken: choose one of {}", Self::FORMS))
    }
}

fn instances(text: &str) -> Option<(Role, Which)> {
    let (role, which) = match text {
        "servers" => return Some((Role::Server, Which::All)),
        "wsproxies" => return Some((Role::Wsproxy, Which::All)),
        _ => text.split_once('-')?,
    };
    let role = match role {
        "server" => Role::Server,
        "wsproxy" => Role::Wsproxy,
        _ => return None,
    };
    if which == "any" {
        return Some((role, Which::Any));
    }
    // `wsproxy-01` and `wsproxy-+1` are no names of instances.
    let number: u16 = which.parse().ok()?;
    (number > 0 && number.to_string() == which).then_some((role, Which::Number(number)))
}

struct Instances(Role, Which);

impl fmt::Display for Instances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, self.1) {
            (role, Which::Number(number)) => write!(f, "{role}-{number}"),
            (role, Which::Any) => write!(f, "{role}-any"),
            (Role::Server, Which::All) => f.write_str("servers"),
            (Role::Wsproxy, Which::All) => f.write_str("wsproxies"),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Instance(role, which) => write!(f, "link:{}", Instances(role, which)),
            Self::Redis(role, which) => write!(f, "link:redis/{}", Instances(role, which)),
            Self::Ws => f.write_str("link:ws"),
            Self::Api => f.write_str("link:api"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Instance(role, which) => Instances(role, which).fmt(f),
            Self::Redis => f.write_str("redis"),
            Self::Haproxy => f.write_str("haproxy"),
            Self::Link(link) => link.fmt(f),
        }
    }
}
