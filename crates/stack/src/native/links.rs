//! The links between the parts of a native stack. A relay can be inserted into each while the stack runs. Processes connect to a
//! unix socket through a symbolic link. A relay is inserted by pointing that link at the socket of the relay; no process is
//! restarted or reconfigured.

use super::{haproxy::Haproxy, instance::Instance, paths, ports};
use crate::{
    fault::Link,
    relay::{Address, Relay},
    role::Role,
};
use anyhow::{Context, bail};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The relays of a stack, by the names of their links.
#[derive(Debug)]
pub(crate) struct Links {
    state_dir: PathBuf,
    /// Whether every link has a relay from the start.
    everywhere: bool,
    relays: Mutex<BTreeMap<String, Arc<Relay>>>,
}

/// A relay in its link.
pub(crate) struct Inserted {
    pub(crate) relay: Arc<Relay>,
    /// Whether the relay was inserted only now, so that connections from before do not pass through it.
    pub(crate) is_new: bool,
    /// Whether HAProxy has to reload its configuration to use the relay.
    pub(crate) needs_reload: bool,
}

impl Links {
    pub(crate) fn new(state_dir: PathBuf, everywhere: bool) -> Self {
        Self { state_dir, everywhere, relays: Mutex::default() }
    }

    /// Creates the symbolic links to an instance and from it to Redis, before the instance starts for the first time.
    pub(crate) fn create(&self, role: Role, number: u16) -> anyhow::Result<()> {
        let name = paths::instance_name(role, number);
        if let Some(socket) = paths::gateway_socket(role, number, &self.state_dir) {
            point(&socket.link, &socket.listener)?;
        }
        if let Some((link, socket)) = self.redis_paths(&name) {
            point(&link, &socket)?;
            if self.everywhere {
                self.insert_before_redis(role, number)?;
            }
        }
        Ok(())
    }

    /// Inserts a relay before an instance that has just started, if every link has one.
    pub(crate) fn complete(&self, instance: &Instance) -> anyhow::Result<()> {
        if self.everywhere {
            self.insert_before_instance(instance)?;
        }
        Ok(())
    }

    /// Inserts a relay between HAProxy and an instance, or returns the existing one.
    pub(crate) fn insert_before_instance(&self, instance: &Instance) -> anyhow::Result<Inserted> {
        let name = format!("link:{}", instance.name());
        if let Some(relay) = self.find(&name) {
            return Ok(Inserted { relay, is_new: false, needs_reload: false });
        }
        match paths::gateway_socket(instance.role(), instance.number(), &self.state_dir) {
            Some(socket) => self.insert_at(name, &socket.link, socket.listener),
            None => {
                let target = Address::Tcp(ports::loopback(instance.port()));
                let relay = start(&name, &Address::Tcp(ports::loopback(0)), target)?;
                instance.set_address(relay.address().to_string());
                Ok(Inserted { relay: self.register(name, relay), is_new: true, needs_reload: true })
            }
        }
    }

    /// Inserts a relay between an instance and Redis, or returns the existing one.
    pub(crate) fn insert_before_redis(&self, role: Role, number: u16) -> anyhow::Result<Inserted> {
        let instance = paths::instance_name(role, number);
        let name = format!("link:redis/{instance}");
        if let Some(relay) = self.find(&name) {
            return Ok(Inserted { relay, is_new: false, needs_reload: false });
        }
        match self.redis_paths(&instance) {
            Some((link, socket)) => self.insert_at(name, &link, socket),
            None => bail!(
                "{instance} connects to redis over TCP, where no relay can be inserted, because {} is too long for a unix socket: \
                 choose a shorter --state-dir",
                self.state_dir.display()
            ),
        }
    }

    /// Inserts a relay before one of HAProxy's ports: that of `link`, which is `link:ws` or `link:api`. It listens on the port `public`,
    /// where 0 selects a free one. Returns its port.
    pub(crate) fn insert_before_haproxy(
        &self,
        link: Link,
        haproxy: &Haproxy,
        public: u16,
    ) -> anyhow::Result<u16> {
        let name = if haproxy.is_only() { link.to_string() } else { format!("{link}/{}", haproxy.name()) };
        let ports = haproxy.ports();
        let inner = if link == Link::Ws { ports.ws } else { ports.api };
        let listen = Address::Tcp(ports::loopback(public));
        let relay = start(&name, &listen, Address::Tcp(ports::loopback(inner)))?;
        let Address::Tcp(address) = *relay.address() else { bail!("the relay of {name} is not a TCP relay") };
        self.register(name, relay);
        Ok(address.port())
    }

    /// Returns the relays of `link:ws` or `link:api`, one per HAProxy, with their names.
    pub(crate) fn before_haproxies(&self, link: Link) -> Vec<(String, Arc<Relay>)> {
        let mut relays = self.all();
        let link = link.to_string();
        relays.retain(|(name, _)| {
            name.strip_prefix(&link).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        relays
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<Relay>> {
        self.relays.lock().get(name).cloned()
    }

    /// Returns all relays with the names of their links.
    pub(crate) fn all(&self) -> Vec<(String, Arc<Relay>)> {
        self.relays.lock().iter().map(|(name, relay)| (name.clone(), Arc::clone(relay))).collect()
    }

    /// Ends the relays of an instance that was removed.
    pub(crate) fn remove(&self, instance: &str) {
        let mut relays = self.relays.lock();
        relays.remove(&format!("link:{instance}"));
        relays.remove(&format!("link:redis/{instance}"));
    }

    /// Returns the link of a process to Redis, and the socket of Redis.
    fn redis_paths(&self, process: &str) -> Option<(PathBuf, PathBuf)> {
        paths::redis_link(&self.state_dir, process).zip(paths::redis_socket(&self.state_dir))
    }

    fn register(&self, name: String, relay: Relay) -> Arc<Relay> {
        let relay = Arc::new(relay);
        self.relays.lock().insert(name, Arc::clone(&relay));
        relay
    }

    /// Starts a relay before the socket `target`, and points `link` at it.
    fn insert_at(&self, name: String, link: &Path, target: PathBuf) -> anyhow::Result<Inserted> {
        let path = link.with_extension("via");
        let relay = start(&name, &Address::Unix(path.clone()), Address::Unix(target))?;
        point(link, &path)?;
        Ok(Inserted { relay: self.register(name, relay), is_new: true, needs_reload: false })
    }
}

fn start(name: &str, listen: &Address, target: Address) -> anyhow::Result<Relay> {
    Relay::start(listen, target).with_context(|| format!("cannot start the relay of {name} at {listen}"))
}

/// Points a symbolic link at a socket. The change is atomic for processes that connect meanwhile.
fn point(link: &Path, target: &Path) -> anyhow::Result<()> {
    let context = || format!("cannot point {} at {}", link.display(), target.display());
    let new = link.with_extension("new");
    let _ = fs::remove_file(&new);
    std::os::unix::fs::symlink(target, &new).with_context(context)?;
    fs::rename(&new, link).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_can_be_pointed_at_several_targets_in_turn() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("x.sock");
        for target in ["one", "two", "two"] {
            let target = directory.path().join(target);
            point(&link, &target).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), target);
        }
    }
}
