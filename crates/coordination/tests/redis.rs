//! What only the control Redis has: outages, loss of data, a leader that dies, and results that stay.

mod support;

use coordination::{
    BarrierError, ClaimError, Claimed, Command, Coordinator as _, Event, Generator, Leadership, Timing,
    redis::{CollectError, Control},
};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};
use support::{
    PATIENCE, Place as _, RedisPlace, Team, claim, claim_all, dropped, during, is_lost, losses, next, number,
    parts, rest, run, start_all, start_process, start_with_process, timing, until, wait_until,
};

/// Twenty heartbeats, as ten seconds are with the default durations.
const OUTAGE: Duration = Duration::from_secs(3);

/// The process of a generator. Other tests start it.
#[test]
#[ignore = "other tests start it as a process"]
fn generator_process() {
    support::be_a_generator();
}

/// Sends numbered parts until `stop`. Returns their number.
fn send_until(generator: &dyn Generator, stop: &AtomicBool) -> u64 {
    let mut part = 0;
    while !stop.load(Ordering::Relaxed) {
        part += 1;
        generator.send(number(part)).expect("it is small");
        thread::sleep(Duration::from_millis(10));
    }
    generator.finish(Vec::new(), PATIENCE).expect("the control Redis takes it");
    part
}

/// Sends parts from two generators during an outage. Returns the number of parts of each, and all events.
fn through_outage(
    mut team: Team<RedisPlace>,
    outage: impl FnOnce(&mut RedisPlace) + Send,
) -> ([u64; 2], Vec<Event>, Vec<u64>) {
    let stop = AtomicBool::new(false);
    let Team { claimed, leadership, place } = &mut team;
    let (sent, events) = thread::scope(|scope| {
        let sending = [0, 1].map(|shard| {
            let (generator, stop) = (&*claimed[shard].generator, &stop);
            scope.spawn(move || send_until(generator, stop))
        });
        let events = &leadership.events;
        let mut seen = during(events, Duration::from_millis(500));
        outage(place);
        seen.extend(during(events, timing().calm * 2));
        stop.store(true, Ordering::Relaxed);
        let sent = sending.map(|one| one.join().expect("no panic"));
        seen.extend(rest(events));
        (sent, seen)
    });
    let dropped = claimed.iter().map(|one| one.generator.dropped()).collect();
    (sent, events, dropped)
}

fn is_exact(sent: [u64; 2], events: &[Event], counted: &[u64]) {
    assert_eq!(losses(events), []);
    assert_eq!(counted, [0, 0]);
    for (shard, sent) in (0..).zip(sent) {
        assert_eq!(dropped(events, shard), 0);
        assert_eq!(parts(events, shard), (1..=sent).collect::<Vec<_>>());
    }
}

#[test]
fn a_paused_redis_delays_parts_and_loses_nobody() {
    let (sent, events, counted) = through_outage(Team::start(2), |place| {
        place.redis.pause();
        thread::sleep(OUTAGE);
        place.redis.resume();
    });
    is_exact(sent, &events, &counted);
}

#[test]
fn a_redis_that_restarts_without_data_gets_everything_again() {
    let (sent, events, counted) = through_outage(Team::start(2), |place| {
        place.redis.kill();
        thread::sleep(OUTAGE);
        place.redis.launch();
    });
    is_exact(sent, &events, &counted);
}

#[test]
fn a_redis_that_restarts_twice_at_once_loses_nothing() {
    let (sent, events, counted) = through_outage(Team::start(2), |place| {
        for _ in 0..2 {
            place.redis.kill();
            place.redis.launch();
            thread::sleep(Duration::from_millis(300));
        }
    });
    is_exact(sent, &events, &counted);
}

#[test]
fn parts_that_waited_too_long_are_dropped_and_counted() {
    let short = Timing { buffer: Duration::from_secs(1), ..timing() };
    let run = run(2);
    let mut place = RedisPlace::with(short);
    let mut claimed = claim_all(&place, &run);
    start_all(&claimed);
    let leadership = place.leadership(&mut claimed);
    let (sent, events, counted) = through_outage(Team { claimed, leadership, place }, |place| {
        place.redis.pause();
        thread::sleep(OUTAGE);
        place.redis.resume();
    });
    assert_eq!(losses(&events), []);
    for (shard, sent) in (0..).zip(sent) {
        let (arrived, missing) = (parts(&events, shard), dropped(&events, shard));
        assert!(arrived.is_sorted_by(|a, b| a < b), "each once and in order");
        assert!(missing > 50, "{missing} parts of two seconds");
        assert_eq!(arrived.len() as u64 + missing, sent);
        // A part that was on its way when it became too old counts here and may still have arrived.
        let surplus = counted[shard as usize].checked_sub(missing);
        assert!(surplus.is_some_and(|surplus| surplus <= 16), "{counted:?} counted, {missing} missing");
    }
}

