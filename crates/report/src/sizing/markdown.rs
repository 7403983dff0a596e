//! A guide as Markdown: what to plan first, then the limits, the costs, the law, and the points behind them.

use super::{
    evidence::evidence,
    figures::{basis, cell, percent, point as named_point, processes, role, short, whole},
    layout::{line, named, table},
};
use measure::sizing::{
    costs::{CeilingOf, Limits, RoleCosts, Users},
    guide::Guide,
    plan::{Part, Plan},
    point::GENERATOR,
};

/// Descriptors of HAProxy per WebSocket: one to the client, one to the gateway.
const SOCKETS: f64 = 2.0;

/// Returns the guide as a Markdown document.
#[must_use]
pub fn markdown(guide: &Guide) -> String {
    let mut out = String::from("# Sizing guide\n\n");
    introduction(&mut out, guide);
    plans(&mut out, guide);
    if !guide.warnings.is_empty() {
        out.push_str("\n**Read this first:**\n\n");
        guide.warnings.iter().for_each(|warning| line(&mut out, &format!("- {}", cell(warning))));
    }
    guide.plans.iter().for_each(|plan| details(&mut out, guide, plan));
    limits(&mut out, guide);
    evidence(&mut out, guide);
    out.push_str(NOTES);
    out
}

const NOTES: &str = "
## How to read this page
- **measured**: a run had this load, within 5 %. **interpolated**: between two runs. **extrapolated 2.5×**: 2.5 times the highest measured
  load, so a guess. What breaks at a higher load was not seen.
- CPU is a mean over seconds, so the headroom must also carry bursts, reconnects after a failure, and sessions that spread unevenly.
- Redis keeps the log of a session until it is closed or expires, so its memory also depends on how long the runs last.
- Memory is the highest resident memory. Memory of sockets in the kernel is not in it. A process may keep memory of an earlier, higher load:
  measure in the order of rising loads, or start the stack again.
- To survive the loss of one process, plan one more gateway, server and HAProxy.
- The figures hold for this workload on this type of machine. Other answers, think times or rollups need other measurements.
";

fn introduction(out: &mut String, guide: &Guide) {
    let [least, most] = guide.measured_users.map(whole);
    let count = guide.used().count();
    line(
        out,
        &format!(
            "`streamstress sizing` {} made this page from {count} measured points with {least} to {most} concurrent users.",
            env!("CARGO_PKG_VERSION")
        ),
    );
    let machine = if guide.machine.name.is_empty() { "not stated" } else { &guide.machine.name };
    line(out, &format!("\n- **Machine**: {}", cell(machine)));
    let tokens = guide.tokens_per_query.map(|tokens| format!("{tokens:.1} tokens per answer (mean)"));
    let conditions = guide.conditions.iter().filter(|(name, _)| *name != "machine");
    let conditions = conditions.map(|(name, value)| format!("{name} {value}"));
    let workload: Vec<_> = tokens.into_iter().chain(conditions).map(|text| cell(&text)).collect();
    line(out, &format!("- **Workload**: {}", workload.join("; ")));
    if !guide.is_embedded() {
        let stack: Vec<_> = guide
            .costs
            .iter()
            .filter(|role| role.role != GENERATOR)
            .map(|role| format!("{} {}", named(guide, &role.role), processes(role.instances)))
            .collect();
        line(out, &format!("- **Processes of the stack**: {}", stack.join(", ")));
    }
    line(out, &format!("- **Headroom**: {} of every limit stays free", percent(guide.headroom)));
}

fn plans(out: &mut String, guide: &Guide) {
    line(out, "\n## What to plan\n");
    let roles: Vec<&str> =
        guide.plans.first().into_iter().flat_map(|plan| &plan.parts).map(|part| part.role.as_str()).collect();
    let names = roles.iter().map(|&name| plural(guide, name));
    let titles: Vec<String> = std::iter::once("users".to_owned())
        .chain(names)
        .chain(["CPU, cores", "memory, MB", "machines", "tokens/s asked for", "basis"].map(str::to_owned))
        .collect();
    let row = |plan: &Plan| {
        let count = |name: &&str| {
            let part = plan.parts.iter().find(|part| part.role == *name);
            part.map_or_else(|| "-".to_owned(), |part| part.instances.to_string())
        };
        let machines = plan.machines.map_or_else(|| "-".to_owned(), |machines| machines.to_string());
        std::iter::once(whole(plan.users))
            .chain(roles.iter().map(count))
            .chain([
                short(Some(plan.cores)),
                whole(plan.rss_mb),
                machines,
                whole(plan.tokens_per_s),
                basis(plan.basis),
            ])
            .collect()
    };
    table(out, &titles.iter().map(String::as_str).collect::<Vec<_>>(), guide.plans.iter().map(row));
    line(
        out,
        "\nCPU and memory are what the processes use. The machines have the headroom besides, and no load generator.",
    );
}

