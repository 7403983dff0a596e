//! Makes a guide from points.

use super::{
    basis::Measured,
    choice::choose,
    costs::{self, CeilingOf},
    fit::{self, Fitted},
    guide::{Guide, Options, Prediction, Unused},
    model::Sample,
    plan::Known,
    point::Point,
    selection::{Refused, Selection},
    warnings::warnings,
};

/// Multiples of the highest measured load that are planned if no number of users is given.
const DEFAULT_MULTIPLES: [f64; 3] = [1.0, 2.0, 5.0];

/// Makes a guide from points.
///
/// # Errors
/// A choice fits no point, or the points are of several workloads, too few, or fit no law.
pub fn guide(points: Vec<Point>, options: Options) -> Result<Guide, Refused> {
    let selection = Selection::of(choose(points, &options.choices)?, options.hold_out)?;
    let laws =
        fit::choose(&samples(&selection.fit_to), &samples(&selection.held_out)).ok_or(Refused::NoFit)?;
    let curve = laws[0].curve;
    let measured = Measured::new(selection.used().map(|point| point.users).collect());
    let served = costs::served(&selection);
    let costs = costs::costs(&served, &options.threads);
    let ceiling = options.ceiling(&selection).or_else(|| costs::ceiling_of(&selection));
    let ceiling_of = ceiling
        .as_ref()
        .map(|ceiling| costs::what_was_full(&selection, ceiling, &costs, options.machine.cores));
    let limits: Vec<_> = costs
        .iter()
        .map(|role| {
            let is_limit = match &ceiling_of {
                Some(CeilingOf::Roles(roles)) => roles.contains(&role.role),
                Some(CeilingOf::Unknown) => true,
                Some(CeilingOf::Machine) | None => false,
            };
            let one = ceiling.as_ref().filter(|_| is_limit).and_then(|ceiling| {
                let nearest = costs::nearest(&selection, ceiling.users)?;
                Some(ceiling.users / nearest.roles.get(&role.role)?.processes())
            });
            role.limits(options.headroom, one)
        })
        .collect();
    let mut users = if options.users.is_empty() { default_users(measured.most()) } else { options.users };
    users.sort_by(f64::total_cmp);
    let known = Known {
        costs: &costs,
        limits: &limits,
        curve,
        measured: &measured,
        headroom: options.headroom,
        machine_cores: options.machine.cores,
        machine_mb: options.machine.memory_mb,
    };
    let plans: Vec<_> = users.iter().map(|&users| known.plan(users)).collect();
    let predictions = selection.held_out.iter().map(|point| prediction(&laws[0], point)).collect();
    let tokens: Vec<f64> = selection.used().filter_map(|point| point.tokens_per_query).collect();
    #[allow(clippy::cast_precision_loss)]
    let tokens_per_query = (!tokens.is_empty()).then(|| tokens.iter().sum::<f64>() / tokens.len() as f64);
    let mut guide = Guide {
        machine: options.machine,
        conditions: selection.fit_to[0].conditions.clone(),
        tokens_per_query,
        headroom: options.headroom,
        measured_users: [measured.least(), measured.most()],
        plans,
        limits,
        ceiling,
        ceiling_of,
        cost_points: served.used().count(),
        costs,
        laws,
        predictions,
        unused: selection.unused.into_iter().map(unused).collect(),
        points: selection.fit_to,
        held_out: selection.held_out,
        warnings: Vec::new(),
    };
    guide.warnings = warnings(&guide);
    Ok(guide)
}

fn samples(points: &[Point]) -> Vec<Sample> {
    points.iter().map(|point| (point.users, point.tokens_per_s)).collect()
}

fn prediction(law: &Fitted, point: &Point) -> Prediction {
    let sample = (point.users, point.tokens_per_s);
    Prediction {
        name: point.name.clone(),
        users: point.users,
        measured: point.tokens_per_s,
        predicted: law.curve.at(point.users),
        error: fit::relative(&law.curve, &sample),
    }
}

fn unused((point, reason): (Point, String)) -> Unused {
    Unused { name: point.name, users: point.users, reason }
}

/// Returns the highest measured load, twice and five times as many, each as a whole number.
fn default_users(most: f64) -> Vec<f64> {
    DEFAULT_MULTIPLES.iter().map(|multiple| (most.round() * multiple).max(1.0)).collect()
}
