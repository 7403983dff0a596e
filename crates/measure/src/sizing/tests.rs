//! Guides of generated points: what is refused, what is predicted, and what the figures are based on.

use super::{
    basis::Basis,
    costs::{CeilingOf, MeasuredCeiling},
    guide::{Guide, Machine, Options},
    make::guide,
    model::{Curve, Law},
    point::{Point, RoleUse},
    selection::{HoldOut, Refused},
};

const LOADS: [f64; 7] = [50.0, 100.0, 150.0, 200.0, 250.0, 300.0, 400.0];

/// A point of a stack with two gateways, whose costs are exact lines.
fn point(users: f64) -> Point {
    let curve = Curve { law: Law::Usl, lambda: 20.0, sigma: 1e-4, kappa: 1e-7 };
    let used = |instances, base: f64, slope: f64| RoleUse {
        instances,
        cores: Some(base + slope * users),
        rss_mb: Some(10.0 * f64::from(instances) + 0.02 * users),
        descriptors: Some(20.0 * f64::from(instances) + users),
    };
    let roles = [
        ("client", used(1, 0.0, 0.001)),
        ("haproxy", used(1, 0.01, 0.0005)),
        ("redis", used(1, 0.02, 0.0006)),
        ("server", used(1, 0.01, 0.0004)),
        ("wsproxy", used(2, 0.02, 0.001)),
    ];
    Point {
        name: format!("run_{users}_summary.json"),
        started_s: users,
        window: "steady state, 20 s".to_owned(),
        users,
        tokens_per_s: curve.at(users),
        tokens_per_query: Some(50.0),
        e2el_p99_ms: Some(1_000.0),
        verdict: "PASS".to_owned(),
        roles: roles.into_iter().map(|(role, used)| (role.to_owned(), used)).collect(),
        conditions: [("think time", "0 s"), ("wsproxy", "2")].map(|(a, b)| (a.into(), b.into())).into(),
        version: "1".to_owned(),
        unusable: None,
    }
}

/// A point of the same stack with another number of gateways, each of which has the same base and costs as much per user.
fn with_gateways(users: f64, gateways: u32) -> Point {
    let mut point = point(users);
    let used = RoleUse {
        instances: gateways,
        cores: Some(0.01 * f64::from(gateways) + 0.001 * users),
        rss_mb: Some(10.0 * f64::from(gateways) + 0.02 * users),
        descriptors: Some(20.0 * f64::from(gateways) + users),
    };
    point.name = format!("run_{users}_{gateways}_summary.json");
    point.roles.insert("wsproxy".to_owned(), used);
    point
}

fn points() -> Vec<Point> {
    LOADS.map(point).to_vec()
}

fn options(users: f64) -> Options {
    Options {
        users: vec![users],
        headroom: 0.3,
        machine: Machine { name: "test".to_owned(), cores: Some(2.0), memory_mb: Some(4_000.0) },
        ..Options::default()
    }
}

fn guide_for(users: f64) -> Guide {
    guide(points(), options(users)).unwrap()
}

fn refused(points: Vec<Point>, options: Options) -> String {
    guide(points, options).unwrap_err().to_string()
}

#[test]
fn a_plan_keeps_every_process_below_its_soft_limit() {
    let guide = guide_for(2_000.0);
    let plan = &guide.plans[0];
    let part = |role: &str| plan.parts.iter().find(|part| part.role == role).unwrap();
    // A gateway has a base of 0.01 cores and costs 0.001 per user: 690 users at 70 %.
    // Three gateways would be enough, but each of two stacks needs two.
    assert_eq!(part("wsproxy").instances, 4);
    let soft = guide.limits.iter().find(|limits| limits.role == "wsproxy").unwrap();
    assert!(
        (soft.soft.unwrap().users - 690.0).abs() < 1e-3 && (soft.hard.unwrap().users - 990.0).abs() < 1e-3
    );
    for part in &plan.parts {
        assert!(part.cpu_share.unwrap() <= 0.7 + 1e-9, "{part:?}");
    }
    assert!(plan.parts.iter().all(|part| part.role != "client"));
    // 0.0006 cores per user: 1,133 users for one Redis, so that each stack has half of the users.
    assert_eq!((plan.stacks, part("redis").instances, part("haproxy").instances), (2, 2, 2));
}

