//! What only the unix form has: a parent process and its socket.

mod support;

use coordination::{
    ClaimError, Command, Coordinator as _, Timing,
    unix::{Child, Parent},
};
use std::{
    io::Write as _,
    thread,
    time::{Duration, Instant},
};
use support::{
    PATIENCE, Place as _, UnixPlace, claim, claim_all, is_lost, losses, next, process::Process, run,
    start_all, start_process, timing, until,
};

/// The parent of a run, which does nothing until it is killed.
#[test]
#[ignore = "other tests start it as a process"]
fn parent_process() {
    let path = std::env::var("TEST_SOCKET").expect("the test that started this sets it");
    let _leadership = Parent::listen(path.as_ref(), &run(2), timing()).expect("the parent listens");
    let mut out = std::io::stdout();
    writeln!(out, "\nlistening").and_then(|()| out.flush()).expect("the test reads this");
    thread::sleep(PATIENCE);
}

/// The process of a generator. Other tests start it.
#[test]
#[ignore = "other tests start it as a process"]
fn generator_process() {
    support::be_a_generator();
}

#[test]
fn a_killed_child_is_lost_at_once() {
    // No heartbeat is missed within this test.
    let slow = Timing { heartbeat: PATIENCE, ..timing() };
    let mut place = UnixPlace::with(&run(2), slow);
    let mut claimed = vec![claim(&place, &run(2), "here").expect("a free shard")];
    let mut process = start_process(&place, 2, 1);
    start_all(&claimed);
    process.expect("started");
    let leadership = place.leadership(&mut claimed);
    process.kill();
    let killed = Instant::now();
    let events = until(&leadership.events, is_lost);
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    assert_eq!(losses(&events), [(1, "its connection closed: it ended without a result")]);
}

#[test]
fn the_death_of_the_parent_ends_its_children() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("parent.sock");
    let mut parent = Process::start("parent_process", &[("TEST_SOCKET", path.display().to_string())]);
    parent.expect("listening");
    let child = Child::new(&path, timing());
    let claimed: Vec<_> =
        (0..2).map(|shard| child.claim(&run(2), "here", Some(shard)).expect("a free shard")).collect();
    start_all(&claimed);
    parent.kill();
    for one in &claimed {
        let Command::Abort(reason) = next(&one.commands) else { panic!("the parent sent nothing") };
        assert!(reason.contains("the parent process ended"), "{reason}");
        one.commands.recv_timeout(PATIENCE).expect_err("nothing follows");
        let error = one.generator.finish(Vec::new(), PATIENCE).expect_err("there is no leader");
        assert!(error.to_string().contains("merge this generator's files instead"), "{error}");
        assert_eq!(one.generator.verdict(PATIENCE), None);
    }
}

#[test]
fn a_parent_that_ends_before_the_start_ends_the_barrier() {
    let mut place = UnixPlace::open(&run(2));
    let claimed = place.coordinator().claim(&run(2), "here", None).expect("a free shard");
    let leadership = place.leadership(&mut []);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| claimed.generator.ready(PATIENCE, &mut |_| true));
        thread::sleep(Duration::from_millis(50));
        drop(leadership);
        let error = waiting.join().expect("no panic").expect_err("there is no parent");
        assert!(error.to_string().contains("before the start"), "{error}");
    });
}

#[test]
fn the_socket_is_removed_with_its_leader() {
    let mut place = UnixPlace::open(&run(1));
    let error = Parent::listen(place.path(), &run(1), timing()).expect_err("the path is in use");
    assert!(error.to_string().contains("expected an unused path"), "{error}");
    assert!(place.path().exists());
    drop(place.leadership(&mut []));
    assert!(!place.path().exists());
    let error = place.coordinator().claim(&run(1), "late", None).expect_err("there is no socket");
    assert!(matches!(error, ClaimError::Unreachable { .. }), "{error}");
    let path = place.path().display().to_string();
    assert!(error.to_string().starts_with(&format!("cannot reach {path}")), "{error}");
}

#[test]
fn the_verdict_arrives_although_the_parent_ends_at_once() {
    let mut place = UnixPlace::open(&run(2));
    let mut claimed = claim_all(&place, &run(2));
    let leadership = place.leadership(&mut claimed);
    start_all(&claimed);
    for one in &claimed {
        one.generator.finish(Vec::new(), PATIENCE).expect("the parent takes it");
    }
    leadership.leader.conclude(b"FAIL".to_vec(), PATIENCE).expect("it is sent");
    drop(leadership);
    for one in &claimed {
        assert_eq!(one.generator.verdict(PATIENCE), Some(b"FAIL".to_vec()));
    }
}