#[test]
fn after_an_outage_nobody_is_lost_for_a_while() {
    let (team, mut process) = start_with_process::<RedisPlace>(2);
    process.expect("part");
    team.until(|event| matches!(event, Event::Part { .. }));
    team.place.redis.pause();
    process.kill();
    let before = during(&team.leadership.events, OUTAGE);
    assert_eq!(losses(&before), [], "no poll succeeds");
    team.place.redis.resume();
    let back = Instant::now();
    let events = team.until(is_lost);
    let after = back.elapsed();
    assert!(after >= timing().calm && after < timing().calm + PATIENCE / 3, "lost after {after:?}");
    assert_eq!(losses(&events), [(1, "no heartbeat for 0.45 s")]);
}

#[test]
fn a_redis_that_never_comes_back_ends_the_events() {
    let short = Timing { give_up: Duration::from_millis(1500), ..timing() };
    let mut place = RedisPlace::with(short);
    let mut claimed = claim_all(&place, &run(2));
    start_all(&claimed);
    let leadership = place.leadership(&mut claimed);
    until(&leadership.events, |event| matches!(event, Event::Started { .. }));
    let collected = place.control.collect("test").expect("it has started");
    place.redis.kill();
    for events in [&leadership.events, &collected.leadership.events] {
        let events = rest(events);
        let lost = losses(&events);
        assert_eq!(lost.iter().map(|(shard, _)| *shard).collect::<Vec<_>>(), [0, 1]);
        assert!(lost[0].1.starts_with("the control Redis did not answer for 1.5 s: "), "{lost:?}");
    }
}

#[test]
fn who_reads_a_run_from_outside_declares_nobody_lost_while_it_goes_on() {
    let (team, mut process) = start_with_process::<RedisPlace>(2);
    process.expect("part");
    team.until(|event| matches!(event, Event::Part { .. }));
    // The leader's own connection is not needed for this: it may be slow to notice.
    process.freeze();
    let collected = team.place.control.collect("test").expect("it has started");
    let outside = until(&collected.leadership.events, is_lost);
    let inside = team.until(is_lost);
    assert_eq!(losses(&inside), [(1, "no heartbeat for 0.45 s")]);
    assert_eq!(losses(&outside), losses(&inside), "the leader marked it");
    process.thaw();
    drop(collected);
    team.claimed[0].generator.finish(Vec::new(), PATIENCE).expect("the control Redis takes it");
}

/// Starts three generators: processes for the lower shards, and the last one here.
fn with_processes(lower: u32) -> (RedisPlace, Vec<support::process::Process>, Claimed) {
    let run = run(lower + 1);
    let place = RedisPlace::with(timing());
    let mut processes: Vec<_> = (0..lower).map(|shard| start_process(&place, lower + 1, shard)).collect();
    let claimed = claim(&place, &run, "here").expect("a free shard");
    assert_eq!(claimed.shard, lower);
    claimed.generator.ready(PATIENCE, &mut |_| true).expect("all came");
    for process in &mut processes {
        process.expect("started");
    }
    processes[0].expect("leads");
    (place, processes, claimed)
}

fn taken_over(claimed: &Claimed) -> Leadership {
    claimed.leadership.recv_timeout(PATIENCE).expect("it is the lowest living shard")
}

