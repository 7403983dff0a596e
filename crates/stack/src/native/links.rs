//! The links between the parts, each of which a relay can be put into while the stack runs. Over a unix socket everybody
//! connects to a symbolic link beside the socket; turning that link round puts the relay in, and no process is told.

use super::{
    Role,
    instance::{self, Instance, LONGEST_SOCKET_PATH, name},
    ports, redis,
};
use crate::relay::{Address, Relay};
use anyhow::{Context, bail};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where the process `name` finds Redis: by a link to its unix socket, or by TCP where there is none.
pub(crate) fn redis_url(state: &Path, name: &str, port: Option<u16>) -> String {
    match redis_link(state, name) {
        Some(path) => format!("redis+unix://{}", path.display()),
        None => format!("redis://{}", ports::local(port.unwrap_or(0))),
    }
}

fn redis_link(state: &Path, name: &str) -> Option<PathBuf> {
    fit_for_sockets(state).then(|| state.join(format!("redis.{name}.sock")))
}

/// Whether all processes can reach Redis through sockets in `state`: each path is short enough for a socket's address, and a URL
/// can hold it. All of them or none, so that Redis needs no port beside its socket.
pub(crate) fn fit_for_sockets(state: &Path) -> bool {
    let longest = state.join(format!("redis.{}.sock", name(Role::Wsproxy, u16::MAX)));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    longest.to_string_lossy().bytes().all(plain) && longest.as_os_str().len() <= LONGEST_SOCKET_PATH
}

/// The relays of a stack, by their links' names.
#[derive(Debug)]
pub(crate) struct Links {
    state: PathBuf,
    /// A relay in every link from the start.
    everywhere: bool,
    relays: Mutex<BTreeMap<String, Arc<Relay>>>,
}

/// A relay that is in its link, and how it came there.
pub(crate) struct Inserted {
    pub(crate) relay: Arc<Relay>,
    /// Only now: what was open before does not pass through it.
    pub(crate) new: bool,
    /// HAProxy has to be told.
    pub(crate) reload: bool,
}

impl Links {
    pub(crate) fn new(state: PathBuf, everywhere: bool) -> Self {
        Self { state, everywhere, relays: Mutex::default() }
    }

    /// Before an instance starts for the first time: the ways to it and from it to Redis.
    pub(crate) fn prepare(&self, role: Role, number: u16) -> anyhow::Result<()> {
        let name = name(role, number);
        if let Some(sockets) = instance::sockets(role, number, &self.state) {
            turn(&sockets.front, &sockets.own)?;
        }
        if let (Some(link), Some(socket)) = (redis_link(&self.state, &name), redis::socket(&self.state)) {
            turn(&link, &socket)?;
            if self.everywhere {
                self.enter_redis(role, number)?;
            }
        }
        Ok(())
    }

    /// After it has started: what is between HAProxy and it.
    pub(crate) fn complete(&self, instance: &Instance) -> anyhow::Result<()> {
        if self.everywhere {
            self.enter_instance(instance)?;
        }
        Ok(())
    }

    /// Puts a relay between HAProxy and this instance, if there is none.
    pub(crate) fn enter_instance(&self, instance: &Instance) -> anyhow::Result<Inserted> {
        let name = format!("link:{}", instance.name());
        if let Some(relay) = self.find(&name) {
            return Ok(Inserted { relay, new: false, reload: false });
        }
        match instance::sockets(instance.role(), instance.number(), &self.state) {
            Some(sockets) => self.turn_to_relay(name, &sockets.front, sockets.own),
            None => {
                let target = Address::Tcp(ports::local(instance.port()));
                let relay = start(&name, &Address::Tcp(ports::local(0)), target)?;
                instance.set_address(relay.address().to_string());
                Ok(Inserted { relay: self.keep(name, relay), new: true, reload: true })
            }
        }
    }

    /// Puts a relay between this instance and Redis, if there is none.
    pub(crate) fn enter_redis(&self, role: Role, number: u16) -> anyhow::Result<Inserted> {
        let instance = name(role, number);
        let name = format!("link:redis/{instance}");
        if let Some(relay) = self.find(&name) {
            return Ok(Inserted { relay, new: false, reload: false });
        }
        match (redis_link(&self.state, &instance), redis::socket(&self.state)) {
            (Some(link), Some(socket)) => self.turn_to_relay(name, &link, socket),
            _ => bail!(
                "{instance} reaches redis over TCP, where no relay can be put in: {} is too long for a unix socket, give a shorter --state-dir",
                self.state.display()
            ),
        }
    }

    /// Puts a relay before one of HAProxy's doors; `public` 0 takes a free port. Answers the port.
    pub(crate) fn enter_door(&self, name: &str, public: u16, inner: u16) -> anyhow::Result<u16> {
        let relay = start(name, &Address::Tcp(ports::local(public)), Address::Tcp(ports::local(inner)))?;
        let Address::Tcp(address) = *relay.address() else { bail!("{name} is no TCP relay") };
        self.keep(name.to_owned(), relay);
        Ok(address.port())
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<Relay>> {
        self.relays.lock().get(name).cloned()
    }

    /// All of them, for the status.
    pub(crate) fn all(&self) -> Vec<(String, Arc<Relay>)> {
        self.relays.lock().iter().map(|(name, relay)| (name.clone(), Arc::clone(relay))).collect()
    }

    /// Ends the relays of an instance that is gone for good.
    pub(crate) fn forget(&self, instance: &str) {
        let mut relays = self.relays.lock();
        relays.remove(&format!("link:{instance}"));
        relays.remove(&format!("link:redis/{instance}"));
    }

    fn keep(&self, name: String, relay: Relay) -> Arc<Relay> {
        let relay = Arc::new(relay);
        self.relays.lock().insert(name, Arc::clone(&relay));
        relay
    }

    fn turn_to_relay(&self, name: String, link: &Path, behind: PathBuf) -> anyhow::Result<Inserted> {
        let path = relay_path(link);
        let relay = start(&name, &Address::Unix(path.clone()), Address::Unix(behind))?;
        turn(link, &path)?;
        Ok(Inserted { relay: self.keep(name, relay), new: true, reload: false })
    }
}

fn start(name: &str, listen: &Address, target: Address) -> anyhow::Result<Relay> {
    Relay::start(listen, target).with_context(|| format!("cannot start the relay of {name} at {listen}"))
}

fn relay_path(link: &Path) -> PathBuf {
    link.with_extension("via")
}

/// Points the symbolic link at another socket, in one step for whoever connects meanwhile.
fn turn(link: &Path, target: &Path) -> anyhow::Result<()> {
    let doing = || format!("cannot point {} at {}", link.display(), target.display());
    let new = link.with_extension("new");
    let _ = fs::remove_file(&new);
    std::os::unix::fs::symlink(target, &new).with_context(doing)?;
    fs::rename(&new, link).with_context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_turns_in_one_step_and_again() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("x.sock");
        for target in ["one", "two", "two"] {
            let target = directory.path().join(target);
            turn(&link, &target).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), target);
        }
    }

    #[test]
    fn redis_is_found_by_tcp_where_the_path_is_too_long() {
        let short = redis_url(Path::new("/tmp/x"), "wsproxy-1", None);
        assert_eq!(short, "redis+unix:///tmp/x/redis.wsproxy-1.sock");
        for state in [format!("/tmp/{}", "x".repeat(100)), "/tmp/with space".to_owned()] {
            assert_eq!(redis_url(Path::new(&state), "wsproxy-1", Some(7000)), "redis://127.0.0.1:7000");
        }
    }
}
