//! Finds thresholds on figures that no member of the stack provides.

use super::inventory::Member;
use measure::{
    Quantity, Reading, ReadingSelector, role,
    threshold::{Figure, Threshold},
};

/// The first public addresses, whose health is checked in every run.
const PUBLIC: [&str; 2] = ["api", "gateway"];
/// The process that is sampled in every run.
const CLIENT: &str = "client";

/// Returns the thresholds on figures that no source provides if the stack consists of `members`. `more_public` are the names of the
/// further public addresses, for example `api-2`.
pub fn unmeasured<'a>(
    thresholds: &'a [Threshold],
    members: &'a [Member],
    more_public: &'a [String],
) -> impl Iterator<Item = &'a Threshold> {
    thresholds.iter().filter(move |threshold| match &threshold.figure {
        Figure::Reading(selector) => !is_measured(selector, members, more_public),
        Figure::Duration(..) | Figure::Scalar(_) => false,
    })
}

fn is_measured(selector: &ReadingSelector, members: &[Member], more_public: &[String]) -> bool {
    let quantity = selector.quantity;
    let always: &[&str] = match quantity {
        Quantity::HealthMs | Quantity::HealthFailures => &PUBLIC,
        Quantity::RssMb | Quantity::RssGrowth | Quantity::CpuShare => &[CLIENT],
        Quantity::Restarts => &[],
    };
    let shows = |member: &&Member| match quantity {
        Quantity::HealthMs | Quantity::HealthFailures => member.http.is_some(),
        Quantity::RssMb | Quantity::RssGrowth | Quantity::CpuShare => member.pid.is_some(),
        Quantity::Restarts => true,
    };
    let more_public = match quantity {
        Quantity::HealthMs | Quantity::HealthFailures => more_public,
        Quantity::RssMb | Quantity::RssGrowth | Quantity::CpuShare | Quantity::Restarts => &[],
    };
    let names = always.iter().copied().chain(more_public.iter().map(String::as_str));
    let names = names.chain(members.iter().filter(shows).map(|member| &*member.name));
    let mut labels = names.flat_map(|name| [name, role(name)]);
    labels.any(|label| selector.selects(&Reading { quantity, label: label.to_owned(), value: 0.0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, pid: Option<u32>, http: Option<&str>) -> Member {
        Member {
            name: name.into(),
            pid,
            has_children: false,
            http: http.map(|address| address.parse().unwrap()),
            life: "1".into(),
            ended: false,
        }
    }

    #[test]
    fn a_table_of_thresholds() {
        let stack = [
            member("redis", Some(1), None),
            member("server-1", Some(2), Some("127.0.0.1:1")),
            member("haproxy", None, None),
        ];
        for (text, in_stack, without) in [
            ("health_ms:p95<9", true, true),
            ("health_failures{gateway}<9", true, true),
            ("health_failures{server}<9", true, false),
            ("health_failures{redis}<9", false, false),
            ("rss_mb{client}<9", true, true),
            ("rss_mb{server}<9", true, false),
            ("rss_growth_mb_per_h{server}<9", true, false),
            ("rss_growth_mb_per_h{client}<9", true, true),
            ("rss_mb{server-1}[5s]<9", true, false),
            ("rss_mb{server-2}<9", false, false),
            ("cpu_share{haproxy}<9", false, false),
            ("restarts<9", true, false),
            ("restarts{redis}<9", true, false),
            ("e2el_ms:p95<9", true, true),
        ] {
            let thresholds = [text.parse::<Threshold>().unwrap()];
            let is_measured = |members: &[Member]| unmeasured(&thresholds, members, &[]).next().is_none();
            assert_eq!((is_measured(&stack), is_measured(&[])), (in_stack, without), "{text}");
        }
    }

    #[test]
    fn further_public_addresses_have_health_checks_only() {
        let more = ["api-2", "gateway-2", "gateway-3"].map(String::from);
        for (text, expected) in [
            ("health_ms{api-2}:p95<9", true),
            ("health_failures{gateway-3}<9", true),
            ("health_failures{gateway}<9", true),
            ("health_failures{api-3}<9", false),
            ("rss_mb{api-2}<9", false),
            ("restarts{gateway-2}<9", false),
        ] {
            let thresholds = [text.parse::<Threshold>().unwrap()];
            assert_eq!(unmeasured(&thresholds, &[], &more).next().is_none(), expected, "{text}");
        }
    }
}