#[test]
fn the_next_living_shard_takes_over_and_sees_everything() {
    let (_place, mut processes, claimed) = with_processes(2);
    assert_eq!(next(&claimed.commands), Command::Custom(b"first".to_vec()));
    assert_eq!(next(&claimed.commands), Command::Custom(b"second".to_vec()));
    for part in 1..=5 {
        claimed.generator.send(number(part)).expect("it is small");
    }
    for _ in 0..20 {
        processes[0].expect("part");
        processes[1].expect("part");
    }
    thread::sleep(timing().heartbeat);
    claimed.leadership.try_recv().expect_err("the first shard leads");
    // The second process would lead. It dies before it can.
    processes[0].kill();
    processes[1].kill();
    let leadership = taken_over(&claimed);
    leadership.leader.command(Command::Custom(b"third".to_vec())).expect("there is room");
    assert_eq!(next(&claimed.commands), Command::Custom(b"third".to_vec()), "the numbers go on");
    claimed.generator.finish(b"done".to_vec(), PATIENCE).expect("the control Redis takes it");
    let events = rest(&leadership.events);
    assert!(matches!(&events[0], Event::Claimed { shard: 0, host } if host == "process"), "{:?}", events[0]);
    assert!(matches!(events[3], Event::Started { .. }), "{:?}", events[3]);
    for shard in 0..2 {
        let arrived = parts(&events, shard);
        assert!(arrived.len() >= 15, "{arrived:?}");
        assert_eq!(arrived, (1..=arrived.len() as u64).collect::<Vec<_>>());
    }
    assert_eq!(parts(&events, 2), [1, 2, 3, 4, 5]);
    let mut lost = losses(&events);
    lost.sort_unstable();
    assert_eq!(lost, [(0, "no heartbeat for 0.45 s"), (1, "no heartbeat for 0.45 s")]);
    claimed.commands.recv_timeout(timing().heartbeat * 3).expect_err("each command arrives once");
}

#[test]
fn a_successor_reports_the_losses_that_its_predecessor_found() {
    let (_place, mut processes, claimed) = with_processes(2);
    processes[1].kill();
    // The leader notices the loss; then it dies, too.
    thread::sleep(timing().calm + timing().heartbeat * 8);
    processes[0].kill();
    let leadership = taken_over(&claimed);
    claimed.generator.finish(Vec::new(), PATIENCE).expect("the control Redis takes it");
    let mut lost: Vec<u32> = losses(&rest(&leadership.events)).iter().map(|(shard, _)| *shard).collect();
    lost.sort_unstable();
    assert_eq!(lost, [0, 1]);
}

#[test]
fn a_leader_that_was_frozen_is_replaced() {
    let (_place, mut processes, claimed) = with_processes(1);
    processes[0].freeze();
    let leadership = taken_over(&claimed);
    processes[0].thaw();
    assert_eq!(processes[0].expect("replaced"), "1");
    assert_eq!(processes[0].expect("conclude"), "another process leads the run, and gives the verdict");
    assert!(processes[0].expect("abort").contains("no heartbeat for 0.45 s"));
    let events = until(&leadership.events, is_lost);
    assert_eq!(losses(&events), [(0, "no heartbeat for 0.45 s")]);
    leadership.leader.conclude(b"INVALID".to_vec(), PATIENCE).expect("this process leads");
    assert_eq!(claimed.generator.verdict(PATIENCE), Some(b"INVALID".to_vec()));
}

#[test]
fn the_redis_of_a_stack_is_refused() {
    let place = RedisPlace::with(timing());
    let () = place.redis.query(&["SET", "bus:mark", "uuid:1"]);
    let error = claim(&place, &run(1), "here").expect_err("it belongs to a stack");
    assert!(matches!(&error, ClaimError::HoldsBus { mark, .. } if mark == "bus:mark"), "{error}");
    assert!(error.to_string().contains("use another Redis, or force it"), "{error}");
    assert_eq!(place.redis.query::<Vec<String>>(&["KEYS", "*"]), ["bus:mark"], "nothing was written");
    let other = place.control.clone().refuse_key(Some("test:bus:mark"));
    drop(other.claim(&run(1), "here", None).expect("this key does not exist"));
    // A stack with a name prefix, and a control Redis that is another database of the same server.
    let () = place.redis.query(&["RENAME", "bus:mark", "blue:bus:mark"]);
    let elsewhere = Control::new(&format!("{}?db=1", place.redis.url()), timing()).expect("a valid address");
    for control in [&place.control, &elsewhere] {
        let error = control.claim(&run(1), "here", None).expect_err("it belongs to a stack");
        assert!(matches!(&error, ClaimError::HoldsBus { mark, .. } if mark == "blue:bus:mark"), "{error}");
    }
    let forced = place.control.refuse_key(None);
    forced.claim(&run(1), "here", None).expect("it is forced");
}

