//! Reads the options of client behaviour: cuts, reading pauses, late connects.
//! Which session does what is drawn during the run.

use super::check::Check;
use crate::cli::RunArgs;
use plan::{Behaviour, ReadingPause, Selection};
use settings::duration;
use std::time::Duration;

pub(super) fn behaviour(check: &mut Check, args: &RunArgs) -> Behaviour {
    let cut_rate = args.cut_rate.unwrap_or(0.0);
    if !(0.0..=10.0).contains(&cut_rate) {
        check.error(format!(
            "--cut-rate {cut_rate} is out of range: expected the share of open sockets to cut per second, 0 to 10"
        ));
    }
    let pause = args.pause_readers.as_deref().and_then(|text| {
        let pause = parse_pause(text);
        if pause.is_none() {
            check.error(format!(
                "invalid value \"{text}\" for --pause-readers: expected COUNT:DURATION or FRACTION:DURATION, for example \
                 50:10s, 0.05:10s or 5%:10s"
            ));
        }
        pause
    });
    let late_connect = args.late_connect.as_deref().and_then(|text| {
        let range = parse_range(text);
        if range.is_none() {
            check.error(format!(
                "invalid range \"{text}\" for --late-connect: expected LOW..HIGH, for example 0s..5s or 500ms..2s"
            ));
        }
        range
    });
    Behaviour { drop_rate: cut_rate, pause, late_connect, resume: !args.no_resume }
}

fn parse_pause(text: &str) -> Option<ReadingPause> {
    let (who, time) = text.split_once(':')?;
    let who = who.trim();
    let who = if let Some(percent) = who.strip_suffix('%') {
        Selection::Share(percent.trim_end().parse::<f64>().ok()? / 100.0)
    } else if who.contains('.') {
        Selection::Share(who.parse().ok()?)
    } else {
        Selection::Number(who.parse().ok()?)
    };
    if matches!(who, Selection::Share(share) if !(0.0..=1.0).contains(&share)) {
        return None;
    }
    let time = duration::parse(time).filter(|time| !time.is_zero())?;
    Some(ReadingPause { sessions: who, duration: time })
}

fn parse_range(text: &str) -> Option<(Duration, Duration)> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let (least, most) = (duration::parse(least)?, duration::parse(most)?);
    (least <= most).then_some((least, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_or_a_number_of_sessions() {
        for (text, sessions) in [
            ("0.05:10s", Some(50)),
            ("5%:10s", Some(50)),
            ("50:10s", Some(50)),
            ("1.0:10", Some(1000)),
            ("1:1m", Some(1)),
            ("5000:1s", Some(1000)),
            ("1.5:10s", None),
            ("150%:10s", None),
            ("-1:10s", None),
            ("nan%:10s", None),
            ("0.05", None),
            ("0.05:0s", None),
            ("x:10s", None),
        ] {
            assert_eq!(parse_pause(text).map(|pause| pause.count(1000)), sessions, "{text}");
        }
    }

    #[test]
    fn a_range_of_times() {
        let seconds = |text| parse_range(text).map(|(a, b)| (a.as_secs_f64(), b.as_secs_f64()));
        assert_eq!(seconds("0..5"), Some((0.0, 5.0)));
        assert_eq!(seconds("500ms..2s"), Some((0.5, 2.0)));
        assert_eq!(seconds("0.5..1.5"), Some((0.5, 1.5)));
        assert_eq!(seconds("3"), Some((3.0, 3.0)));
        for bad in ["5..0", "..", "0..", "a..b", ""] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
