//! The key of a foreign server: given, or printed by a command that also renews it.

use parking_lot::Mutex;
use plan::Foreign;
use settings::secret::{Secret, Secrets};
use std::{collections::VecDeque, process::Stdio, time::Duration};
use tokio::process::Command;

/// Time limit of the command.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Upper limit in bytes of a key.
const LONGEST_KEY: usize = 16 << 10;
/// Number of earlier keys that are still hidden in messages.
const EARLIER_KEYS: usize = 16;

/// The key that authorizes the calls of a run. All its workers share it.
#[derive(Debug, Default)]
pub struct Credentials {
    key: Mutex<Key>,
    command: Option<Secret>,
    /// Held while the command runs, so that it runs once for all sessions that were refused.
    renewal: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct Key {
    secret: Option<Secret>,
    /// How often the key was renewed.
    renewals: u64,
    /// The keys before it, the latest last.
    earlier: VecDeque<Secret>,
}

impl Credentials {
    /// Creates the credentials of a target.
    #[must_use]
    pub fn new(foreign: Option<&Foreign>) -> Self {
        Self {
            key: Mutex::new(Key {
                secret: foreign.and_then(|foreign| foreign.api_key.clone()),
                ..Key::default()
            }),
            command: foreign.and_then(|foreign| foreign.token_command.clone()),
            renewal: tokio::sync::Mutex::default(),
        }
    }

    /// Returns the present key, if there is one, and how often it was renewed.
    #[must_use]
    pub fn key(&self) -> (Option<Secret>, u64) {
        let key = self.key.lock();
        (key.secret.clone(), key.renewals)
    }

    /// Adds the present key and the latest earlier ones to what is hidden in messages.
    pub fn add_to(&self, secrets: &mut Secrets) {
        let key = self.key.lock();
        key.secret.iter().chain(&key.earlier).for_each(|secret| secrets.add(secret.reveal()));
    }

    /// Returns whether a key can be renewed.
    #[must_use]
    pub const fn can_renew(&self) -> bool {
        self.command.is_some()
    }

    /// Runs the command for the first key, if none was given.
    ///
    /// # Errors
    /// The command failed.
    pub async fn prepare(&self) -> Result<(), String> {
        if self.command.is_some() && self.key.lock().secret.is_none() { self.renew(0).await } else { Ok(()) }
    }

    /// Renews the key after the server refused the one of renewal number `refused`. Does nothing if it was renewed since.
    ///
    /// # Errors
    /// There is no command, or it failed.
    pub async fn renew(&self, refused: u64) -> Result<(), String> {
        let Some(command) = &self.command else {
            return Err("the key was refused, and there is no --token-command for a new one".into());
        };
        let _renewal = self.renewal.lock().await;
        if self.key.lock().renewals > refused {
            return Ok(());
        }
        let secret = printed(command.reveal()).await.map_err(|why| format!("--token-command {why}"))?;
        let mut key = self.key.lock();
        let replaced = key.secret.replace(secret);
        key.earlier.extend(replaced);
        if key.earlier.len() > EARLIER_KEYS {
            key.earlier.pop_front();
        }
        key.renewals += 1;
        Ok(())
    }
}

/// Runs a command and returns the key that it prints. Messages do not contain its output.
async fn printed(command: &str) -> Result<Secret, String> {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = tokio::time::timeout(TIMEOUT, shell.output())
        .await
        .map_err(|_| format!("printed nothing within {} s", TIMEOUT.as_secs()))?
        .map_err(|error| format!("cannot be started: {error}"))?;
    if !output.status.success() {
        return Err(format!("ended with {}", output.status));
    }
    let text = String::from_utf8(output.stdout).map_err(|_| "printed bytes that are not text".to_owned())?;
    let text = text.trim();
    let is_key =
        (1..=LONGEST_KEY).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if is_key {
        Ok(Secret::new(text))
    } else {
        Err("printed no key: expected one line of visible ASCII characters".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(command: &str) -> Credentials {
        Credentials { command: Some(Secret::new(command)), ..Credentials::default() }
    }

    #[tokio::test]
    async fn a_key_is_renewed_once_for_all_that_were_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let command = format!("echo x >> '{0}'; wc -l < '{0}'", file.path().display());
        let credentials = credentials(&command);
        credentials.prepare().await.unwrap();
        let (key, renewals) = credentials.key();
        assert_eq!((key.unwrap().reveal(), renewals), ("1", 1));
        let (one, other) = tokio::join!(credentials.renew(1), credentials.renew(1));
        assert_eq!((one, other), (Ok(()), Ok(())));
        assert_eq!(credentials.key().0.unwrap().reveal(), "2");
    }

    #[tokio::test]
    async fn an_earlier_key_is_hidden_as_well() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let command = format!("echo x >> '{0}'; echo key-number-$(wc -l < '{0}')", file.path().display());
        let credentials = credentials(&command);
        credentials.prepare().await.unwrap();
        credentials.renew(1).await.unwrap();
        let mut secrets = Secrets::default();
        credentials.add_to(&mut secrets);
        let hidden = secrets.hide("wrong: key-number-1 and key-number-2");
        assert!(!hidden.contains("key-number"), "{hidden}");
    }

    #[tokio::test]
    async fn failures_of_the_command_are_named_without_its_output() {
        for (command, why) in [
            ("echo hush; exit 3", "ended with exit status: 3"),
            ("true", "printed no key"),
            ("printf 'a\\nb'", "printed no key"),
        ] {
            let error = credentials(command).renew(0).await.unwrap_err();
            assert!(error.contains(why) && !error.contains("hush"), "{error}");
        }
        assert!(Credentials::default().renew(0).await.unwrap_err().contains("--token-command"));
    }
}
