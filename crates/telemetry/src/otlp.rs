//! Converts metrics into a request of OTLP. Where OpenTelemetry's conventions for generative AI name a metric, it has that name; all
//! others keep the name that Prometheus sees.

use crate::exposition::{Kind, Labels, Metric, Sample};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric as OtlpMetric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource as OtlpResource,
};
use std::time::Duration;

/// Our names and those of the conventions for generative AI.
const CONVENTIONS: [(&str, &str); 6] = [
    ("streamstress_e2el_seconds", "gen_ai.client.operation.duration"),
    ("streamstress_ttft_seconds", "gen_ai.client.operation.time_to_first_chunk"),
    ("streamstress_itl_seconds", "gen_ai.client.operation.time_per_output_chunk"),
    ("server_stream_seconds", "gen_ai.server.request.duration"),
    ("server_ttft_seconds", "gen_ai.server.time_to_first_token"),
    ("server_tpot_seconds", "gen_ai.server.time_per_output_token"),
];
/// Attributes that the conventions require.
const REQUIRED: [(&str, &str); 2] =
    [("gen_ai.operation.name", "chat"), ("gen_ai.provider.name", "streamstress")];

/// Which program the metrics belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Name of the program, for example `streamstress-server`.
    pub service: &'static str,
    /// Name of the process.
    pub instance: String,
    /// Version of the program.
    pub version: &'static str,
}

/// The time that a request covers, since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Start of the program.
    pub(crate) since: Duration,
    /// When the metrics were read.
    pub(crate) until: Duration,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn attribute((key, value): (impl Into<String>, impl Into<String>)) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.into())) });
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}