#[test]
fn points_with_several_numbers_of_gateways_tell_what_one_gateway_costs() {
    let points = (1..=3).flat_map(|gateways| LOADS.map(|users| with_gateways(users, gateways))).collect();
    let guide = guide(points, options(2_000.0)).unwrap();
    let gateways = guide.costs.iter().find(|role| role.role == "wsproxy").unwrap();
    assert_eq!(gateways.instances, [1, 3]);
    for (cost, base, slope) in
        [(gateways.cores, 0.01, 0.001), (gateways.rss_mb, 10.0, 0.02), (gateways.descriptors, 20.0, 1.0)]
    {
        let line = cost.unwrap().line;
        assert!((line.base - base).abs() < 1e-6 && (line.slope - slope).abs() < 1e-9, "{line:?}");
    }
    let exact = guide_for(2_000.0);
    let planned = |guide: &Guide| guide.plans[0].parts.iter().map(|part| part.instances).collect::<Vec<_>>();
    assert_eq!(planned(&guide), planned(&exact));
    let soft = guide.limits.iter().find(|limits| limits.role == "wsproxy").unwrap().soft.unwrap();
    // One gateway had up to 400 users.
    assert!(
        matches!(soft.basis, Basis::Extrapolated(factor) if (factor - 690.0 / 400.0).abs() < 1e-6),
        "{soft:?}"
    );
    let warning = "The points have 1 to 3 processes of wsproxy. Costs are fitted per process";
    assert!(guide.warnings.iter().any(|text| text.starts_with(warning)), "{:?}", guide.warnings);
}

#[test]
fn each_figure_states_its_basis() {
    for (users, basis) in [(400.0, Basis::Measured), (350.0, Basis::Interpolated), (20.0, Basis::Below(2.5))]
    {
        let plan = guide_for(users).plans.remove(0);
        let redis = plan.parts.iter().find(|part| part.role == "redis").unwrap();
        assert_eq!(redis.basis, basis, "{users}");
    }
    // Two gateways were measured, and one would be enough: it would have twice as many users.
    assert_eq!(guide_for(400.0).plans[0].basis, Basis::Extrapolated(2.0));
    let guide = guide_for(1_000.0);
    assert_eq!(guide.plans[0].basis, Basis::Extrapolated(2.5));
    let warning = "The plan for 1000 users is more than 2 times beyond what was measured, in total or per process, up to 2.5 times";
    assert!(guide.warnings.iter().any(|text| text.contains(warning)), "{:?}", guide.warnings);
    assert!(!guide_for(800.0).warnings.iter().any(|text| text.contains("beyond what was measured")));
}

#[test]
fn the_held_out_run_is_predicted() {
    let guide = guide_for(100.0);
    let [held_out] = guide.predictions.as_slice() else { panic!("{:?}", guide.predictions) };
    assert_eq!(held_out.users, 400.0);
    assert!(held_out.error.abs() < 1e-6 && guide.laws[0].curve.law == Law::Usl, "{held_out:?}");
    let mut points = points();
    points[2].started_s = 1e9;
    let latest = Options { hold_out: HoldOut::Latest, ..options(100.0) };
    assert_eq!(super::make::guide(points, latest).unwrap().predictions[0].users, 150.0);
}

/// Points of the same loads with either delivery. Those without a log cost half as much.
fn of_both_deliveries() -> Vec<Point> {
    let of = |delivery: &'static str| {
        points().into_iter().map(move |mut point| {
            point.name = format!("{delivery}_{}", point.name);
            point.conditions.insert("server delivery".to_owned(), delivery.to_owned());
            if delivery == "pubsub" {
                point.roles.values_mut().for_each(|used| used.cores = used.cores.map(|cores| cores / 2.0));
            }
            point
        })
    };
    of("log").chain(of("pubsub")).collect()
}

#[test]
fn points_of_several_settings_are_refused_unless_some_are_chosen() {
    let error = refused(of_both_deliveries(), options(100.0));
    assert!(error.contains("server delivery: log (log_run_50"), "{error}");
    assert!(
        error.ends_with("or choose some of these, for example with --where 'server delivery=log'"),
        "{error}"
    );
    let chosen = |delivery: &str| {
        let choices = vec![format!("delivery={delivery}").parse().unwrap()];
        guide(of_both_deliveries(), Options { choices, ..options(100.0) }).unwrap()
    };
    let [log, pubsub] = ["log", "pubsub"].map(chosen);
    let redis = |guide: &Guide| {
        let costs = guide.costs.iter().find(|role| role.role == "redis").unwrap();
        costs.cores.unwrap().line.slope
    };
    assert!((redis(&log) - 0.0006).abs() < 1e-9 && (redis(&pubsub) - 0.0003).abs() < 1e-9);
    assert_eq!((log.unused.len(), log.unused[0].reason.as_str()), (7, "its delivery is pubsub, not log"));
}