#[test]
fn a_redis_that_may_belong_to_a_stack_is_refused() {
    let place = RedisPlace::with(timing());
    let () = place.redis.query(&["SET", "bus:mark", "uuid:1"]);
    // This user cannot see the key of the stack.
    let () = place.redis.query(&["ACL", "SETUSER", "limited", "on", ">secret", "+@all", "~streamstress:*"]);
    let url = format!("{}?user=limited&pass=secret", place.redis.url());
    let control = Control::new(&url, timing()).expect("a valid address");
    let error = control.claim(&run(1), "here", None).expect_err("it cannot be checked");
    assert!(
        matches!(&error, ClaimError::Unreachable { reason, .. } if reason.starts_with("NoPerm")),
        "{error}"
    );
    assert_eq!(place.redis.query::<Vec<String>>(&["KEYS", "*"]), ["bus:mark"], "nothing was written");
    control.refuse_key(None).claim(&run(1), "here", None).expect("it is forced");
}

#[test]
fn addresses_and_names_are_checked() {
    let place = RedisPlace::with(timing());
    let bad = coordination::Run { id: "a b".to_owned(), ..run(1) };
    let error = claim(&place, &bad, "here").expect_err("a space");
    assert_eq!(
        error.to_string(),
        "invalid run id \"a b\": expected 1 to 100 letters, digits, '-', '_' or '.'"
    );
    // Port 1 of this machine is closed.
    let closed = Control::new("redis://user:hunter2@127.0.0.1:1/0", timing()).expect("a valid address");
    let error = closed.claim(&run(1), "here", None).expect_err("nothing listens").to_string();
    assert!(error.starts_with("cannot reach 127.0.0.1:1 (") && !error.contains("hunter2"), "{error}");
    let error = Control::new("postgres://localhost", timing()).err().expect("not Redis").to_string();
    assert!(error.starts_with("invalid control Redis \"postgres://localhost\""), "{error}");
}

#[test]
fn a_run_that_never_started_does_not_block_its_name() {
    let place = RedisPlace::with(timing());
    let other = coordination::Run { fingerprint: "plan-b".to_owned(), ..run(2) };
    let first = claim(&place, &run(2), "here").expect("a free shard");
    claim(&place, &other, "here").expect_err("another plan");
    drop(first);
    drop(claim(&place, &other, "here").expect("the name is free again"));
    // The same after the death of a generator.
    let mut process = start_process(&place, 2, 0);
    process.kill();
    claim(&place, &other, "here").expect_err("another plan");
    thread::sleep(timing().claim_expiry * 2);
    claim(&place, &other, "here").expect("the name is free again");
}

#[test]
fn a_run_that_is_tried_again_has_all_its_parts() {
    let place = RedisPlace::with(timing());
    // A command of an earlier run whose hash has expired.
    let () = place.redis.query(&["XADD", "streamstress:{test}:commands", "7-0", "abort", "earlier"]);
    for gives_up in [true, false] {
        let mut claimed = claim_all(&place, &run(2));
        for one in &claimed {
            one.generator.send(number(if gives_up { 7 } else { 1 })).expect("it is small");
        }
        if gives_up {
            // The second one never becomes ready.
            let short = Duration::from_millis(300);
            let error = claimed[0].generator.ready(short, &mut |_| true).expect_err("one came").to_string();
            assert!(error.starts_with("1 of 2 generators came"), "{error}");
            // What was sent before is in Redis.
            thread::sleep(timing().heartbeat);
            claimed[0].commands.try_recv().expect_err("this run has no command");
            continue;
        }
        start_all(&claimed);
        let leadership = claimed[0].leadership.recv_timeout(PATIENCE).expect("the lowest shard leads");
        for one in claimed.drain(..) {
            one.generator.send(number(2)).expect("it is small");
            one.generator.finish(Vec::new(), PATIENCE).expect("the control Redis takes it");
        }
        let events = rest(&leadership.events);
        assert_eq!((parts(&events, 0), parts(&events, 1)), (vec![1, 2], vec![1, 2]));
    }
}

#[test]
fn who_gives_up_at_the_barrier_does_not_start_the_run() {
    let place = RedisPlace::with(timing());
    let claimed = claim_all(&place, &run(2));
    let error = claimed[0].generator.ready(Duration::ZERO, &mut |_| true).expect_err("one came");
    assert!(matches!(error, BarrierError::Incomplete { came: 1, .. }), "{error}");
    let error =
        claimed[1].generator.ready(Duration::from_millis(300), &mut |_| true).expect_err("one is left");
    assert!(matches!(error, BarrierError::Incomplete { came: 1, .. }), "{error}");
}

