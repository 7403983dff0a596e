//! Parses thresholds such as `e2el_ms:p95<3000`, `error_rate<0.005` or `ttft_ms{steady}:p99<450ms`.
//! Every name is checked before the run starts.

use super::{Figure, Operator, RUN_NAMES, STRETCH_NAMES, Scope, Threshold, names::SHARES};
use crate::{Metric, Quantity, ReadingSelector, Statistic};
use settings::duration;
use std::{str::FromStr, time::Duration};

/// Longest window. Its seconds are kept in memory, some 200 KiB each.
const LONGEST_WINDOW: Duration = Duration::from_secs(300);
/// Smallest Jaro-Winkler similarity (0 to 1) from which a known name is suggested for an unknown one.
const MIN_LIKENESS: f64 = 0.85;
/// Operators of two characters come first, so that `<=` is not read as `<`.
const COMPARISONS: [(&str, Operator); 6] = [
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<", Operator::Below),
    (">", Operator::Above),
];

/// Invalid threshold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("threshold `{text}`: {fault}")]
pub struct ThresholdError {
    text: String,
    fault: String,
}

impl ThresholdError {
    /// Returns what is wrong, without the text.
    pub(crate) fn fault(&self) -> &str {
        &self.fault
    }
}

/// Splits a text into thresholds, separated by white space or commas.
pub fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', ',', '\t', '\n']).filter(|part| !part.is_empty())
}

/// Reads a threshold. The limit of a duration is in milliseconds, or has a unit.
///
/// ```
/// use measure::threshold::Threshold;
///
/// let threshold: Threshold = "e2el_ms:p95<1.5s".parse()?;
/// assert_eq!(threshold.limit, 1500.0);
/// assert_eq!(threshold.limit, "e2el_ms:p95<1500".parse::<Threshold>()?.limit);
/// let unknown = "e2e_ms:p95<1.5s".parse::<Threshold>().unwrap_err();
/// assert!(unknown.to_string().contains("did you mean `e2el_ms`?"));
/// # Ok::<(), measure::threshold::ThresholdError>(())
/// ```
impl FromStr for Threshold {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Self, ThresholdError> {
        parse(text).map_err(|fault| ThresholdError { text: text.to_owned(), fault })
    }
}

fn parse(text: &str) -> Result<Threshold, String> {
    let shape = || {
        "expected FIGURE, a comparison and a number, for example e2el_ms:p95<3000 or error_rate<0.005"
            .to_owned()
    };
    let at = text.find(['<', '>', '=', '!']).ok_or_else(shape)?;
    let (subject, rest) = text.split_at(at);
    let (sign, operator) =
        COMPARISONS.into_iter().find(|(sign, _)| rest.starts_with(sign)).ok_or_else(shape)?;
    let number = &rest[sign.len()..];
    let subject = Subject::read(subject)?;
    let (figure, scope) = subject.resolve()?;
    let limit = subject.limit(number).filter(|limit| limit.is_finite()).ok_or_else(|| {
        format!(
            "`{number}` is not a number; durations are in milliseconds or have a unit (450, 1.5s), shares are from 0 to 1"
        )
    })?;
    // A limit in percent would always or never hold.
    if matches!(figure, Figure::Scalar(name) if SHARES.contains(&name)) && !(0.0..=1.0).contains(&limit) {
        return Err(format!("`{}` is a share from 0 to 1, not {limit}: write 5 % as 0.05", subject.name));
    }
    if let Some(why) = senseless(&figure, operator, limit) {
        return Err(format!("`{}` is never below 0, so that {why}: {}", subject.name, meant(&figure)));
    }
    Ok(Threshold { text: text.to_owned(), figure, scope, operator, limit })
}

/// Returns why a threshold is useless: its figure cannot be on the other side of the limit.
fn senseless(figure: &Figure, operator: Operator, limit: f64) -> Option<&'static str> {
    use Operator::{Above, AtLeast, AtMost, Below, Equal, NotEqual};
    if can_be_negative(figure) {
        return None;
    }
    match operator {
        Below if limit <= 0.0 => Some("this can never hold"),
        AtMost | Equal if limit < 0.0 => Some("this can never hold"),
        Above | AtLeast | NotEqual if limit < 0.0 => Some("this always holds"),
        _ => None,
    }
}

