//! The increase of some counters in the `/metrics` of servers and gateways during a run.
//! Increases are summed over all processes of a member. Percentiles are as exact as the buckets. Gaps are recorded.

use super::inventory::Member;
use measure::observations::{BusLag, Gateways, StackCounters};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

const TOKENS: &str = "server_tokens_total";
const BUS_LAG: &str = "server_bus_lag_seconds_bucket{le=\"";
const REDIS_USED: &str = "bus_memory_used_bytes";
const REDIS_LIMIT: &str = "bus_memory_limit_bytes";
/// Least limit of Redis' memory, in bytes. A smaller one is that of the fault `redis:full`.
const LEAST_LIMIT: f64 = 1_048_576.0;
const FIRST_SESSION: &str = "wsproxy_first_session_timestamp_seconds";
const FIRST_QUERY: &str = "server_first_query_timestamp_seconds";
const OVERFLOWS: &str = "wsproxy_outbox_overflows_total";
const DIRECT: &str = "wsproxy_direct_writes_total";
const QUEUED: &str = "wsproxy_queued_frames_total";
const HELD: &str = "wsproxy_held_frames_total";
const EVICTIONS: &str = "wsproxy_closes_total{reason=\"slow_consumer\"}";

/// The increase of each series, summed over all members.
#[derive(Debug, Default)]
pub(super) struct CounterGrowth {
    /// Name and process of each member of the first list, usually taken before the run.
    before: BTreeSet<(String, String)>,
    /// The last values of the members whose metrics were read.
    counted: BTreeMap<String, LastValues>,
    /// Members whose counters are incomplete: the last second affected, or `None` if they were never read.
    missed: BTreeMap<String, Option<u64>>,
    /// The increase of each series so far.
    increase: BTreeMap<String, f64>,
}

impl CounterGrowth {
    /// Notes the members of the first list.
    pub(super) fn note_members(&mut self, members: &[Member]) {
        if self.before.is_empty() {
            self.before = members.iter().map(life).collect();
        }
    }

    /// Adds the metrics of a member, read at a second of the run (0: before it). `None`: they could not be read.
    ///
    /// The first values of a member are a baseline if the member existed before the run; otherwise they count from 0.
    pub(super) fn add(&mut self, second: u64, member: &Member, page: Option<&str>) {
        let name = &member.name;
        let Some(page) = page else {
            if !member.ended && !self.counted.contains_key(name) {
                self.missed.insert(name.clone(), None);
            }
            return;
        };
        let is_first = !self.counted.contains_key(name);
        let was_there = self.before.contains(&life(member));
        if is_first {
            self.missed.remove(name);
            if was_there && second > 0 {
                self.missed.insert(name.clone(), Some(second));
            }
        }
        let page: Vec<_> = wanted(page).collect();
        let counted = self.counted.entry(name.clone()).or_insert_with(|| LastValues::new(&member.life));
        counted.reset_after_restart(&member.life, &page);
        for (series, value) in page {
            let baseline = if is_first && was_there { value } else { 0.0 };
            let before = counted.series.insert(series.to_owned(), value).unwrap_or(baseline);
            *self.increase.entry(series.to_owned()).or_default() += value - before;
        }
    }

    /// Returns the figures of the run so far.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(super) fn figures(&self) -> StackCounters {
        let count = |series: &str| self.increase.get(series).map(|&increase| increase as u64);
        let gateways = count(OVERFLOWS).map(|outbox_overflows| {
            let frames = |series| count(series).unwrap_or(0);
            let all = frames(DIRECT) + frames(QUEUED) + frames(HELD);
            #[allow(clippy::cast_precision_loss)]
            let queued_share = (all > 0).then(|| frames(QUEUED) as f64 / all as f64);
            Gateways { outbox_overflows, evictions: frames(EVICTIONS), queued_share }
        });
        // If no member was ever read, there are no figures that could be incomplete.
        let missed = if self.counted.is_empty() { BTreeMap::new() } else { self.missed.clone() };
        StackCounters { tokens_published: count(TOKENS), bus_lag: self.bus_lag(), gateways, missed }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn bus_lag(&self) -> Option<BusLag> {
        let bound = |series: &str| series.strip_prefix(BUS_LAG)?.strip_suffix("\"}")?.parse::<f64>().ok();
        let mut buckets: Vec<_> =
            self.increase.iter().filter_map(|(series, &count)| Some((bound(series)?, count))).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let count = buckets.last().map(|bucket| bucket.1).filter(|&count| count >= 1.0)?;
        let ms = |quantile| Some(quantile_of(&buckets, quantile)? * 1e3);
        Some(BusLag { count: count as u64, p50: ms(0.5)?, p95: ms(0.95)?, p99: ms(0.99)? })
    }
}