fn plural(guide: &Guide, name: &str) -> String {
    match name {
        "wsproxy" => "gateways".to_owned(),
        "server" => "servers".to_owned(),
        "haproxy" => "HAProxies".to_owned(),
        GENERATOR if guide.is_embedded() => "embedded stacks".to_owned(),
        other => role(other).to_owned(),
    }
}

fn details(out: &mut String, guide: &Guide, plan: &Plan) {
    line(out, &format!("\n### {} users ({})\n", whole(plan.users), basis(plan.basis)));
    let row = |part: &Part| {
        let share =
            part.cpu_share.map(|share| format!(" ({} of its threads)", percent(share))).unwrap_or_default();
        vec![
            named(guide, &part.role),
            part.instances.to_string(),
            whole(part.users_each),
            format!("{}{share}", short(part.cores_each)),
            part.rss_mb_each.map_or_else(|| "-".to_owned(), whole),
            part.descriptors_each.map_or_else(|| "-".to_owned(), whole),
            part.descriptor_limit.map_or_else(|| "-".to_owned(), whole),
            basis(part.basis),
        ]
    };
    let titles = [
        "role",
        "processes",
        "users each",
        "CPU each, cores",
        "memory each, MB",
        "descriptors each",
        "limit of open files to set",
        "basis",
    ];
    table(out, &titles, plan.parts.iter().map(row));
    if let Some(part) = plan.parts.iter().find(|part| part.role == "haproxy") {
        haproxy(out, part);
    }
}

/// Explains the limits of an HAProxy. HAProxy derives `maxconn` from its descriptors, so no `maxconn` is given.
fn haproxy(out: &mut String, part: &Part) {
    let Some(limit) = part.descriptor_limit else {
        let sockets = whole(part.users_each * SOCKETS);
        line(
            out,
            &format!(
                "\nHAProxy: descriptors were not measured. {} users take two sockets each, {sockets} descriptors, besides those of HTTP calls.",
                whole(part.users_each)
            ),
        );
        return;
    };
    line(
        out,
        &format!(
            "\nHAProxy needs a limit of open files of {0} or more (`NOFILE` of Compose and Swarm), and a `HAPROXY_FD_LIMIT` (200,000 by default) that is not \
             lower. Do not set `maxconn`: HAProxy derives it from these limits, about {1} connections.",
            whole(limit),
            whole(limit / SOCKETS)
        ),
    );
}

fn limits(out: &mut String, guide: &Guide) {
    line(out, "\n## Limits of one process\n");
    line(
        out,
        &format!(
            "Soft: {} of its threads or of the measured ceiling. Plan with it. Hard: at this number of users it is full.\n",
            percent(1.0 - guide.headroom)
        ),
    );
    let row = |(limits, costs): (&Limits, &RoleCosts)| {
        let users = |users: Option<Users>| {
            users.map_or_else(
                || "-".to_owned(),
                |users| format!("{} ({})", whole(users.users), basis(users.basis)),
            )
        };
        vec![
            named(guide, &limits.role),
            format!("{}", costs.threads),
            users(limits.soft),
            users(limits.hard),
            limits.reason.clone(),
        ]
    };
    let rows = guide.limits.iter().zip(&guide.costs).map(row);
    table(out, &["role", "threads", "soft limit, users", "hard limit, users", "the hard limit is"], rows);
    line(out, "");
    line(out, &ceiling(guide));
}

fn ceiling(guide: &Guide) -> String {
    let Some(ceiling) = &guide.ceiling else {
        return "No ceiling was measured.".to_owned();
    };
    let by = ceiling.limited_by.as_ref().map(|by| format!(", limited by {}", cell(by))).unwrap_or_default();
    let of = match &guide.ceiling_of {
        Some(CeilingOf::Machine) => {
            "The CPU of the machine was full, so this is a limit of the machine with its load generator, and not of one role.".to_owned()
        }
        Some(CeilingOf::Roles(roles)) => {
            let names: Vec<_> = roles.iter().map(|name| named(guide, name)).collect();
            format!("Full at that load: {}.", names.join(", "))
        }
        Some(CeilingOf::Unknown) | None => {
            "Nothing that was observed was full, so it limits every role here.".to_owned()
        }
    };
    let sources: Vec<_> = ceiling.sources.iter().map(|name| named_point(name)).collect();
    let source = match sources.as_slice() {
        [held, broke] => format!("{held} held, {broke} did not"),
        others => others.join(", "),
    };
    format!("Measured ceiling of the whole stack: **{} users**{by} ({source}). {of}", whole(ceiling.users))
}
