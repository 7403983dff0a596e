//! Open files: the soft limit is raised to the hard one, for this process and the children that inherit it.
//! It never touches the hard limit.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;

/// Raises the soft limit of open files to the hard one and answers it.
///
/// # Errors
/// The kernel refused.
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}