/// Returns whether the figure is a difference of two measurements, which can be negative.
const fn can_be_negative(figure: &Figure) -> bool {
    use Metric::{Delivery, E2elOverhead, PaceLag, ReplayDelivery, TtftOverhead};
    match figure {
        Figure::Duration(_, Statistic::Count) => false,
        Figure::Duration(metric, _) => {
            matches!(metric, TtftOverhead | E2elOverhead | Delivery | ReplayDelivery | PaceLag)
        }
        Figure::Reading(selector) => matches!(selector.quantity, Quantity::RssGrowth),
        Figure::Scalar(_) => false,
    }
}

const fn meant(figure: &Figure) -> &'static str {
    match figure {
        Figure::Duration(..) => "give a limit in milliseconds, for example max<3000",
        _ => "give a limit from 0 on, for example ==0 or <=5",
    }
}

/// The part before the operator.
struct Subject<'a> {
    name: &'a str,
    label: Option<&'a str>,
    window: Option<&'a str>,
    statistic: Option<&'a str>,
}

impl<'a> Subject<'a> {
    fn read(whole: &'a str) -> Result<Self, String> {
        let end = whole.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(whole.len());
        let (name, mut rest) = whole.split_at(end);
        let mut bracketed = |open: char, close: char| {
            let Some(inner) = rest.strip_prefix(open) else { return Ok(None) };
            let (inner, after) = inner.split_once(close).ok_or(format!("`{open}` has no `{close}`"))?;
            rest = after;
            Ok::<_, String>(Some(inner))
        };
        let (label, window) = (bracketed('{', '}')?, bracketed('[', ']')?);
        let statistic = match rest.strip_prefix(':') {
            Some(statistic) => Some(statistic),
            None if rest.is_empty() => None,
            None => return Err(format!("cannot read `{rest}` after `{name}`")),
        };
        Ok(Self { name, label, window, statistic })
    }

    fn resolve(&self) -> Result<(Figure, Scope), String> {
        if let Some(quantity) = Quantity::ALL.into_iter().find(|quantity| quantity.name() == self.name) {
            return self.readings(quantity);
        }
        if let Some(metric) = Metric::ALL.into_iter().find(|metric| self.is(*metric)) {
            let scope = self.scope()?;
            return Ok((Figure::Duration(metric, self.statistic()?), scope));
        }
        let Some(name) = RUN_NAMES.into_iter().find(|name| *name == self.name) else {
            return Err(unknown(self.name));
        };
        let scope = self.scope()?;
        if scope != Scope::Run && !STRETCH_NAMES.contains(&name) {
            return Err(format!(
                "`{name}` is only available for the whole run; for the steady state and windows use a duration or one \
                 of {}",
                STRETCH_NAMES.join(", ")
            ));
        }
        match self.statistic {
            None => Ok((Figure::Scalar(name), scope)),
            Some(statistic) => Err(format!("`{name}` is one figure and has no `:{statistic}`")),
        }
    }

    /// Resolves a monitoring reading. Its label names the process or target.
    fn readings(&self, quantity: Quantity) -> Result<(Figure, Scope), String> {
        let name = self.name;
        if self.label == Some("steady") {
            return Err(format!("`{name}` is only available for the whole run and for windows"));
        }
        if self.label.is_none() && !quantity.adds_up() {
            return Err(format!(
                "name a process, for example {name}{{redis}} or {name}{{wsproxy-1}}, or a role, for example {name}{{wsproxy}}"
            ));
        }
        if let (Quantity::RssGrowth, Some(window)) = (quantity, self.window) {
            return Err(format!(
                "`{name}` is the slope over the steady state and has no window `[{window}]`"
            ));
        }
        let statistic = match (quantity, self.statistic) {
            (Quantity::HealthMs, _) => Some(self.statistic()?),
            (_, None) => None,
            (_, Some(statistic)) => return Err(format!("`{name}` is one figure and has no `:{statistic}`")),
        };
        let scope = Self { label: None, ..*self }.scope()?;
        Ok((
            Figure::Reading(ReadingSelector { quantity, label: self.label.map(str::to_owned), statistic }),
            scope,
        ))
    }

    /// Reads the number that the figure is compared with. That of a duration may have a unit.
    fn limit(&self, number: &str) -> Option<f64> {
        let is_duration = self.name.ends_with("_ms") && self.statistic != Some("count");
        if is_duration { duration::number_of(number, Duration::from_millis(1)) } else { number.parse().ok() }
    }

    fn is(&self, metric: Metric) -> bool {
        self.name.strip_suffix("_ms") == Some(metric.name())
    }

