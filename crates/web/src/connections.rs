//! The open connections and their limit. When it is reached, the oldest connection that never sent the access token is closed for the new
//! one. So idle connections of others cannot lock the user out.

use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio_util::sync::CancellationToken;

/// All open connections.
#[derive(Debug)]
pub(crate) struct Connections {
    most: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_age: BTreeMap<u64, Arc<Connection>>,
}

/// What is known about a connection. Its requests carry it as an extension.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    trusted: AtomicBool,
    /// Cancelled when the connection is to be closed.
    pub(crate) close: CancellationToken,
}

impl Connection {
    /// Notes that the connection sent the access token.
    pub(crate) fn trust(&self) {
        self.trusted.store(true, Relaxed);
    }
}

/// The place of an open connection. Dropping it makes room.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Arc<Connections>,
    number: u64,
    pub(crate) connection: Arc<Connection>,
}

impl Connections {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    /// Returns a place for a new connection, or `None` if all others are trusted.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut open = self.open.lock();
        if open.by_age.len() >= self.most {
            let oldest =
                open.by_age.iter().find(|(_, one)| !one.trusted.load(Relaxed)).map(|(number, _)| *number)?;
            open.by_age.remove(&oldest)?.close.cancel();
        }
        let (number, connection) = (open.next, Arc::<Connection>::default());
        open.next += 1;
        open.by_age.insert(number, Arc::clone(&connection));
        Some(Place { connections: Arc::clone(self), number, connection })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open.lock().by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_untrusted_connection_makes_room() {
        let connections = Connections::new(2);
        let (first, second) = (connections.enter().unwrap(), connections.enter().unwrap());
        first.connection.trust();
        let third = connections.enter().unwrap();
        assert!(second.connection.close.is_cancelled() && !first.connection.close.is_cancelled());
        third.connection.trust();
        assert!(connections.enter().is_none(), "the user's own connections stay");
        drop((first, second));
        assert!(connections.enter().is_some());
        assert_eq!(connections.open.lock().by_age.len(), 1);
    }
}
