//! The grammar: tables of what is a fault and what is not, and a round trip over all of it.

use super::*;
use crate::native::Role;
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
        Fault { target: Target::Instance(Role::Wsproxy, Which::Number(1)), action: Action::Kill }
    );
    assert_eq!(fault(" redis:pause=1m30s ").action, Action::Pause(Some(Duration::from_secs(90))));
}

#[test]
fn what_is_no_fault_is_told_what_would_be_one() {
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
        ("redis:restart=half", "restart=rollback"),
        ("wsproxy-1:restart=keep", "pause=5s"),
        ("wsproxy-1:cut-pubsub", "pause=5s"),
        ("redis:reload", "cut-pubsub"),
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
        let told = text.parse::<Fault>().expect_err(text).to_string();
        assert!(told.contains(hint), "{text:?}: {told}");
    }
}

#[test]
fn places_are_found_by_name() {
    assert_eq!(Place::find(Some("compose")).unwrap(), Place::Compose { project: None });
    let project = Some("load".to_owned());
    assert_eq!(Place::find(Some("compose:load")).unwrap(), Place::Compose { project });
    assert_eq!(Place::find(Some("/tmp/x")).unwrap(), Place::Native("/tmp/x".into()));
    for text in ["", "a b", "compose:", "compose:-;x"] {
        assert!(Place::find(Some(text)).is_err(), "{text:?}");
    }
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![(1..=u16::MAX).prop_map(Which::Number), Just(Which::Any), Just(Which::All)]
}

fn target() -> impl Strategy<Value = Target> {
    let role = || prop_oneof![Just(Role::Server), Just(Role::Wsproxy)];
    prop_oneof![
        (role(), which()).prop_map(|(role, which)| Target::Instance(role, which)),
        Just(Target::Redis),
        Just(Target::Haproxy),
        (role(), which()).prop_map(|(role, which)| Target::Link(Link::Instance(role, which))),
        (role(), which()).prop_map(|(role, which)| Target::Link(Link::Redis(role, which))),
        Just(Target::Link(Link::Ws)),
        Just(Target::Link(Link::Api)),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let span = || (1..=3_600_000_u64).prop_map(Duration::from_millis);
    let memory = prop_oneof![Just(Memory::Keep), Just(Memory::Empty), Just(Memory::Rollback)];
    prop_oneof![
        Just(Action::Kill),
        Just(Action::Stop),
        Just(Action::Start),
        proptest::option::of(memory).prop_map(Action::Restart),
        Just(Action::Drain),
        proptest::option::of(span()).prop_map(Action::Pause),
        Just(Action::Resume),
        Just(Action::CutPubsub),
        Just(Action::Reload),
        span().prop_map(Action::Delay),
        span().prop_map(Action::Jitter),
        Just(Action::Cut),
        Just(Action::Reset),
        span().prop_map(Action::HalfOpen),
        proptest::option::of(span()).prop_map(Action::Slow),
        Just(Action::Heal),
    ]
}

proptest! {
    #[test]
    fn what_fits_together_goes_round_and_nothing_else_is_read(target in target(), action in action()) {
        let fault = Fault { target, action };
        match fault.to_string().parse::<Fault>() {
            Ok(read) => {
                prop_assert!(action.fits(&target));
                prop_assert_eq!(read, fault);
            }
            Err(_) => prop_assert!(!action.fits(&target)),
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
        if let Ok(fault) = text.parse::<Fault>() {
            prop_assert_eq!(fault.to_string().parse::<Fault>(), Ok(fault));
        }
    }
}