#[test]
fn the_ceiling_is_that_of_a_search_whose_steps_are_used() {
    let mut points = of_both_deliveries();
    for (number, point) in points.iter_mut().enumerate() {
        let search = point.conditions["server delivery"].clone();
        point.name = Point::step_name(&search, number + 1);
    }
    let ceiling =
        |source: &str, users| MeasuredCeiling { users, sources: vec![source.to_owned()], limited_by: None };
    let ceilings = vec![ceiling("log", 350.0), ceiling("pubsub", 100.0)];
    let choices = vec!["delivery=log".parse().unwrap()];
    let guide = guide(points, Options { ceilings, choices, ..options(100.0) }).unwrap();
    assert_eq!(guide.ceiling.unwrap().users, 350.0);
}

#[test]
fn too_few_points_are_refused_with_how_to_get_more() {
    let error = refused(points()[1..].to_vec(), options(100.0));
    for words in ["5 points at 5 different loads", "6 at 4 different loads", "streamstress sweep"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    let two_loads: Vec<Point> = (0..8).flat_map(|_| [point(100.0), point(200.0)]).collect();
    assert!(refused(two_loads, options(100.0)).contains("8 points at 1 different load can be used"));
    let two = Options { hold_out: HoldOut::Highest(2), ..options(100.0) };
    assert!(refused(points(), two).contains("besides the 2 points that are held out"));
    let mut one_bad = points();
    one_bad[0].unusable = Some("it was interrupted".to_owned());
    let error = refused(one_bad, options(100.0));
    assert!(error.contains("Not used: run_50_summary.json, because it was interrupted."), "{error}");
    assert!(refused(Vec::new(), options(1.0)).contains("0 points"));
}

#[test]
fn mixed_workloads_are_refused_and_the_difference_is_named() {
    let mut mixed = points();
    mixed[1].conditions.insert("think time".to_owned(), "5 s".to_owned());
    let error = refused(mixed, options(100.0));
    assert!(
        error
            .contains("think time: 0 s (run_50_summary.json, run_150_summary.json and 4 more), 5 s (run_100"),
        "{error}"
    );
    let mut mixed = points();
    mixed[3].conditions.remove("wsproxy");
    assert!(refused(mixed, options(100.0)).contains("wsproxy: 2 (run_50"));
    let mut mixed = points();
    mixed[0].tokens_per_query = Some(18.0);
    let error = refused(mixed, options(100.0));
    assert!(error.contains("tokens per answer: 18.0 (run_50_summary.json), 50.0"), "{error}");
    assert!(!error.contains("--where"), "the number of tokens is no condition");
    let mut unusable = points();
    unusable.push(Point { unusable: Some("INVALID".into()), conditions: [].into(), ..point(500.0) });
    assert!(guide(unusable, options(100.0)).is_ok(), "a point that is not used may differ");
}

#[test]
fn a_ceiling_limits_what_was_full() {
    let ceiling = |users| {
        let ceiling = MeasuredCeiling { users, sources: vec!["search".to_owned()], limited_by: None };
        let guide = guide(points(), Options { ceilings: vec![ceiling], ..options(100.0) }).unwrap();
        let hard = guide.limits.iter().map(|limits| limits.hard.unwrap().users).collect::<Vec<_>>();
        (guide.ceiling_of.unwrap(), hard)
    };
    let (of, hard) = ceiling(380.0);
    assert_eq!(of, CeilingOf::Unknown);
    assert_eq!(hard, [380.0, 380.0, 380.0, 380.0, 190.0], "two gateways share the users");
    let mut broken = points();
    broken[6].verdict = "FAIL".to_owned();
    for used in broken[6].roles.values_mut() {
        used.cores = Some(0.4);
    }
    let four_cores =
        || Options { machine: Machine { cores: Some(4.0), ..Machine::default() }, ..options(100.0) };
    let full = guide(broken.clone(), four_cores()).unwrap();
    assert_eq!(full.ceiling.as_ref().unwrap().users, 300.0);
    broken[5].roles.get_mut("redis").unwrap().cores = Some(0.95);
    let redis = guide(broken.clone(), four_cores()).unwrap();
    assert_eq!(redis.ceiling_of, Some(CeilingOf::Roles(vec!["redis".to_owned()])));
    broken[5].roles.get_mut("client").unwrap().cores = Some(2.5);
    let machine = guide(broken, four_cores()).unwrap();
    assert_eq!(machine.ceiling_of, Some(CeilingOf::Machine));
    assert!(
        machine.warnings.iter().any(|text| text.contains("full from 300 users on")),
        "{:?}",
        machine.warnings
    );
}

#[test]
fn an_overload_does_not_show_what_a_user_costs() {
    let exact = guide_for(100.0).costs;
    let mut overloaded = points();
    let mut worse = point(800.0);
    worse.tokens_per_s *= 0.5;
    for used in worse.roles.values_mut() {
        used.cores = Some(0.3);
    }
    overloaded.insert(0, worse);
    let guide = guide(overloaded, Options { hold_out: HoldOut::Latest, ..options(100.0) }).unwrap();
    assert_eq!((guide.cost_points, guide.used().count()), (7, 8));
    assert_eq!(guide.ceiling.as_ref().unwrap().users, 400.0, "users had to wait at 800");
    let warning =
        "At 800 users, the users had to wait, although the observed processes used only 1.50 of 2 cores";
    assert!(guide.warnings.iter().any(|text| text.contains(warning)), "{:?}", guide.warnings);
    for (role, exact) in guide.costs.iter().zip(exact) {
        let (found, exact) = (role.cores.unwrap().line, exact.cores.unwrap().line);
        assert!((found.slope - exact.slope).abs() < 1e-9, "{found:?} {exact:?}");
    }
}

#[test]
fn a_line_that_predicts_too_little_is_named() {
    let mut points = points();
    points[6].roles.get_mut("redis").unwrap().cores = Some(0.52);
    let guide = guide(points, options(100.0)).unwrap();
    // The line predicts 0.02 + 0.0006 * 400 = 0.26 cores.
    let warning = "The line for the CPU of redis predicts 50 % too little at the held-out load.";
    assert!(guide.warnings.iter().any(|text| text == warning), "{:?}", guide.warnings);
}

#[test]
fn an_embedded_stack_is_one_process() {
    let embedded: Vec<Point> = points()
        .into_iter()
        .map(|mut point| {
            point.roles.retain(|role, _| role == "client");
            point.conditions.insert("embedded".into(), "yes".into());
            point
        })
        .collect();
    let guide = guide(embedded, options(100.0)).unwrap();
    assert!(guide.is_embedded() && guide.plans[0].parts.len() == 1);
    assert!(guide.warnings.iter().any(|text| text.contains("streamstress stack up")));
}

#[test]
fn a_stack_that_was_not_observed_gives_no_guide() {
    let only_the_generator = points().into_iter().map(|mut point| {
        point.roles.retain(|role, _| role == "client");
        point
    });
    let why = refused(only_the_generator.collect(), options(100.0));
    assert!(why.contains("no process of its stack was observed"), "{why}");
    assert_eq!(Refused::NoFit.to_string().matches("throughput").count(), 1);
}

#[test]
fn a_role_without_a_cost_is_not_planned_as_one_process() {
    let without_cpu = points().into_iter().map(|mut point| {
        point.roles.get_mut("redis").unwrap().cores = None;
        point
    });
    let guide = guide(without_cpu.collect(), options(100_000.0)).unwrap();
    assert_eq!(guide.plans[0].unknown, ["redis"]);
    assert!(guide.plans[0].parts.iter().all(|part| part.role != "redis"));
    assert!(guide.warnings.iter().any(|text| text.contains("What a process of redis costs is not known")));
}

#[test]
fn a_load_that_was_measured_twice_is_held_out_twice() {
    let mut twice = points();
    twice.extend(points());
    let guide = guide(twice, options(100.0)).unwrap();
    assert_eq!(guide.held_out.len(), 2);
    assert!(guide.points.iter().all(|point| point.users < guide.held_out[0].users));
}

#[test]
fn a_ceiling_below_all_loads_is_not_said_to_lie_above() {
    let broken = points().into_iter().map(|point| Point { verdict: "FAIL".into(), ..point });
    let guide = guide(broken.collect(), options(100.0)).unwrap();
    assert!(
        guide.warnings.iter().any(|text| text.starts_with("No load held below ")),
        "{:?}",
        guide.warnings
    );
    assert!(!guide.warnings.iter().any(|text| text.starts_with("No load was too high")));
}