#[test]
fn a_clock_that_is_not_known_well_enough_is_refused() {
    let strict = Timing { clock_error: Duration::from_nanos(1), ..timing() };
    let place = RedisPlace::with(strict);
    let claimed = claim(&place, &run(1), "here").expect("a free shard");
    let error =
        claimed.generator.ready(PATIENCE, &mut |_| true).expect_err("a microsecond is too much").to_string();
    assert!(
        error.starts_with("the start is known to within 0 ms only, more than 0 ms: the link to "),
        "{error}"
    );
}

#[test]
fn the_leader_is_asked_from_outside() {
    let team = Team::<RedisPlace>::start(1);
    let control = &team.place.control;
    let ask = |within| control.ask("test", b"how many?", within);
    thread::scope(|scope| {
        let asked = scope.spawn(|| ask(PATIENCE));
        let events = team.until(|event| matches!(event, Event::Request { .. }));
        let Some(Event::Request { token, bytes }) = events.last() else { panic!("{events:?}") };
        assert_eq!(bytes, b"how many?");
        team.leadership.leader.answer(token, b"one".to_vec());
        assert_eq!(asked.join().expect("no panic"), Ok(b"one".to_vec()));
    });
    // The leader reads the request and gives no answer.
    let error = ask(timing().heartbeat * 4).expect_err("nobody answers").to_string();
    assert!(error.contains("the request may have been executed"), "{error}");
    let Team { leadership, claimed, place } = team;
    drop(leadership);
    let error =
        place.control.ask("test", b"?", Duration::from_millis(300)).expect_err("nobody reads").to_string();
    assert!(error.contains("did not read the request within 0.3 s, and nothing was changed"), "{error}");
    for _ in 0..16 {
        let () = place.redis.query(&["RPUSH", "streamstress:{test}:requests", "x"]);
    }
    let error = place.control.ask("test", b"?", PATIENCE).expect_err("too many wait").to_string();
    assert!(error.starts_with("16 requests wait for the leader of run test"), "{error}");
    drop(claimed);
}

#[test]
fn the_start_is_three_seconds_or_ten_round_trips_away() {
    let place = RedisPlace::with(Timing::default());
    let claimed = claim(&place, &run(1), "here").expect("a free shard");
    let before = Instant::now();
    let start = claimed.generator.ready(PATIENCE, &mut |_| true).expect("all came");
    let away = start.at - before;
    assert!(away >= Duration::from_secs(3) && start.at > Instant::now(), "{away:?}");
    drop(claimed);

    let slow = coordination::Run { id: "slow".to_owned(), ..run(2) };
    let claimed = claim_all(&place, &slow);
    // The other generator's longest round trip, in microseconds.
    let () = place.redis.query(&["HSET", "streamstress:{slow}:run", "rtt:1", "700000"]);
    let before = Instant::now();
    let start = claimed[0].generator.ready(PATIENCE, &mut |_| true).expect("all came");
    let away = start.at - before;
    assert!(away >= Duration::from_secs(7), "{away:?}");
}

#[test]
fn a_start_that_was_missed_is_an_error() {
    let place = RedisPlace::with(timing());
    let claimed = claim(&place, &run(2), "here").expect("a free shard");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| claimed.generator.ready(PATIENCE, &mut |_| true));
        let (seconds, _): (u64, u64) = place.redis.query(&["TIME"]);
        let start_us = (seconds - 5) * 1_000_000;
        let () = place.redis.query(&["HSET", "streamstress:{test}:run", "start", &start_us.to_string()]);
        let error = waiting.join().expect("no panic").expect_err("it is over");
        let BarrierError::Missed { late, .. } = error else { panic!("{error}") };
        assert!(late >= Duration::from_secs(5) && late < PATIENCE, "{late:?}");
    });
}

#[test]
fn a_barrier_survives_an_outage() {
    let mut place = RedisPlace::with(timing());
    let claimed = claim_all(&place, &run(2));
    let starts = thread::scope(|scope| {
        let first = &claimed[0].generator;
        let first = scope.spawn(|| first.ready(PATIENCE, &mut |_| true));
        thread::sleep(Duration::from_millis(300));
        place.redis.kill();
        thread::sleep(Duration::from_millis(700));
        place.redis.launch();
        let second = claimed[1].generator.ready(PATIENCE, &mut |_| true);
        [first.join().expect("no panic").expect("all came"), second.expect("all came")]
    });
    let apart = starts[0].at.max(starts[1].at) - starts[0].at.min(starts[1].at);
    assert!(apart <= starts[0].error + starts[1].error, "{apart:?}");
}