    fn statistic(&self) -> Result<Statistic, String> {
        let choice = "avg, min, med, max, count or a percentile as p95";
        let text = self.statistic.ok_or_else(|| {
            format!("name a statistic of `{0}`: {choice}, for example {0}:p95<3000", self.name)
        })?;
        text.parse()
    }

    fn scope(&self) -> Result<Scope, String> {
        match (self.label, self.window) {
            (None, None) => Ok(Scope::Run),
            (Some("steady"), None) => Ok(Scope::Steady),
            (Some(label), _) if label != "steady" => {
                Err(format!("unknown part of a run `{{{label}}}`: expected {{steady}}"))
            }
            (None, Some(window)) => duration::parse(window)
                .filter(|length| length.subsec_nanos() == 0 && !length.is_zero() && *length <= LONGEST_WINDOW)
                .map(Scope::Window)
                .ok_or_else(|| {
                    let longest = LONGEST_WINDOW.as_secs();
                    format!("the window `[{window}]` must be whole seconds from 1s to {longest}s")
                }),
            (Some(_), _) => Err("give either {steady} or a window".to_owned()),
        }
    }
}

/// Returns the message for an unknown figure, with the most similar name, or with all names if none is similar.
fn unknown(name: &str) -> String {
    let durations = Metric::ALL.map(Metric::name_ms);
    let extras = Quantity::ALL.map(Quantity::name);
    let all = durations.iter().map(String::as_str).chain(RUN_NAMES).chain(extras);
    if let Some(meant) = closest(name, all) {
        return format!("unknown figure `{name}`: did you mean `{meant}`? docs/metrics.md lists all figures");
    }
    let (durations, scalars, extras) = (durations.join(", "), RUN_NAMES.join(", "), extras.join(", "));
    format!(
        "unknown figure `{name}`; there are {durations} (with a statistic, for example e2el_ms:p95), {scalars}, and {extras}"
    )
}

