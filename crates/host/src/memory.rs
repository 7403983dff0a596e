//! The memory of this machine, and the limit of the control group that this process runs in.

use std::{fs, path::PathBuf};

/// Memory that is available, of a total, in MB of 1,048,576 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemoryRoom {
    /// What new allocations can take without swapping.
    pub available_mb: f64,
    /// The memory of the machine, or the limit of the control group.
    pub total_mb: f64,
    /// Whether a control group limits it.
    pub is_control_group: bool,
}

impl MemoryRoom {
    /// Reads the memory of the machine and of the control group, and returns the one with the smaller available share. `None` if the
    /// kernel tells neither.
    #[must_use]
    pub fn read() -> Option<Self> {
        let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| Self::of_machine(&text));
        let group = Self::of_control_group();
        machine.into_iter().chain(group).min_by(|a, b| a.share().total_cmp(&b.share()))
    }

    /// Returns the available share, 0 to 1.
    #[must_use]
    pub fn share(self) -> f64 {
        (self.available_mb / self.total_mb).clamp(0.0, 1.0)
    }

    fn of_machine(meminfo: &str) -> Option<Self> {
        let kib = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse::<f64>().ok()
        };
        let (available, total) = (kib("MemAvailable:")?, kib("MemTotal:")?);
        (total > 0.0).then_some(Self {
            available_mb: available / 1024.0,
            total_mb: total / 1024.0,
            is_control_group: false,
        })
    }

    /// Reads the control group (version 2) of this process. `None` without a limit.
    fn of_control_group() -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let directory = PathBuf::from("/sys/fs/cgroup").join(path);
        let read = |file: &str| fs::read_to_string(directory.join(file)).ok();
        Self::of_group_files(&read("memory.max")?, &read("memory.current")?, &read("memory.stat")?)
    }

    /// Reads the files of a control group. The kernel frees the file cache that is not in use before a group reaches its limit.
    fn of_group_files(max: &str, current: &str, stat: &str) -> Option<Self> {
        const MB: f64 = 1_048_576.0;
        let max: f64 = max.trim().parse().ok().filter(|&max| max > 0.0)?;
        let current: f64 = current.trim().parse().ok()?;
        let cache = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
        let cache = cache.and_then(|bytes| bytes.trim().parse::<f64>().ok()).unwrap_or(0.0);
        let used = (current - cache).max(0.0);
        Some(Self { available_mb: (max - used).max(0.0) / MB, total_mb: max / MB, is_control_group: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_machine_is_parsed() {
        let text = "MemTotal:       2048000 kB\nMemFree: 5 kB\nMemAvailable:   204800 kB\n";
        let room = MemoryRoom::of_machine(text).unwrap();
        assert_eq!((room.available_mb, room.total_mb, room.share()), (200.0, 2000.0, 0.1));
        for text in
            ["", "MemTotal: 5 kB", "MemTotal: 0 kB\nMemAvailable: 0 kB", "MemTotal: x\nMemAvailable: 1"]
        {
            assert_eq!(MemoryRoom::of_machine(text), None, "{text:?}");
        }
    }

    #[test]
    fn unused_file_cache_of_a_control_group_is_available() {
        let room = |max, current, stat| MemoryRoom::of_group_files(max, current, stat);
        let limited = room("1048576000\n", "996147200\n", "anon 5\ninactive_file 52428800\n").unwrap();
        assert_eq!((limited.available_mb, limited.total_mb), (100.0, 1000.0));
        assert_eq!(room("max\n", "5\n", ""), None, "no limit");
        assert_eq!(room("0\n", "5\n", ""), None);
        assert_eq!(room("1048576\n", "9999999\n", "").unwrap().available_mb, 0.0);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(MemoryRoom::read().unwrap().total_mb > 1.0);
    }
}
