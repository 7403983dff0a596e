//! Finds all addresses of a target of which the user named one.

mod native;
mod published;

use crate::config::Config;

/// Asks the native stack for all its HAProxies, or Docker whether the target is one of several published ports of a container. Spreads
/// the sockets over what it finds. Takes seven seconds at most.
pub(crate) fn find(config: &mut Config) {
    native::find(config);
    published::find(config);
}
