//! Uses every HAProxy of the native stack if the run names no URL.

use crate::config::Config;
use plan::Target;
use settings::address::Address;
use stack::native::{HaproxyStatus, Status};
use url::Url;

/// Replaces the default URLs by those of all HAProxies that run, if the native stack listens at the default URLs and has several.
/// Takes five seconds at most.
pub(crate) fn find(config: &mut Config) {
    if config.embedded || !config.has_default_urls {
        return;
    }
    // Without a native stack, the target may be a Compose stack or something else.
    if let Ok(status) = stack::inventory::native_status(config.plan.faults.stack.as_deref()) {
        use_all(&mut config.plan.target, &status);
    }
}

fn use_all(target: &mut Target, status: &Status) {
    let parsed = |haproxy: &HaproxyStatus| -> Option<(Url, Url)> {
        Some((haproxy.api_url.parse().ok()?, haproxy.ws_url.parse().ok()?))
    };
    let first = status.haproxies.first().and_then(parsed);
    if status.haproxies.len() < 2 || first != Some((target.api.url().clone(), target.ws.url().clone())) {
        return;
    }
    let runs = |haproxy: &&HaproxyStatus| {
        status.processes.iter().any(|process| process.name == haproxy.name && process.state == "ready")
    };
    let urls = status.haproxies.iter().filter(runs).filter_map(parsed);
    let mut addresses = urls.map(|(api, ws)| (Address::new(api), Address::new(ws)));
    if let Some((api, ws)) = addresses.next() {
        (target.api, target.ws) = (api, ws);
        (target.more_api, target.more_ws) = addresses.unzip();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::RunArgs;
    use serde_json::json;

    fn status(ports: &[(u16, &str)]) -> Status {
        let name = |index: usize| format!("haproxy-{}", index + 1);
        let haproxy = |(index, (port, _)): (usize, &(u16, &str))| {
            json!({
                "name": name(index),
                "api_url": format!("http://127.0.0.1:{port}"),
                "ws_url": format!("ws://127.0.0.1:{}", port + 1),
                "stats_url": "http://127.0.0.1:1",
            })
        };
        let process = |(index, (_, state)): (usize, &(u16, &str))| json!({ "name": name(index), "pid": 1, "port": null, "state": state, "log": "/x" });
        let status = json!({
            "api_url": "", "ws_url": "", "stats_url": "",
            "haproxies": ports.iter().enumerate().map(haproxy).collect::<Vec<_>>(),
            "processes": ports.iter().enumerate().map(process).collect::<Vec<_>>(),
        });
        serde_json::from_value(status).unwrap()
    }

    fn used(ports: &[(u16, &str)]) -> (Vec<u16>, Vec<u16>) {
        let mut target = Config::new(RunArgs::default(), 2, 1).unwrap().plan.target;
        use_all(&mut target, &status(ports));
        let port = |address: &Address| address.url().port().unwrap();
        let all = |first: &Address, more: &[Address]| [first].into_iter().chain(more).map(port).collect();
        (all(&target.api, &target.more_api), all(&target.ws, &target.more_ws))
    }

    #[test]
    fn all_that_run_are_used() {
        assert_eq!(used(&[(8080, "ready"), (8090, "ready")]), (vec![8080, 8090], vec![8081, 8091]));
        let first_is_down = [(8080, "ended: signal 9"), (8090, "ready"), (8100, "ready")];
        assert_eq!(used(&first_is_down), (vec![8090, 8100], vec![8091, 8101]));
    }

    #[test]
    fn the_default_urls_stay_if_the_stack_has_others_or_only_one() {
        let unchanged = (vec![8080], vec![8081]);
        for ports in [
            &[(8080, "ready")][..],
            &[(9080, "ready"), (9090, "ready")],
            &[(8080, "paused"), (8090, "ended: signal 9")],
            &[],
        ] {
            assert_eq!(used(ports), unchanged, "{ports:?}");
        }
    }

    #[test]
    fn urls_of_the_user_are_kept() {
        let has_default = |args| Config::new(args, 2, 1).unwrap().has_default_urls;
        assert!(has_default(RunArgs::default()));
        assert!(!has_default(RunArgs {
            api_url: vec!["http://127.0.0.1:8080".into()],
            ..RunArgs::default()
        }));
        assert!(!has_default(RunArgs {
            wsproxy_url: vec!["ws://127.0.0.1:8081".into()],
            ..RunArgs::default()
        }));
    }
}