#[test]
fn a_run_can_be_collected_afterwards() {
    let team = Team::<RedisPlace>::start(2);
    let control = team.place.control.clone();
    for one in &team.claimed {
        for part in 1..=100 {
            one.generator.send(number(part)).expect("it is small");
        }
        one.generator.note(b"a status".to_vec()).expect("it is small");
    }
    team.claimed[0].generator.finish(b"done".to_vec(), PATIENCE).expect("the control Redis takes it");
    team.until(support::is_finished);
    assert_eq!(control.verdict("test"), Ok(None));
    let Team { claimed, leadership, place } = team;
    // The second generator never finishes.
    drop(claimed);
    until(&leadership.events, is_lost);
    leadership.leader.conclude(b"INVALID".to_vec(), PATIENCE).expect("it is stored");
    drop(leadership);

    let collected = control.collect("test").expect("it is kept");
    assert_eq!(collected.run, run(2));
    let events = rest(&collected.leadership.events);
    for shard in 0..2 {
        assert_eq!(parts(&events, shard), (1..=100).collect::<Vec<_>>());
    }
    assert!(events.contains(&Event::Finished { shard: 0, bytes: b"done".to_vec() }));
    assert_eq!(losses(&events), [(1, "it ended without a result")]);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Claimed { .. })).count(), 2);
    let leader = &collected.leadership.leader;
    leader.command(Command::Abort(String::new())).expect_err("it does not lead");
    leader.conclude(b"PASS".to_vec(), PATIENCE).expect("it is reached");
    assert_eq!(control.verdict("test"), Ok(Some(b"INVALID".to_vec())), "the leader's verdict stays");

    assert!(matches!(control.collect("other"), Err(CollectError::Unknown { .. })));
    assert!(matches!(control.verdict("other"), Err(CollectError::Unknown { .. })));
    let waiting = coordination::Run { id: "waiting".to_owned(), ..run(3) };
    let _claimed = claim(&place, &waiting, "here").expect("a free shard");
    let error = control.collect("waiting").expect_err("two generators are missing").to_string();
    assert_eq!(error, "run waiting has not started: its 3 generators have not all come");
}

#[test]
fn everything_expires() {
    let team = Team::<RedisPlace>::start(2);
    let check = |expected: usize| {
        let keys: Vec<String> = team.place.redis.query(&["KEYS", "*"]);
        assert_eq!(keys.len(), expected, "{keys:?}");
        for key in keys {
            let left: i64 = team.place.redis.query(&["TTL", &key]);
            assert!((3590..=3600).contains(&left), "{key} has {left} s left");
        }
    };
    check(1);
    team.leadership.leader.command(Command::Custom(Vec::new())).expect("there is room");
    for one in &team.claimed {
        one.generator.send(number(1)).expect("it is small");
        next(&one.commands);
    }
    team.until(|event| matches!(event, Event::Part { .. }));
    team.until(|event| matches!(event, Event::Part { .. }));
    check(4);
    // Heartbeats and polls renew what would expire soon.
    for key in ["run", "commands", "parts:0", "parts:1"] {
        let () = team.place.redis.query(&["EXPIRE", &format!("streamstress:{{test}}:{key}"), "10"]);
    }
    thread::sleep(timing().heartbeat * 3);
    check(4);
    for one in &team.claimed {
        one.generator.finish(Vec::new(), PATIENCE).expect("the control Redis takes it");
    }
    team.leadership.leader.conclude(b"PASS".to_vec(), PATIENCE).expect("it is stored");
    check(4);
}

#[test]
fn a_heartbeat_that_is_executed_late_changes_nothing() {
    let place = RedisPlace::with(timing());
    let source =
        [include_str!("../src/redis/scripts/lib.lua"), include_str!("../src/redis/scripts/heartbeat.lua")]
            .concat();
    let () = place.redis.query(&["HSET", "run", "token:0", "me", "fingerprint", "a"]);
    for (beat, expected) in [("7", "7"), ("12", "12"), ("9", "12"), ("13", "13")] {
        let words =
            ["EVAL", &source, "3", "run", "commands", "parts", "0", "me", beat, beat, "0", "60000", "0"];
        let _: redis::Value = place.redis.query(&words);
        for field in ["heartbeat:0", "status:0"] {
            assert_eq!(
                place.redis.query::<String>(&["HGET", "run", field]),
                expected,
                "{field} after {beat}"
            );
        }
    }
}

/// Keys of the tests' run.
const RUN: &str = "streamstress:{test}:run";
const COMMANDS: &str = "streamstress:{test}:commands";