/// Returns the most similar known name, if any is similar enough.
fn closest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |known: &'a str| (strsim::jaro_winkler(name, known), known);
    let best = names.map(alike).max_by(|a, b| a.0.total_cmp(&b.0));
    best.filter(|(likeness, _)| *likeness > MIN_LIKENESS).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        text.parse::<Threshold>().unwrap_or_else(|error| panic!("{error}")).to_string()
    }

    fn fault(text: &str) -> String {
        text.parse::<Threshold>().expect_err(text).to_string()
    }

    #[test]
    fn thresholds_as_people_write_them() {
        for (text, expected) in [
            ("e2el_ms:p95<3000", "e2el_ms p(95)<3000"),
            ("e2el_ms:p(95)<=3000", "e2el_ms p(95)<=3000"),
            ("error_rate<0.005", "error_rate<0.005"),
            ("tokens_lost==0", "tokens_lost==0"),
            ("ttft_ms{steady}:p99<450", "ttft_ms{steady} p(99)<450"),
            ("e2el_ms[30s]:p95<3000", "e2el_ms[30s] p(95)<3000"),
            ("e2el_ms[1m]:max<3e3", "e2el_ms[60s] max<3000"),
            ("e2el_ms:p95<1.5s", "e2el_ms p(95)<1500"),
            ("ttft_ms{steady}:p99<450ms", "ttft_ms{steady} p(99)<450"),
            ("health_ms:p99<1m", "health_ms p(99)<60000"),
            ("output_throughput[10]>=500", "output_throughput[10s]>=500"),
            ("goodput_share{steady}>0.9", "goodput_share{steady}>0.9"),
            ("e2el_overhead_ms:med>-5", "e2el_overhead_ms p(50)>-5"),
            ("health_ms:p99<50", "health_ms p(99)<50"),
            ("health_ms{api}[30s]:p95<50", "health_ms{api}[30s] p(95)<50"),
            ("rss_mb{wsproxy-1}<300", "rss_mb{wsproxy-1}<300"),
            ("rss_growth_mb_per_h{wsproxy}<=0", "rss_growth_mb_per_h{wsproxy}<=0"),
            ("cpu_share{redis}[1m]<0.9", "cpu_share{redis}[60s]<0.9"),
            ("restarts[30s]<=1", "restarts[30s]<=1"),
            ("itl_ms:count!=0", "itl_ms count!=0"),
            ("ttft_overhead_ms:max<-1", "ttft_overhead_ms max<-1"),
            ("tokens_lost<=0", "tokens_lost<=0"),
            ("tokens_lost>=0", "tokens_lost>=0"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn an_invalid_threshold_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "a comparison and a number"),
            ("e2el_ms:p95", "a comparison and a number"),
            ("e2el_ms:p95=3", "a comparison and a number"),
            ("e2el_ms:p95!3", "a comparison and a number"),
            ("e2el_ms:p95<", "`` is not a number"),
            ("e2el_ms:p95<3x", "`3x` is not a number"),
            ("e2el_ms:count<3s", "`3s` is not a number"),
            ("error_rate<3s", "`3s` is not a number"),
            ("e2el_ms:max<-3s", "`-3s` is not a number"),
            ("e2el_ms:p95<nan", "`nan` is not a number"),
            ("error_rate<5", "a share from 0 to 1"),
            ("success_rate{steady}>=99", "only available for the whole run"),
            ("success_rate>=99", "a share from 0 to 1"),
            ("e2el_ms<3", "name a statistic"),
            ("e2el_ms:<3", "unknown statistic ``"),
            ("e2el_ms:p950<3", "unknown statistic `p950`"),
            ("e2e_ms:p95<3", "unknown figure `e2e_ms`: did you mean `e2el_ms`? docs/metrics.md lists"),
            ("e2el:p95<3", "did you mean `e2el_ms`?"),
            ("ttft:p95<3", "did you mean `ttft_ms`?"),
            ("eror_rate<0.1", "did you mean `error_rate`?"),
            ("token_lost==0", "did you mean `tokens_lost`?"),
            ("queries_fail==0", "did you mean `queries_failed`?"),
            ("rss{redis}<10", "did you mean `rss_mb`?"),
            ("http_req_duration:p95<3", "unknown figure `http_req_duration`; there are queue_ms"),
            ("<3", "unknown figure ``; there are"),
            ("tokens_lost:p95<3", "has no `:p95`"),
            ("duration_s[30s]<3", "only available for the whole run"),
            ("e2el_ms{warm}:p95<3", "expected {steady}"),
            ("e2el_ms{steady:p95<3", "`{` has no `}`"),
            ("e2el_ms{steady}[3s]:p95<3", "either {steady} or a window"),
            ("e2el_ms[0s]:p95<3", "from 1s to 300s"),
            ("e2el_ms[1500ms]:p95<3", "from 1s to 300s"),
            ("e2el_ms[1h]:p95<3", "from 1s to 300s"),
            ("e2el_ms[é]:p95<3", "from 1s to 300s"),
            ("e2el_ms-x:p95<3", "cannot read `-x:p95`"),
            ("restarts{steady}<3", "only available for the whole run and for windows"),
            ("restarts:max<3", "has no `:max`"),
            ("health_ms<3", "name a statistic"),
            ("rss_mb<3", "name a process, for example rss_mb{redis}"),
            ("rss_mb{redis}[1h]<3", "from 1s to 300s"),
            ("rss_growth_mb_per_h<3", "name a process, for example rss_growth_mb_per_h{redis}"),
            ("rss_growth_mb_per_h{redis}[30s]<3", "has no window `[30s]`"),
            ("rss_growth_mb_per_h{redis}:p95<3", "has no `:p95`"),
            ("e2el_ms:p0.95<3000", "did you mean p95?"),
            ("e2el_ms[30s]:p(0.999)<3000", "did you mean p99.9?"),
            ("health_ms:p0.5<3", "did you mean p50?"),
            (
                "e2el_ms:max<-1",
                "`e2el_ms` is never below 0, so that this can never hold: give a limit in milliseconds",
            ),
            ("e2el_ms:max<0", "can never hold"),
            ("ttft_ms:p95<=-0.1", "can never hold"),
            ("itl_ms:count==-1", "can never hold"),
            ("tokens_lost<0", "can never hold: give a limit from 0 on"),
            ("tokens_lost>-1", "always holds"),
            ("restarts{redis}<-1", "can never hold"),
            ("e2el_overhead_ms:count<0", "can never hold"),
        ] {
            assert!(fault(text).contains(why), "{text}: {}", fault(text));
        }
    }

    #[test]
    fn several_in_a_text() {
        let parts: Vec<_> = split(" a<1, b<2\tc<3,,").collect();
        assert_eq!(parts, ["a<1", "b<2", "c<3"]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}", tail in "(_ms)?(\\{steady\\})?(\\[[0-9a-z]*\\])?:?[a-z0-9.]*[<>=!]{1,2}[0-9.e-]*") {
            let _ = text.parse::<Threshold>();
            let _ = format!("e2el{tail}").parse::<Threshold>();
        }
    }
}
