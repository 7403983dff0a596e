//! A session's id and the names derived from it: Redis keys and channels, and the gateway's path.
//! An id is always a UUID, so no other text from outside can become part of a key.

use std::{fmt, str::FromStr};
use uuid::Uuid;

/// A session's id: a UUID in its hyphenated form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Uuid);

impl SessionId {
    /// Creates the id from a UUID.
    #[must_use]
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// Returns the UUID.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }

    /// Reads the session from the name of its down channel, `<prefix>session:{id}:down`. Returns `None` for any other name.
    #[must_use]
    pub fn from_down_channel(name: &[u8], prefix: &str) -> Option<Self> {
        let id = name.strip_prefix(prefix.as_bytes())?.strip_prefix(b"session:")?.strip_suffix(b":down")?;
        Uuid::try_parse_ascii(id).ok().map(Self)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// The text is not a session id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("session id is not a UUID")]
pub struct ParseSessionIdError;

impl FromStr for SessionId {
    type Err = ParseSessionIdError;

    /// Reads the hyphenated form of 36 characters and no other.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 36 {
            return Err(ParseSessionIdError);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| ParseSessionIdError)
    }
}

impl serde::Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for SessionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The names of Redis keys and channels. The prefix is empty in production. Tests that share a Redis set one.
#[derive(Clone, Debug, Default)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// Creates names that all start with `prefix`.
    #[must_use]
    pub fn with_prefix(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// Returns the prefix of every name.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the key of the hash with the session's status, running query and generation.
    #[must_use]
    pub fn meta(&self, session: SessionId) -> String {
        format!("{}session:{session}:meta", self.prefix)
    }

    /// Returns the key of the hash with the holder of the session's socket and the cursor of the last socket.
    #[must_use]
    pub fn attach(&self, session: SessionId) -> String {
        format!("{}session:{session}:attach", self.prefix)
    }

    /// Returns the key of the stream with the events of the last queries: the session's log.
    #[must_use]
    pub fn log(&self, session: SessionId) -> String {
        written(|out| self.write_log(out, session))
    }

    /// Appends the key of the session's log to `out`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_log(&self, out: &mut impl fmt::Write, session: SessionId) -> fmt::Result {
        write!(out, "{}session:{session}:log", self.prefix)
    }

    /// Returns the channel of the events to the client.
    #[must_use]
    pub fn down(&self, session: SessionId) -> String {
        written(|out| self.write_down(out, session))
    }

    /// Appends the channel of the events to the client to `out`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_down(&self, out: &mut impl fmt::Write, session: SessionId) -> fmt::Result {
        write!(out, "{}session:{session}:down", self.prefix)
    }

    /// Returns the channel of the messages from the client.
    #[must_use]
    pub fn up(&self, session: SessionId) -> String {
        format!("{}session:{session}:up", self.prefix)
    }

    /// Returns the channel on which other processes send to the process `instance`.
    #[must_use]
    pub fn control(&self, instance: &str) -> String {
        format!("{}control:{instance}", self.prefix)
    }

    /// Returns the channel on which a process sends to itself, to check that published messages arrive.
    #[must_use]
    pub fn probe(&self, instance: &str, connection: usize) -> String {
        format!("{}probe:{instance}:{connection}", self.prefix)
    }

    /// Returns the key of Redis' mark, a string `<uuid>:<Redis ms>`. A process writes it into a Redis that lacks it or was restarted.
    /// It tells a Redis that may have lost data from one that has not, and holds the time from which its age counts.
    #[must_use]
    pub fn mark(&self) -> String {
        format!("{}bus:mark", self.prefix)
    }

    /// Returns the key of a string: the run id of the Redis process that [`Self::mark`] was written for.
    #[must_use]
    pub fn run(&self) -> String {
        format!("{}bus:run", self.prefix)
    }

    /// Returns the key of the hash of living servers: their heartbeats, and the mark for which each has restored its data.
    #[must_use]
    pub fn servers(&self) -> String {
        format!("{}servers", self.prefix)
    }

    /// Returns the key of the hash of sessions whose queries the server `server` runs, with their generations.
    #[must_use]
    pub fn running(&self, server: &str) -> String {
        format!("{}server:{server}:running", self.prefix)
    }
}

fn written(write: impl FnOnce(&mut String) -> fmt::Result) -> String {
    let mut text = String::new();
    write(&mut text).expect("a string takes every write");
    text
}

/// A path that is not `/{agent_id}/ws/{session_id}`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected /{{agent_id}}/ws/{{session_id}}, where session_id is a UUID")]
pub struct ParsePathError;

/// Reads agent and session from the path `/{agent_id}/ws/{session_id}`.
///
/// # Errors
/// The path has another form, its agent is empty, or its session id is not a UUID.
pub fn parse_ws_path(path: &str) -> Result<(&str, SessionId), ParsePathError> {
    let mut parts = path.strip_prefix('/').ok_or(ParsePathError)?.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(agent), Some("ws"), Some(session), None) if !agent.is_empty() => {
            session.parse().map(|session| (agent, session)).map_err(|_| ParsePathError)
        }
        _ => Err(ParsePathError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0b8a1c52-3b0e-4f57-9d1f-5b7f8a2c9e11";

    #[test]
    fn only_a_hyphenated_uuid_is_a_session_id() {
        assert!(ID.parse::<SessionId>().is_ok());
        for text in [
            "",
            "x",
            "*",
            "0b8a1c523b0e4f579d1f5b7f8a2c9e11",
            "{0b8a1c52-3b0e-4f57-9d1f-5b7f8a2c9e11}",
            "0b8a1c52-3b0e-4f57-9d1f-5b7f8a2c9e1\n",
        ] {
            assert!(text.parse::<SessionId>().is_err(), "{text:?} was read as a session id");
        }
    }

    #[test]
    fn only_paths_of_the_gateways_form_are_read() {
        assert_eq!(parse_ws_path(&format!("/agent/ws/{ID}")), Ok(("agent", ID.parse().unwrap())));
        for path in ["", "/", "/ws", "/agent/ws/", "//ws/x", "/agent/ws/x/y", "/agent/web/x"] {
            assert!(parse_ws_path(path).is_err(), "{path:?} was read as a socket's path");
        }
        assert!(parse_ws_path(&format!("//ws/{ID}")).is_err());
        assert!(parse_ws_path(&format!("/agent/ws/{ID}/")).is_err());
    }

    #[test]
    fn a_down_channel_names_its_session() {
        let session: SessionId = ID.parse().unwrap();
        for names in [Names::default(), Names::with_prefix("test-7:")] {
            let channel = names.down(session);
            assert_eq!(SessionId::from_down_channel(channel.as_bytes(), names.prefix()), Some(session));
        }
        assert_eq!(SessionId::from_down_channel(b"session:x:down", ""), None);
        assert_eq!(SessionId::from_down_channel(Names::default().up(session).as_bytes(), ""), None);
    }
}
