//! The key that a stack's servers sign with and its gateways check with. It reaches children through their environment
//! alone, and it cannot be printed.

use protocol::{Secret, SecretError};
use std::fmt;
use uuid::Uuid;

/// A JWT key as text, long enough to sign with.
#[derive(Clone)]
pub struct JwtSecret(String);

impl JwtSecret {
    /// Takes a key.
    ///
    /// # Errors
    /// Shorter than [`Secret::MIN_BYTES`].
    pub fn new(key: &str) -> Result<Self, SecretError> {
        Secret::new(key)?;
        Ok(Self(key.trim().to_owned()))
    }

    /// A key of 244 random bits.
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