#[test]
fn a_restored_generator_has_finished_only_with_its_report() {
    let team = Team::<RedisPlace>::start(1);
    let redis = &team.place.redis;
    team.claimed[0].generator.finish(b"done".to_vec(), PATIENCE).expect("the control Redis takes it");
    let () = redis.query(&["ACL", "SETUSER", "default", "-xadd"]);
    let () = redis.query(&["FLUSHALL"]);
    wait_until("the claim is restored", || redis.query(&["HEXISTS", RUN, "start"]));
    assert!(!redis.query::<bool>(&["HEXISTS", RUN, "finished:0"]), "its report is missing");
    let () = redis.query(&["ACL", "SETUSER", "default", "+xadd"]);
    wait_until("it has finished again", || redis.query(&["HEXISTS", RUN, "finished:0"]));
    let events = rest(&team.place.control.collect("test").expect("it is restored").leadership.events);
    assert!(events.contains(&Event::Finished { shard: 0, bytes: b"done".to_vec() }), "{events:?}");
}

#[test]
fn a_lost_generator_stays_lost_when_redis_loses_its_data() {
    let (team, mut process) = start_with_process::<RedisPlace>(2);
    process.expect("part");
    process.freeze();
    team.until(is_lost);
    let () = team.place.redis.query(&["FLUSHALL"]);
    wait_until("the mark is restored", || team.place.redis.query(&["HEXISTS", RUN, "lost:1"]));
    process.thaw();
    assert_eq!(process.expect("abort"), "the leader counts it as lost: no heartbeat for 0.45 s");
}

#[test]
fn a_clock_of_redis_that_is_set_back_does_not_revive_the_dead() {
    let place = RedisPlace::with(timing());
    let redis = &place.redis;
    let mut process = start_process(&place, 2, 0);
    wait_until("it is ready", || redis.query(&["HEXISTS", RUN, "rtt:0"]));
    process.kill();
    // Ten minutes later than now.
    let (seconds, _): (u64, u64) = redis.query(&["TIME"]);
    let later = ((seconds + 600) * 1000).to_string();
    let () = redis.query(&["HSET", RUN, "seen:0", &later]);
    let claimed = claim(&place, &run(2), "here").expect("a free shard");
    let error = claimed.generator.ready(Duration::from_millis(500), &mut |_| true);
    assert!(matches!(error, Err(BarrierError::Incomplete { came: 1, .. })), "{error:?}");
    drop(place.coordinator().claim(&run(2), "here", Some(0)).expect("the dead claim expires"));
}

#[test]
fn a_shard_does_not_lead_below_the_leader() {
    let place = RedisPlace::with(timing());
    let source =
        [include_str!("../src/redis/scripts/lib.lua"), include_str!("../src/redis/scripts/lead.lua")]
            .concat();
    let () = place.redis.query(&["HSET", "run", "token:1", "me", "start", "1", "leader", "2"]);
    let words = ["EVAL", &source, "1", "run", "1", "me", "silent", ""];
    assert_eq!(place.redis.query::<(String, u32)>(&words), ("alive".to_owned(), 2));
    assert!(!place.redis.query::<bool>(&["HEXISTS", "run", "lost:0"]), "it changed nothing");
    let () = place.redis.query(&["HSET", "run", "leader", "0"]);
    assert_eq!(place.redis.query::<(String,)>(&words), ("ok".to_owned(),));
    assert!(place.redis.query::<bool>(&["HEXISTS", "run", "lost:0"]));
}

#[test]
fn commands_that_redis_lost_are_appended_again() {
    let team = Team::<RedisPlace>::start(1);
    team.leadership.leader.command(Command::Custom(b"one".to_vec())).expect("there is room");
    assert_eq!(next(&team.claimed[0].commands), Command::Custom(b"one".to_vec()));
    // The heartbeat says which commands this generator has. Another one may have none.
    wait_until("its heartbeat", || team.place.redis.query::<u64>(&["HGET", RUN, "command:0"]) == 1);
    let () = team.place.redis.query(&["DEL", COMMANDS]);
    wait_until("the command is there again", || team.place.redis.query::<u64>(&["XLEN", COMMANDS]) == 1);
}

