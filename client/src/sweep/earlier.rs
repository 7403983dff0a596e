//! An earlier sweep that continues: its options must be the same.

use report::sweep::{Sweep, SweepResult};

/// Keys of the options that may differ when a sweep continues.
const MAY_DIFFER: [&str; 6] = ["seed", "name", "output_dir", "quiet", "dry_run", "keep_results"];

/// Returns the lines of options that do not vary.
pub(super) fn fixed(options: &str, varied: &[&str]) -> String {
    let is_fixed = |line: &&str| !varied.iter().any(|key| line.starts_with(&format!("{key} = ")));
    options.lines().filter(is_fixed).map(|line| format!("{line}\n")).collect()
}

/// Returns what differs between an earlier sweep and this one, with the next step.
pub(super) fn difference(earlier: &SweepResult, sweep: &Sweep) -> Option<String> {
    let pairs: [(&str, &str, &str); 4] = [
        ("the version", earlier.version.as_str(), env!("CARGO_PKG_VERSION")),
        ("--vary", &earlier.vary.join(" --vary "), &sweep.vary.join(" --vary ")),
        ("the target", &earlier.target, &sweep.target),
        ("--seed", &earlier.seed.to_string(), &sweep.seed.to_string()),
    ];
    if let Some((what, before, now)) = pairs.into_iter().find(|(_, before, now)| before != now) {
        return Some(format!("that sweep had {what} {before}, this one has {now}: use the same"));
    }
    if earlier.repeat > sweep.repeat {
        let (before, now) = (earlier.repeat, sweep.repeat);
        return Some(format!("that sweep had --repeat {before}, this one has {now}: use {before} or more"));
    }
    let matters = |line: &&str| !MAY_DIFFER.iter().any(|key| line.starts_with(&format!("{key} = ")));
    let [before, now]: [Vec<&str>; 2] =
        [&earlier.options, &sweep.options].map(|options| options.lines().filter(matters).collect());
    let only = |these: &[&str], those: &[&str]| {
        these.iter().find(|line| !those.contains(line)).map(ToString::to_string)
    };
    only(&before, &now)
        .map(|line| format!("that sweep had `{line}`, this one has not: use the same options"))
        .or_else(|| {
            only(&now, &before)
                .map(|line| format!("this sweep has `{line}`, that one had not: use the same options"))
        })
}
