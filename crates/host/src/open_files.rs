//! Open files: the limits of processes, and how many files a process has open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;

/// Raises the soft limit of open files to the hard limit, for this process and the children that inherit it. Returns the limit that then
/// holds: the soft one if the kernel refuses the change.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let Err(error) = &raised {
        tracing::warn!("the limit of open files stays at {:?}: {error}", limit.current);
    }
    raised.map_or(limit.current, |()| limit.maximum).unwrap_or(u64::MAX)
}

/// Returns the soft limit of open files of a process, or `None` if it has ended.
#[must_use]
pub fn open_file_limit(pid: u32) -> Option<u64> {
    soft_limit(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)
}

/// Reads the line `Max open files` of `/proc/PID/limits`.
fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Returns the number of open files of a process. Newer kernels state it as the directory's size; on older ones the entries are counted.
#[must_use]
pub fn open_files(pid: u32) -> Option<u64> {
    let directory = format!("/proc/{pid}/fd");
    match fs::metadata(&directory).ok()?.len() {
        0 => Some(fs::read_dir(&directory).ok()?.count() as u64),
        count => Some(count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let raised = raise_open_files();
        assert_eq!(open_file_limit(std::process::id()).unwrap_or(u64::MAX), raised);
        assert!(open_files(std::process::id()).unwrap() > 2);
    }

    #[test]
    fn the_limits_of_a_process_are_parsed() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            20000                30000                files\n";
        assert_eq!(soft_limit(limits), Some(20_000));
        assert_eq!((soft_limit(""), soft_limit("Max open files unlimited")), (None, None));
    }
}
