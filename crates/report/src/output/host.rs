//! Facts about the host that generated the load. Facts that cannot be read are left out.

use serde::Serialize;
use std::fs;

/// The host that generated the load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Host {
    pub(super) cpu_model: Option<String>,
    pub(super) cores: Option<usize>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) kernel: Option<String>,
    pub(super) boot_id: Option<String>,
}

impl Host {
    pub(super) fn read() -> Self {
        let field = |path: &str, name: &str| {
            let text = fs::read_to_string(path).ok()?;
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kib = |text: String| text.strip_suffix(" kB")?.trim().parse::<u64>().ok();
        Self {
            cpu_model: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().ok().map(usize::from),
            memory_bytes: field("/proc/meminfo", "MemTotal").and_then(kib).map(|kib| kib * 1024),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned()),
            boot_id: host::boot_id(),
        }
    }
}
