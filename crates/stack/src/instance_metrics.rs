//! Reads single values from the `/metrics` of servers and gateways.

use crate::role::Role;
use std::time::Duration;

/// Returns the wall-clock time, since the Unix epoch, at which an instance served its first session (a gateway) or its first query (a
/// server). `None` if it has served none, or if `page` is not the text of its metrics.
pub(crate) fn first_served(role: Role, page: &str) -> Option<Duration> {
    let metric = match role {
        Role::Server => "server_first_query_timestamp_seconds",
        Role::Wsproxy => "wsproxy_first_session_timestamp_seconds",
    };
    let seconds = gauge(page, metric).filter(|&seconds| seconds > 0.0)?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Returns the value of a series without labels.
pub(crate) fn gauge(page: &str, name: &str) -> Option<f64> {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse::<f64>().ok();
    page.lines().find_map(value).filter(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_session_is_read_from_the_metrics() {
        let page = "# TYPE x gauge\nwsproxy_first_session_timestamp_seconds 1700000000.25\nwsproxy_connections 3\n# EOF\n";
        assert_eq!(first_served(Role::Wsproxy, page), Some(Duration::from_millis(1_700_000_000_250)));
        assert_eq!(first_served(Role::Server, page), None);
        assert_eq!(gauge(page, "wsproxy_connections"), Some(3.0));
        for value in ["0.0", "NaN", "-1", "1e300", "", "x"] {
            let page = format!("wsproxy_first_session_timestamp_seconds {value}\n");
            assert_eq!(first_served(Role::Wsproxy, &page), None, "{page}");
        }
        assert_eq!(first_served(Role::Wsproxy, "wsproxy_first_session_timestamp_seconds_x 1"), None);
    }
}
