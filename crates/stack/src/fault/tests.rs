//! Tests of the text form: tables of valid and invalid faults, and a round trip over all values.

use super::*;
use crate::{role::Role, scaling::Counts};
use proptest::prelude::*;
use std::time::Duration;

fn fault(text: &str) -> Fault {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn faults_are_read_and_written_the_same() {
    for text in [
        "server-1:kill",
        "wsproxy-12:stop",
        "servers:restart",
        "wsproxies:drain",
        "wsproxies:scale=6",
        "servers:scale=1",
        "wsproxies:scale=3..6",
        "servers:scale=6..2",
        "wsproxy-any:kill",
        "server-any:start",
        "redis:restart",
        "redis:restart=keep",
        "redis:restart=empty",
        "redis:restart=rollback",
        "redis:pause",
        "redis:pause=5s",
        "redis:resume",
        "redis:cut-pubsub",
        "redis:refuse=300ms",
        "redis:demote=3s",
        "redis:full=3s",
        "haproxy:reload",
        "haproxy:restart",
        "haproxy-1:kill",
        "haproxy-12:reload",
        "haproxy-any:pause=5s",
        "link:wsproxy-1:delay=50ms",
        "link:servers:jitter=20ms",
        "link:redis/wsproxy-1:half-open=10s",
        "link:redis/server-any:cut",
        "link:ws:reset",
        "link:api:slow",
        "link:api:slow=10s",
        "link:api:heal",
    ] {
        assert_eq!(fault(text).to_string(), text);
        let wire = serde_json::to_string(&fault(text)).unwrap();
        assert_eq!(wire, format!("{text:?}"));
        assert_eq!(serde_json::from_str::<Fault>(&wire).unwrap(), fault(text));
    }
    assert_eq!(
        fault("wsproxy-1:kill"),
        Fault { target: Target::Instance(Role::Wsproxy, InstanceSelector::Number(1)), action: Action::Kill }
    );
    assert_eq!(fault("wsproxy:scale=6"), fault("wsproxies:scale=6"), "as in `stack scale wsproxy=6`");
    assert_eq!(fault(" redis:pause=1m30s ").action, Action::Pause(Some(Duration::from_secs(90))));
}

#[test]
fn errors_name_the_valid_forms() {
    for (text, hint) in [
        ("", "wsproxy-1:kill"),
        ("wsproxy-1", "TARGET:ACTION"),
        ("link:wsproxy-1", "delay=50ms"),
        ("gateway-1:kill", "wsproxy-2"),
        ("wsproxy-0:kill", "wsproxy-2"),
        ("wsproxy-01:kill", "wsproxy-2"),
        ("wsproxy-99999:kill", "wsproxy-2"),
        ("link:redis:cut", "link:redis/wsproxy-1"),
        ("redis:explode", "cut-pubsub"),
        ("wsproxy:scale", "scale=6"),
        ("wsproxy:scale=many", "scale=6"),
        ("wsproxy:scale=3..3", "two different numbers"),
        ("wsproxy:scale=3..", "scale=3..6"),
        ("wsproxy-1:scale=3", "pause=5s"),
        ("wsproxy:kill", "wsproxies"),
        ("redis:restart=half", "restart=rollback"),
        ("wsproxy-1:restart=keep", "pause=5s"),
        ("wsproxy-1:cut-pubsub", "pause=5s"),
        ("redis:reload", "cut-pubsub"),
        ("haproxy-0:kill", "haproxy-2"),
        ("haproxy-01:kill", "haproxy-2"),
        ("haproxies:kill", "haproxy-2"),
        ("haproxy-2:restart=keep", "reload"),
        ("redis:refuse", "refuse=300ms"),
        ("redis:demote=0s", "500ms"),
        ("server-1:full=3s", "pause=5s"),
        ("redis:delay=5s", "cut-pubsub"),
        ("link:ws:kill", "half-open=10s"),
        ("link:ws:delay", "delay=50ms"),
        ("redis:kill=5s", "takes no value"),
        ("redis:pause=", "500ms"),
        ("redis:pause=5", "500ms"),
        ("redis:pause=0s", "500ms"),
        ("redis:pause=2m61m", "500ms"),
        ("redis:pause=61m", "500ms"),
        ("redis:pause=-5s", "500ms"),
        ("redis:pause=99999999999999999999s", "500ms"),
    ] {
        let message = text.parse::<Fault>().expect_err(text).to_string();
        assert!(message.contains(hint), "{text:?}: {message}");
    }
}

fn selector() -> impl Strategy<Value = InstanceSelector> {
    prop_oneof![
        (1..=u16::MAX).prop_map(InstanceSelector::Number),
        Just(InstanceSelector::Any),
        Just(InstanceSelector::All)
    ]
}

fn target() -> impl Strategy<Value = Target> {
    let role = || prop_oneof![Just(Role::Server), Just(Role::Wsproxy)];
    prop_oneof![
        (role(), selector()).prop_map(|(role, selector)| Target::Instance(role, selector)),
        Just(Target::Redis),
        selector().prop_map(Target::Haproxy),
        (role(), selector()).prop_map(|(role, selector)| Target::Link(Link::Instance(role, selector))),
        (role(), selector()).prop_map(|(role, selector)| Target::Link(Link::Redis(role, selector))),
        Just(Target::Link(Link::Ws)),
        Just(Target::Link(Link::Api)),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let duration = || (1..=3_600_000_u64).prop_map(Duration::from_millis);
    let data = prop_oneof![Just(RestartData::Keep), Just(RestartData::Empty), Just(RestartData::Rollback)];
    prop_oneof![
        Just(Action::Kill),
        Just(Action::Stop),
        Just(Action::Start),
        proptest::option::of(data).prop_map(Action::Restart),
        Just(Action::Drain),
        (1..=64_u16).prop_map(Counts::at_once).prop_map(Action::Scale),
        (1..=32_u16, 33..=64_u16).prop_map(|(to, from)| Action::Scale(Counts { from: Some(from), to })),
        proptest::option::of(duration()).prop_map(Action::Pause),
        Just(Action::Resume),
        Just(Action::CutPubsub),
        Just(Action::Reload),
        duration().prop_map(Action::Delay),
        duration().prop_map(Action::Jitter),
        Just(Action::Cut),
        Just(Action::Reset),
        duration().prop_map(Action::HalfOpen),
        proptest::option::of(duration()).prop_map(Action::Slow),
        Just(Action::Heal),
    ]
}

proptest! {
    #[test]
    fn valid_combinations_round_trip_and_others_are_refused(target in target(), action in action()) {
        let fault = Fault { target, action };
        match fault.to_string().parse::<Fault>() {
            Ok(read) => {
                prop_assert!(action.applies_to(&target));
                prop_assert_eq!(read, fault);
            }
            Err(_) => prop_assert!(!action.applies_to(&target)),
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
        if let Ok(fault) = text.parse::<Fault>() {
            prop_assert_eq!(fault.to_string().parse::<Fault>(), Ok(fault));
        }
    }
}
