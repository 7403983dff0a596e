//! The figures of a sweep, in the order of the table's columns.

/// Which direction of a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A lower figure is better.
    Low,
    /// A higher figure is better.
    High,
}

/// A figure of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Key in the files.
    pub key: &'static str,
    /// Title in texts.
    pub title: &'static str,
}

/// The figures of every run, without those of roles. A figure that a run does not have is missing.
pub const FIGURES: [Figure; 8] = [
    Figure { key: "queries_ok", title: "queries ok" },
    Figure { key: "queries_total", title: "queries" },
    Figure { key: "e2el_p50_ms", title: "e2el_ms p50" },
    Figure { key: "e2el_p99_ms", title: "e2el_ms p99" },
    Figure { key: "ttft_p50_ms", title: "ttft_ms p50" },
    Figure { key: "ttft_p99_ms", title: "ttft_ms p99" },
    Figure { key: "tokens_per_s", title: "tokens/s" },
    // Lost, duplicated and reordered tokens.
    Figure { key: "tokens_broken", title: "tokens broken" },
];

/// Figures by which variants are ranked, with the wanted direction.
pub const RANKED: [(Figure, Wanted); 4] = [
    (FIGURES[3], Wanted::Low),
    (FIGURES[5], Wanted::Low),
    (FIGURES[6], Wanted::High),
    (Figure { key: "cpu_cores_stack", title: "CPU cores of the stack" }, Wanted::Low),
];

/// The roles of processes whose CPU time and memory are figures. The first one generates the load; the others are the stack.
pub const ROLES: [&str; 5] = ["client", "server", "wsproxy", "haproxy", "redis"];

/// Returns the key of the mean number of CPU cores that a role used. `stack` is the sum of all roles but the client.
#[must_use]
pub fn cpu_key(role: &str) -> String {
    format!("cpu_cores_{role}")
}

/// Returns the key of the peak memory of a role in MB.
#[must_use]
pub fn rss_key(role: &str) -> String {
    format!("rss_mb_{role}")
}