/// Returns a request with these metrics.
pub(crate) fn request(metrics: &[Metric], resource: &Resource, span: Span) -> ExportMetricsServiceRequest {
    let attributes = [
        ("service.name", resource.service.to_owned()),
        ("service.instance.id", resource.instance.clone()),
        ("service.version", resource.version.to_owned()),
    ];
    let scope = InstrumentationScope {
        name: resource.service.to_owned(),
        version: resource.version.to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_metrics = ScopeMetrics {
        scope: Some(scope),
        metrics: metrics.iter().map(|metric| convert(metric, span)).collect(),
        ..ScopeMetrics::default()
    };
    let resource = OtlpResource {
        attributes: attributes.into_iter().map(attribute).collect(),
        ..OtlpResource::default()
    };
    let resource_metrics = ResourceMetrics {
        resource: Some(resource),
        scope_metrics: vec![scope_metrics],
        ..ResourceMetrics::default()
    };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}

fn convert(metric: &Metric, span: Span) -> OtlpMetric {
    let convention = CONVENTIONS.iter().find(|(ours, _)| *ours == metric.name).map(|(_, name)| *name);
    let required: &[_] = if convention.is_some() { &REQUIRED } else { &[] };
    let temporality = AggregationTemporality::Cumulative.into();
    let data = match metric.kind {
        Kind::Gauge => Data::Gauge(Gauge { data_points: numbers(metric, span) }),
        Kind::Counter => Data::Sum(Sum {
            data_points: numbers(metric, span),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        Kind::Histogram => Data::Histogram(Histogram {
            data_points: histograms(metric, required, span),
            aggregation_temporality: temporality,
        }),
    };
    OtlpMetric {
        name: convention.unwrap_or(&metric.name).to_owned(),
        description: metric.help.clone(),
        unit: unit(&metric.unit).to_owned(),
        data: Some(data),
        ..OtlpMetric::default()
    }
}

/// Returns a unit as UCUM writes it.
fn unit(name: &str) -> &str {
    match name {
        "seconds" => "s",
        "bytes" => "By",
        "" => "1",
        other => other,
    }
}

fn numbers(metric: &Metric, span: Span) -> Vec<NumberDataPoint> {
    let point = |sample: &Sample| NumberDataPoint {
        attributes: sample.labels.iter().cloned().map(attribute).collect(),
        start_time_unix_nano: nanos(span.since),
        time_unix_nano: nanos(span.until),
        value: Some(number_data_point::Value::AsDouble(sample.value)),
        ..NumberDataPoint::default()
    };
    metric.samples.iter().map(point).collect()
}

/// Returns a point per set of labels without `le`.
fn histograms(metric: &Metric, required: &[(&str, &str)], span: Span) -> Vec<HistogramDataPoint> {
    let mut points = Vec::<(Labels, HistogramDataPoint)>::new();
    for sample in &metric.samples {
        let mut labels = sample.labels.clone();
        let bound = labels.iter().position(|(name, _)| name == "le").map(|at| labels.remove(at).1);
        let place = points.iter().position(|(known, _)| *known == labels).unwrap_or_else(|| {
            let attributes =
                labels.iter().cloned().map(attribute).chain(required.iter().copied().map(attribute));
            let point = HistogramDataPoint {
                attributes: attributes.collect(),
                start_time_unix_nano: nanos(span.since),
                time_unix_nano: nanos(span.until),
                ..HistogramDataPoint::default()
            };
            points.push((labels.clone(), point));
            points.len() - 1
        });
        let point = &mut points[place].1;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let count = sample.value.max(0.0) as u64;
        match (sample.suffix.as_str(), bound) {
            ("_sum", _) => point.sum = Some(sample.value),
            ("_count", _) => point.count = count,
            ("_bucket", Some(bound)) => {
                // The text counts all values up to the bound, OTLP those of the bucket alone.
                let below: u64 = point.bucket_counts.iter().sum();
                point.bucket_counts.push(count.saturating_sub(below));
                point.explicit_bounds.extend(bound.parse().ok().filter(|bound: &f64| bound.is_finite()));
            }
            _ => {}
        }
    }
    points.into_iter().map(|(_, point)| point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::parse;

    const TEXT: &str = "\
# HELP server_ttft_seconds Time to the first token.
# TYPE server_ttft_seconds histogram
# UNIT server_ttft_seconds seconds
server_ttft_seconds_sum 2.5
server_ttft_seconds_count 5
server_ttft_seconds_bucket{le=\"0.1\"} 1
server_ttft_seconds_bucket{le=\"0.5\"} 4
server_ttft_seconds_bucket{le=\"+Inf\"} 5
# HELP wsproxy_closes Closed sockets, by reason.
# TYPE wsproxy_closes counter
wsproxy_closes_total{reason=\"drain\"} 7
wsproxy_closes_total{reason=\"lost\"} 1
# HELP wsproxy_inbound_bytes Bytes in use.
# TYPE wsproxy_inbound_bytes gauge
# UNIT wsproxy_inbound_bytes bytes
wsproxy_inbound_bytes 12
# EOF
";

    fn converted() -> Vec<OtlpMetric> {
        let resource = Resource { service: "streamstress-server", instance: "server-1".into(), version: "1" };
        let span = Span { since: Duration::from_secs(5), until: Duration::from_secs(9) };
        let mut request = request(&parse(TEXT), &resource, span);
        let mut metrics = request.resource_metrics.remove(0);
        let names: Vec<_> = metrics.resource.unwrap().attributes.into_iter().map(|one| one.key).collect();
        assert_eq!(names, ["service.name", "service.instance.id", "service.version"]);
        metrics.scope_metrics.remove(0).metrics
    }

    #[test]
    fn histograms_have_the_names_of_the_conventions_and_counts_per_bucket() {
        let metric = converted().remove(0);
        assert_eq!((metric.name.as_str(), metric.unit.as_str()), ("gen_ai.server.time_to_first_token", "s"));
        let Some(Data::Histogram(histogram)) = metric.data else { panic!("{:?}", metric.data) };
        let point = &histogram.data_points[0];
        assert_eq!(
            (point.bucket_counts.as_slice(), point.explicit_bounds.as_slice()),
            (&[1, 3, 1][..], &[0.1, 0.5][..])
        );
        assert_eq!((point.count, point.sum), (5, Some(2.5)));
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (5_000_000_000, 9_000_000_000));
        let attributes: Vec<_> = point.attributes.iter().map(|one| one.key.as_str()).collect();
        assert_eq!(attributes, ["gen_ai.operation.name", "gen_ai.provider.name"]);
    }

    #[test]
    fn counters_are_monotonic_sums_and_gauges_have_units() {
        let metrics = converted();
        let Some(Data::Sum(sum)) = &metrics[1].data else { panic!("{:?}", metrics[1]) };
        assert!(sum.is_monotonic && sum.data_points.len() == 2);
        assert_eq!(sum.aggregation_temporality, i32::from(AggregationTemporality::Cumulative));
        assert_eq!(sum.data_points[0].attributes, [attribute(("reason", "drain"))]);
        assert_eq!((metrics[2].name.as_str(), metrics[2].unit.as_str()), ("wsproxy_inbound_bytes", "By"));
        assert!(matches!(&metrics[2].data, Some(Data::Gauge(gauge)) if gauge.data_points.len() == 1));
    }
}
