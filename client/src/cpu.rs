//! How long a thread waited for a CPU, as the kernel's scheduler counts it.
//! It says nothing where the kernel keeps no such count.

use std::time::Duration;

/// What the calling thread has waited for a CPU since it began.
#[must_use]
pub fn thread_wait() -> Option<Duration> {
    parse(&std::fs::read_to_string("/proc/thread-self/schedstat").ok()?)
}

/// `<run ns> <wait ns> <slices>`.
fn parse(schedstat: &str) -> Option<Duration> {
    schedstat.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_second_number() {
        assert_eq!(parse("123 4500 6\n"), Some(Duration::from_nanos(4500)));
        assert_eq!(parse(""), None);
        assert_eq!(parse("1 x 2"), None);
    }
}