/// The counters of a member's present process when they were read last.
#[derive(Debug)]
struct LastValues {
    /// The process according to the list of members, which may be older than the metrics.
    listed: String,
    /// The metrics were those of a newer process than the listed one.
    is_ahead: bool,
    series: BTreeMap<String, f64>,
}

impl LastValues {
    fn new(life: &str) -> Self {
        Self { listed: life.to_owned(), is_ahead: false, series: BTreeMap::new() }
    }

    /// Clears the values if the metrics are those of another process: the list names another one, or a counter decreased, as in
    /// Prometheus' `increase`. If a decrease was seen before the list changed, the change does not clear the values again.
    fn reset_after_restart(&mut self, life: &str, page: &[(&str, f64)]) {
        let is_another = self.listed != life;
        let has_fallen =
            page.iter().any(|(series, value)| self.series.get(*series).is_some_and(|before| value < before));
        if has_fallen || (is_another && !self.is_ahead) {
            self.series.clear();
        }
        self.is_ahead = !is_another && (has_fallen || self.is_ahead);
        life.clone_into(&mut self.listed);
    }
}

/// Returns the name of a member and its present process.
fn life(member: &Member) -> (String, String) {
    (member.name.clone(), member.life.clone())
}

/// Returns a quantile of cumulative buckets by linear interpolation, as Prometheus does. In the last bucket it is the lower bound.
fn quantile_of(buckets: &[(f64, f64)], quantile: f64) -> Option<f64> {
    let rank = buckets.last()?.1 * quantile;
    let at = buckets.iter().position(|bucket| bucket.1 >= rank)?;
    let (low, below) = if at == 0 { (0.0, 0.0) } else { buckets[at - 1] };
    let (high, upto) = buckets[at];
    if high.is_infinite() {
        return Some(low);
    }
    Some(if upto > below { low + (high - low) * (rank - below) / (upto - below) } else { high })
}

/// Returns the series that are counted here from a page in OpenMetrics' text format without timestamps and exemplars.
fn wanted(page: &str) -> impl Iterator<Item = (&str, f64)> {
    let is_wanted = |series: &str| {
        [TOKENS, OVERFLOWS, DIRECT, QUEUED, HELD, EVICTIONS].contains(&series) || series.starts_with(BUS_LAG)
    };
    page.lines().filter_map(|line| line.rsplit_once(' ')).filter_map(move |(series, value)| {
        let value = value.parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0)?;
        is_wanted(series).then_some((series, value))
    })
}

