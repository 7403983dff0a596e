//! The JWT key of a stack: servers sign with it, and gateways verify with it. It reaches child processes only through their
//! environment, and it cannot be printed.

use protocol::{Secret, SecretError};
use std::fmt;
use uuid::Uuid;

/// A JWT key as text. It has at least [`Secret::MIN_BYTES`] bytes.
#[derive(Clone)]
pub struct JwtSecret(String);

impl JwtSecret {
    /// Checks a key. White space around it is removed.
    ///
    /// # Errors
    /// The key is shorter than [`Secret::MIN_BYTES`].
    pub fn new(key: &str) -> Result<Self, SecretError> {
        Secret::new(key)?;
        Ok(Self(key.trim().to_owned()))
    }

    /// Generates a key of 244 random bits.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for JwtSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JwtSecret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_key_is_long_enough_and_never_printed() {
        let secret = JwtSecret::random();
        assert!(JwtSecret::new(secret.expose()).is_ok());
        assert!(!format!("{secret:?}").contains(secret.expose()));
        assert!(JwtSecret::new("short").is_err());
    }
}
