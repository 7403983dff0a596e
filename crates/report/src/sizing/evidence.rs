//! The second half of a guide: what its figures are based on.

use super::{
    figures::{cell, percent, point as named_point, processes, short, signed_percent, whole},
    layout::{line, named, table},
};
use measure::sizing::{
    basis::FAR,
    costs::{Cost, RoleCosts},
    fit::Fitted,
    guide::{Guide, Prediction, Unused},
    point::Point,
};
use std::collections::BTreeMap;

/// KB per MB.
const KB: f64 = 1024.0;

/// Appends the costs, the law and the points.
pub(super) fn evidence(out: &mut String, guide: &Guide) {
    costs(out, guide);
    law(out, guide);
    points(out, guide);
    unused(out, guide);
}

fn costs(out: &mut String, guide: &Guide) {
    line(out, "\n## What a user costs\n");
    line(
        out,
        &format!(
            "Base of one process, and what each user adds, ± standard error. In parentheses: the error of the prediction for the held-out load. From the {} points that got \
             at least 90 % of the tokens per user: in an overload, users wait and cost less.\n",
            guide.cost_points
        ),
    );
    let one = |cost: Option<Cost>, unit: f64| {
        let Some(cost) = cost else { return "-".to_owned() };
        let line = cost.line;
        let error =
            cost.held_out_error.map(|error| format!(" ({})", signed_percent(error))).unwrap_or_default();
        format!(
            "{} + {} ± {} per user{error}",
            short(Some(line.base)),
            short(Some(line.slope * unit)),
            short(Some(line.slope_error * unit))
        )
    };
    let row = |costs: &RoleCosts| {
        vec![
            named(guide, &costs.role),
            processes(costs.instances),
            one(costs.cores, 1e3),
            one(costs.rss_mb, KB),
            one(costs.descriptors, 1.0),
        ]
    };
    let titles = ["role", "measured processes", "CPU: cores + millicores", "memory: MB + KB", "descriptors"];
    table(out, &titles, guide.costs.iter().map(row));
}

fn law(out: &mut String, guide: &Guide) {
    let chosen = &guide.laws[0];
    let (curve, errors) = (chosen.curve, chosen.parameter_errors);
    let small = |value: f64| if value == 0.0 { "0".to_owned() } else { format!("{value:.3e}") };
    let with = |value: String, error: Option<String>| match error {
        Some(error) => format!("{value} ± {error}"),
        None => value,
    };
    line(out, "\n## Model of the throughput\n");
    line(
        out,
        &format!(
            "**{}**: `{}` in tokens/s at N users, with λ = {}, σ = {}, κ = {}, fitted to {} points by least squares of the relative error. \
             The standard errors of the parameters follow ±; one of 0 is at the end of its range.",
            capital(curve.law.name()),
            curve.law.formula(),
            with(format!("{:.4}", curve.lambda), errors.lambda.map(|error| format!("{error:.4}"))),
            with(small(curve.sigma), errors.sigma.map(small)),
            with(small(curve.kappa), errors.kappa.map(small)),
            guide.points.len()
        ),
    );
    line(
        out,
        &match curve.peak().filter(|&peak| peak <= FAR * guide.measured_users[1]) {
            Some(peak) => format!(
                "By the law, the measured stack would deliver most at {} users: {} tokens/s.\n",
                whole(peak),
                whole(curve.at(peak))
            ),
            // A peak further away is a guess.
            None => "By the law, twice the measured users would not lower the throughput.\n".to_owned(),
        },
    );
    let row = |fitted: &Fitted| {
        let mark = if fitted.curve.law == curve.law { " (used)" } else { "" };
        let errors = [fitted.errors.fit, fitted.errors.held_out, fitted.errors.leave_one_out].map(percent);
        std::iter::once(format!("{}{mark}", fitted.curve.law.name())).chain(errors).collect()
    };
    let titles = [
        "law",
        "error of the fit (RMS)",
        "error at the held-out points",
        "error of leaving out each point in turn",
    ];
    table(out, &titles, guide.laws.iter().map(row));
    line(out, "\nHeld out, so not part of the fit:\n");
    let row = |held_out: &Prediction| {
        vec![
            named_point(&held_out.name),
            short(Some(held_out.users)),
            whole(held_out.predicted),
            whole(held_out.measured),
            signed_percent(held_out.error),
        ]
    };
    table(
        out,
        &["point", "users", "predicted tokens/s", "measured tokens/s", "error"],
        guide.predictions.iter().map(row),
    );
}

fn points(out: &mut String, guide: &Guide) {
    line(out, "\n## Measured points\n");
    let roles: Vec<&str> = guide.costs.iter().map(|costs| costs.role.as_str()).collect();
    let titles: Vec<String> = ["point", "users", "tokens/s", "e2el p99, ms"]
        .into_iter()
        .map(str::to_owned)
        .chain(roles.iter().map(|name| format!("{}, cores", named(guide, name))))
        .chain(["verdict", "measured in"].map(str::to_owned))
        .collect();
    let row = |point: &Point| {
        let cores = |name: &&str| short(point.roles.get(*name).and_then(|used| used.cores));
        let latency = point.e2el_p99_ms.map_or_else(|| "-".to_owned(), whole);
        [named_point(&point.name), short(Some(point.users)), whole(point.tokens_per_s), latency]
            .into_iter()
            .chain(roles.iter().map(cores))
            .chain([cell(&point.verdict), cell(&point.window)])
            .collect()
    };
    table(out, &titles.iter().map(String::as_str).collect::<Vec<_>>(), guide.used().map(row));
}

/// Appends the points that are not used, those with the same reason in one row.
fn unused(out: &mut String, guide: &Guide) {
    if guide.unused.is_empty() {
        return;
    }
    let mut reasons: BTreeMap<&str, Vec<&Unused>> = BTreeMap::new();
    for unused in &guide.unused {
        reasons.entry(&unused.reason).or_default().push(unused);
    }
    line(out, "\nNot used:\n");
    let row = |(reason, points): (&str, Vec<&Unused>)| {
        let more = if points.len() > 1 { format!(" and {} more", points.len() - 1) } else { String::new() };
        let users = points.iter().map(|point| point.users);
        let (least, most) = (users.clone().fold(f64::INFINITY, f64::min), users.fold(0.0, f64::max));
        let users = if least < most { format!("{} to {}", whole(least), whole(most)) } else { whole(most) };
        vec![format!("{}{more}", named_point(&points[0].name)), users, cell(reason)]
    };
    table(out, &["point", "users", "because"], reasons.into_iter().map(row));
}

/// Returns a text that begins with a capital letter.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