/// Returns when a gateway served its first session, or a server its first query, since the Unix epoch. `None` if it has served none.
pub(super) fn first_served(page: &str) -> Option<Duration> {
    let is_wanted = |(series, _): &(&str, &str)| [FIRST_SESSION, FIRST_QUERY].contains(series);
    let (_, seconds) = page.lines().filter_map(|line| line.rsplit_once(' ')).find(is_wanted)?;
    let seconds = seconds.parse::<f64>().ok().filter(|&seconds| seconds > 0.0)?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Returns the memory that Redis has left and its limit, both in MB, from the page of a server. `None` if the page does not tell, or if
/// there is no limit.
pub(super) fn redis_memory(page: &str) -> Option<(f64, f64)> {
    let gauge = |name: &str| {
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        value.parse::<f64>().ok().filter(|bytes| bytes.is_finite() && *bytes >= 0.0)
    };
    let (used, limit) = (gauge(REDIS_USED)?, gauge(REDIS_LIMIT).filter(|&limit| limit >= LEAST_LIMIT)?);
    let mb = |bytes: f64| bytes / f64::from(1 << 20);
    Some((mb((limit - used).max(0.0)), mb(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_redis_is_what_its_limit_leaves() {
        let page = |used: &str, limit: &str| {
            format!(
                "# TYPE x gauge\nbus_memory_used_bytes {used}\nbus_memory_limit_bytes {limit}\nbus_ready 1\n"
            )
        };
        assert_eq!(redis_memory(&page("786432000.0", "805306368.0")), Some((18.0, 768.0)));
        assert_eq!(redis_memory(&page("905306368", "805306368")), Some((0.0, 768.0)), "beyond its limit");
        for (used, limit) in [("5", "0"), ("5", "1"), ("NaN", "5e8"), ("5", "x"), ("-1", "5e8")] {
            assert_eq!(redis_memory(&page(used, limit)), None, "{used} {limit}");
        }
        assert_eq!(redis_memory("bus_memory_used_bytes_total 5"), None);
    }

    #[test]
    fn the_first_session_is_a_time_if_there_was_one() {
        let page = |value: &str| format!("# TYPE x gauge\nwsproxy_first_session_timestamp_seconds {value}\n");
        assert_eq!(first_served(&page("1700000000.5")), Some(Duration::from_millis(1_700_000_000_500)));
        assert_eq!(first_served("server_first_query_timestamp_seconds 2.0"), Some(Duration::from_secs(2)));
        for value in ["0.0", "NaN", "-1", "1e300", "", "inf"] {
            assert_eq!(first_served(&page(value)), None, "{value}");
        }
    }

    fn server(tokens: u32, lags: [u32; 4]) -> String {
        let bounds = ["0.001", "0.01", "0.1", "+Inf"];
        let buckets = bounds
            .iter()
            .zip(lags)
            .map(|(le, n)| format!("server_bus_lag_seconds_bucket{{le=\"{le}\"}} {n}\n"));
        format!(
            "# TYPE x counter\n{}server_tokens_total {tokens}\nserver_streams_active 3\n# EOF\n",
            buckets.collect::<String>()
        )
    }

    fn member(name: &str, life: &str) -> Member {
        let (name, life) = (name.into(), life.into());
        Member { name, pid: None, has_children: false, http: None, life, ended: false }
    }

    #[test]
    fn counts_from_before_the_run_are_excluded() {
        let (mut growth, one) = (CounterGrowth::default(), member("server-1", "a"));
        growth.note_members(std::slice::from_ref(&one));
        growth.add(0, &one, Some(&server(1_000, [900, 950, 1_000, 1_000])));
        assert_eq!(growth.figures().bus_lag, None, "nothing has happened yet");
        growth.add(5, &one, Some(&server(1_100, [950, 1_040, 1_100, 1_100])));
        let figures = growth.figures();
        assert_eq!(figures.tokens_published, Some(100));
        let lag = figures.bus_lag.unwrap();
        assert_eq!((lag.count, lag.p50), (100, 1.0));
        assert!((lag.p95 - 55.0).abs() < 1e-9, "half of the way from 10 to 100 ms: {lag:?}");
        assert_eq!((figures.gateways, figures.missed), (None, BTreeMap::new()));
    }

    #[test]
    fn restarted_and_new_members_count_from_zero() {
        let (mut growth, one) = (CounterGrowth::default(), member("server-1", "a"));
        growth.note_members(std::slice::from_ref(&one));
        for (second, tokens) in [(0, 500), (5, 600)] {
            growth.add(second, &one, Some(&server(tokens, [0; 4])));
        }
        growth.add(10, &member("server-1", "b"), Some(&server(50, [0; 4])));
        growth.add(10, &member("server-2", "c"), Some(&server(7, [0; 4])));
        let figures = growth.figures();
        assert_eq!((figures.tokens_published, figures.missed), (Some(157), BTreeMap::new()));
    }

    #[test]
    fn a_new_process_with_higher_counters_counts_from_zero() {
        let (mut growth, one) = (CounterGrowth::default(), member("server-1", "a"));
        growth.note_members(std::slice::from_ref(&one));
        growth.add(0, &one, Some(&server(500, [500; 4])));
        growth.add(5, &one, Some(&server(600, [600; 4])));
        growth.add(10, &member("server-1", "b"), Some(&server(700, [700; 4])));
        growth.add(15, &member("server-1", "b"), Some(&server(900, [900; 4])));
        let figures = growth.figures();
        assert_eq!(
            (figures.tokens_published, figures.bus_lag.map(|lag| lag.count)),
            (Some(1_000), Some(1_000))
        );
    }

    #[test]
    fn metrics_of_a_process_that_is_not_listed_yet_are_counted_once() {
        let (mut growth, one) = (CounterGrowth::default(), member("server-1", "a"));
        growth.note_members(std::slice::from_ref(&one));
        growth.add(0, &one, Some(&server(500, [100; 4])));
        // A new process, as the decreased count of tokens shows. Its bucket also starts from 0, although it is higher.
        growth.add(5, &one, Some(&server(200, [150; 4])));
        growth.add(10, &one, Some(&server(250, [200; 4])));
        growth.add(15, &member("server-1", "b"), Some(&server(300, [250; 4])));
        let figures = growth.figures();
        assert_eq!((figures.tokens_published, figures.bus_lag.map(|lag| lag.count)), (Some(300), Some(250)));
    }

    #[test]
    fn the_first_values_of_a_member_that_was_unreachable_are_its_baseline() {
        let mut growth = CounterGrowth::default();
        let [one, silent, dead, restarted] =
            ["server-1", "server-2", "server-3", "server-4"].map(|name| member(name, "a"));
        growth.note_members(&[one.clone(), silent.clone(), dead.clone(), restarted.clone()]);
        growth.add(0, &one, Some(&server(10, [0; 4])));
        for member in [&silent, &dead, &restarted] {
            growth.add(0, member, None);
        }
        growth.add(5, &silent, Some(&server(1_000_000, [0; 4])));
        growth.add(5, &dead, None);
        growth.add(5, &member("server-4", "b"), Some(&server(7, [0; 4])));
        growth.add(10, &silent, Some(&server(1_000_002, [0; 4])));
        let figures = growth.figures();
        assert_eq!(figures.tokens_published, Some(9), "two of the silent one, seven of the restarted one");
        let missed = [("server-2".to_owned(), Some(5)), ("server-3".to_owned(), None)];
        assert_eq!(figures.missed, BTreeMap::from(missed));
    }

    #[test]
    fn no_member_is_missed_if_none_was_ever_read() {
        let mut growth = CounterGrowth::default();
        growth.note_members(&[]);
        growth.add(5, &member("server-1", "a"), None);
        assert_eq!(growth.figures(), StackCounters::default());
    }

    #[test]
    fn gateways_report_their_queues() {
        let page = |overflows, direct, queued, slow: &str| {
            format!(
                "wsproxy_outbox_overflows_total {overflows}\nwsproxy_direct_writes_total {direct}\nwsproxy_queued_frames_total {queued}\n{slow}"
            )
        };
        let (mut growth, one) = (CounterGrowth::default(), member("wsproxy-1", "a"));
        growth.note_members(std::slice::from_ref(&one));
        growth.add(0, &one, Some(&page(0, 10, 0, "")));
        let evicted = "wsproxy_closes_total{reason=\"slow_consumer\"} 2\n";
        growth.add(5, &one, Some(&page(2, 85, 25, evicted)));
        let gateways = growth.figures().gateways.unwrap();
        assert_eq!(gateways, Gateways { outbox_overflows: 2, evictions: 2, queued_share: Some(0.25) });
    }

    #[test]
    fn quantiles_within_and_beyond_the_buckets() {
        let buckets = [(1.0, 0.0), (2.0, 10.0), (f64::INFINITY, 20.0)];
        for (quantile, expected) in [(0.0, 1.0), (0.25, 1.5), (0.5, 2.0), (0.9, 2.0)] {
            assert_eq!(quantile_of(&buckets, quantile), Some(expected), "{quantile}");
        }
        assert_eq!(quantile_of(&[], 0.5), None);
    }

    #[test]
    fn other_pages_have_no_series() {
        for page in
            ["", "<html>", "server_tokens_total", "server_tokens_total x", "server_tokens_total NaN", "a b c"]
        {
            assert_eq!(wanted(page).count(), 0, "{page}");
        }
    }
}