#[test]
fn the_number_of_a_lost_command_is_not_used_again() {
    let (place, mut processes, claimed) = with_processes(1);
    for command in ["first", "second"] {
        assert_eq!(next(&claimed.commands), Command::Custom(command.into()));
    }
    processes[0].kill();
    // The dead generator had a command that Redis lost before this one received it.
    let () = place.redis.query(&["HSET", RUN, "command:0", "7"]);
    let leadership = taken_over(&claimed);
    leadership.leader.command(Command::Custom(b"third".to_vec())).expect("there is room");
    assert_eq!(next(&claimed.commands), Command::Custom(b"third".to_vec()));
    let last: Vec<(String, Vec<String>)> =
        place.redis.query(&["XREVRANGE", COMMANDS, "+", "-", "COUNT", "1"]);
    assert_eq!(last[0].0, "8-0");
}

#[test]
fn a_leader_that_goes_at_once_still_aborts_the_run() {
    let place = RedisPlace::with(timing());
    let claimed = claim(&place, &run(1), "here").expect("a free shard");
    claimed.generator.ready(PATIENCE, &mut |_| true).expect("all came");
    let leadership = taken_over(&claimed);
    // Its thread sleeps until the next poll.
    until(&leadership.events, |event| matches!(event, Event::Started { .. }));
    leadership.leader.command(Command::Abort("it cannot be led".to_owned())).expect("there is room");
    drop(leadership);
    assert_eq!(next(&claimed.commands), Command::Abort("it cannot be led".to_owned()));
}

#[test]
fn a_full_redis_delays_parts_and_loses_nobody() {
    let (sent, events, counted) = through_outage(Team::start(2), |place| {
        thread::sleep(timing().calm);
        let () = place.redis.query(&["CONFIG", "SET", "maxmemory", "1"]);
        thread::sleep(OUTAGE);
        let () = place.redis.query(&["CONFIG", "SET", "maxmemory", "0"]);
    });
    is_exact(sent, &events, &counted);
}

#[test]
fn a_redis_that_stays_full_ends_the_events() {
    let short = Timing { give_up: Duration::from_millis(1500), ..timing() };
    let mut place = RedisPlace::with(short);
    let mut claimed = claim_all(&place, &run(2));
    start_all(&claimed);
    let leadership = place.leadership(&mut claimed);
    let () = place.redis.query(&["CONFIG", "SET", "maxmemory", "1"]);
    let events = rest(&leadership.events);
    let full = "the control Redis was full for 1.5 s";
    assert_eq!(losses(&events), [(0, full), (1, full)]);
    // Who was given up learns it when that is possible again.
    let () = place.redis.query(&["CONFIG", "SET", "maxmemory", "0"]);
    for one in &claimed {
        assert_eq!(next(&one.commands), Command::Abort(format!("the leader counts it as lost: {full}")));
    }
}

#[test]
fn a_connection_that_stalls_loses_nobody() {
    let timing = Timing { heartbeat: Duration::from_millis(300), response: PATIENCE, ..timing() };
    let mut place = RedisPlace::with(timing.clone());
    let relay = support::relay::Relay::start(&place.redis);
    let behind = Control::new(&relay.url(), timing.clone()).expect("a valid address");
    let mut claimed = vec![
        claim(&place, &run(2), "here").expect("a free shard"),
        behind.claim(&run(2), "behind", None).expect("a free shard"),
    ];
    start_all(&claimed);
    let leadership = place.leadership(&mut claimed);
    let settled = timing.calm + timing.heartbeat * 4;
    assert_eq!(losses(&during(&leadership.events, settled)), []);
    relay.stall();
    assert_eq!(losses(&during(&leadership.events, settled)), []);
}

#[test]
fn who_reads_from_outside_waits_for_a_leader_that_has_finished() {
    let (team, mut process) = start_with_process::<RedisPlace>(2);
    process.expect("part");
    let Team { claimed, leadership, place } = team;
    // The generator goes on to give signs of life. Its leader is slow.
    claimed[0].generator.finish(Vec::new(), PATIENCE).expect("the control Redis takes it");
    drop(leadership);
    process.freeze();
    let collected = place.control.collect("test").expect("it has started");
    let events = during(&collected.leadership.events, timing().calm + timing().heartbeat * 8);
    assert!(events.iter().any(support::is_finished), "{events:?}");
    assert_eq!(losses(&events), []);
    assert!(!place.redis.query::<bool>(&["HEXISTS", RUN, "lost:1"]), "who reads changes nothing");
    drop(claimed);
    assert_eq!(losses(&until(&collected.leadership.events, is_lost)), [(1, "no heartbeat for 0.45 s")]);
}
