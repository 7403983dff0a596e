//! Reads the metrics that our own programs expose in OpenMetrics' text form. Lines that it does not understand are skipped.

/// Names and values of the labels of a sample.
pub(crate) type Labels = Vec<(String, String)>;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts of values by bucket.
    Histogram,
}

/// A metric with its series.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Metric {
    /// Name without the suffix of its samples, for example `wsproxy_events`.
    pub(crate) name: String,
    pub(crate) help: String,
    /// For example `seconds`. Empty if it has none.
    pub(crate) unit: String,
    pub(crate) kind: Kind,
    pub(crate) samples: Vec<Sample>,
}

/// A sample of a metric.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// What follows the name of the metric: `_total`, `_bucket`, `_sum`, `_count`, or nothing.
    pub(crate) suffix: String,
    pub(crate) labels: Labels,
    pub(crate) value: f64,
}

/// Returns the metrics of a text.
pub(crate) fn parse(text: &str) -> Vec<Metric> {
    let mut metrics = Vec::<Metric>::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            describe(&mut metrics, comment);
        } else if let (Some(metric), Some((name, labels, value))) = (metrics.last_mut(), sample(line))
            && let Some(suffix) = name.strip_prefix(metric.name.as_str())
        {
            metric.samples.push(Sample { suffix: suffix.to_owned(), labels, value });
        }
    }
    metrics
}

/// Reads `HELP name text`, `TYPE name kind` or `UNIT name unit`.
fn describe(metrics: &mut Vec<Metric>, comment: &str) {
    let mut words = comment.splitn(3, ' ');
    let (Some(what), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) else { return };
    if metrics.last().is_none_or(|metric| metric.name != name) {
        let (name, kind) = (name.to_owned(), Kind::Gauge);
        metrics.push(Metric { name, kind, help: String::new(), unit: String::new(), samples: Vec::new() });
    }
    let Some(metric) = metrics.last_mut() else { return };
    match (what, rest) {
        ("HELP", text) => metric.help = unescaped(text),
        ("UNIT", unit) => unit.clone_into(&mut metric.unit),
        ("TYPE", "counter") => metric.kind = Kind::Counter,
        ("TYPE", "histogram") => metric.kind = Kind::Histogram,
        _ => {}
    }
}

/// Reads `name{label="value",…} number`.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, value) = rest.split_once("=\"")?;
            let end = closing_quote(value)?;
            labels.push((label.to_owned(), unescaped(&value[..end])));
            rest = &value[end + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = &rest[1..];
    }
    let value = rest.trim_start().split(' ').next()?.parse().ok()?;
    Some((name, labels, value))
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(at)
    })
}

fn unescaped(text: &str) -> String {
    let (mut out, mut chars) = (String::with_capacity(text.len()), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => {}
            },
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::{
        encoding::text::encode,
        metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
        registry::{Registry, Unit},
    };
    use proptest::prelude::*;

    #[test]
    fn what_a_registry_writes_is_read() {
        let mut registry = Registry::default();
        let errors = Family::<Vec<(String, String)>, Counter>::default();
        errors.get_or_create(&vec![("kind".into(), "a \"b\"\\n\n".into())]).inc_by(3);
        registry.register("errors", "Failures, by kind", errors);
        let open = Gauge::<i64>::default();
        open.set(-2);
        registry.register("open", "Open sockets", open);
        let times = Histogram::new([0.5, 1.0]);
        [0.2, 0.7, 9.0].iter().for_each(|&seconds| times.observe(seconds));
        registry.register_with_unit("took", "Duration", Unit::Seconds, times);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let metrics = parse(&text);
        assert_eq!(metrics.len(), 3, "{text}\n{metrics:?}");
        let [errors, open, took] = &metrics[..] else { panic!() };
        assert_eq!((errors.kind, errors.name.as_str()), (Kind::Counter, "errors"));
        assert_eq!(errors.help, "Failures, by kind.");
        let failed = &errors.samples[0];
        assert_eq!((failed.suffix.as_str(), failed.value), ("_total", 3.0));
        assert_eq!(failed.labels, [("kind".to_owned(), "a \"b\"\\n\n".to_owned())]);
        assert_eq!((open.kind, open.samples[0].value), (Kind::Gauge, -2.0));
        assert_eq!((took.kind, took.unit.as_str()), (Kind::Histogram, "seconds"));
        let buckets: Vec<_> = took.samples.iter().filter(|sample| sample.suffix == "_bucket").collect();
        assert_eq!(buckets.iter().map(|bucket| bucket.value).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
        assert_eq!(buckets[2].labels, [("le".to_owned(), "+Inf".to_owned())]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(# (HELP|TYPE|UNIT) )?[a-c_]{0,4}[{} =\",\\\\a-z0-9\n]{0,60}") {
            let _ = parse(&format!("# TYPE a counter\n{text}"));
        }
    }
}
