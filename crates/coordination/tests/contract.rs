//! Every rule of coordination, for each implementation.

mod support;

use coordination::{
    BarrierError, ClaimError, Command, CommandError, Event, FinishError, MAX_COMMANDS, MAX_PAYLOAD,
    MAX_STATUS, Run,
};
use std::{
    collections::HashSet,
    thread,
    time::{Duration, Instant},
};
use support::{
    PATIENCE, Place, Team, claim, claim_all, dropped, during, is_finished, is_lost, losses, next, number,
    parts, rest, run, start_all, start_process, start_with_process, timing, until, wait_until,
};

/// Defines a test per rule and implementation.
macro_rules! contract {
    ($($rule:ident),* $(,)?) => {
        mod unix {
            $(#[test] fn $rule() { super::$rule::<super::support::UnixPlace>(); })*
        }
        mod redis {
            $(#[test] fn $rule() { super::$rule::<super::support::RedisPlace>(); })*
        }
    };
}

contract!(
    any_free_shard_is_claimed,
    each_shard_is_claimed_once_at_the_same_time,
    a_wanted_shard_is_claimed_once,
    a_different_plan_is_refused,
    a_claim_that_is_dropped_is_free,
    the_claim_of_a_dead_process_expires_before_the_start,
    all_generators_start_at_one_instant,
    the_barrier_gives_up_after_its_time,
    the_barrier_can_be_cancelled,
    a_generator_that_gave_up_does_not_count,
    parts_arrive_once_and_in_order,
    the_last_status_arrives,
    commands_arrive_once_and_in_order,
    commands_are_limited,
    the_verdict_reaches_all,
    nobody_joins_after_the_start,
    large_payloads_are_refused,
    a_killed_generator_is_lost_once,
    a_frozen_generator_is_lost_and_aborts,
    a_generator_without_a_result_is_lost,
    a_slow_leader_loses_nothing,
    a_finished_generator_is_never_lost,
);

/// The process of a generator. Other tests start it.
#[test]
#[ignore = "other tests start it as a process"]
fn generator_process() {
    support::be_a_generator();
}

fn any_free_shard_is_claimed<P: Place>() {
    let run = run(3);
    let place = P::open(&run);
    let claimed: Vec<_> = (0..3).map(|_| claim(&place, &run, "a").expect("a free shard")).collect();
    assert_eq!(claimed.iter().map(|claimed| claimed.shard).collect::<Vec<_>>(), [0, 1, 2]);
    let error = claim(&place, &run, "b").expect_err("all are held");
    assert_eq!(error, ClaimError::NoFreeShard { of: 3 });
    assert_eq!(error.to_string(), "all shards are held by living generators: start 3 generators, not more");
}

fn a_wanted_shard_is_claimed_once<P: Place>() {
    let run = run(3);
    let place = P::open(&run);
    let want = |shard| place.coordinator().claim(&run, "first", Some(shard));
    let held = want(1).expect("it is free");
    assert_eq!(held.shard, 1);
    let error = want(1).expect_err("it is held");
    assert_eq!(error, ClaimError::Taken { shard: 1, by: "first".to_owned() });
    assert_eq!(
        error.to_string(),
        "shard 2 is held by a generator on first: give each generator another shard"
    );
    let error = want(3).expect_err("it does not exist");
    assert_eq!(error.to_string(), "shard 4 does not exist: there are 3 shards, counted from 1");
    let others: Vec<_> = (0..2).map(|_| claim(&place, &run, "b").expect("a free shard")).collect();
    assert_eq!(others.iter().map(|claimed| claimed.shard).collect::<Vec<_>>(), [0, 2]);
}

fn each_shard_is_claimed_once_at_the_same_time<P: Place>() {
    let run = run(6);
    let place = P::open(&run);
    let coordinator = place.coordinator();
    let results: Vec<_> = thread::scope(|scope| {
        let (coordinator, run) = (&coordinator, &run);
        let claiming: Vec<_> =
            (0..9).map(|_| scope.spawn(move || coordinator.claim(run, "a", None))).collect();
        claiming.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    let mut shards: Vec<u32> = results.iter().flatten().map(|claimed| claimed.shard).collect();
    shards.sort_unstable();
    assert_eq!(shards, [0, 1, 2, 3, 4, 5]);
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(*error, ClaimError::NoFreeShard { of: 6 });
    }
}

fn a_different_plan_is_refused<P: Place>() {
    let ours = run(2);
    let place = P::open(&ours);
    let _first = claim(&place, &ours, "a").expect("a free shard");
    let other = Run { fingerprint: "plan-b".to_owned(), ..ours.clone() };
    let error = claim(&place, &other, "b").expect_err("another plan");
    let (id, plan_a, plan_b) = (ours.id.clone(), "plan-a".to_owned(), "plan-b".to_owned());
    assert_eq!(error, ClaimError::DifferentPlan { id: id.clone(), ours: plan_b, theirs: plan_a });
    let error = claim(&place, &run(3), "b").expect_err("another number");
    assert_eq!(error, ClaimError::DifferentNumber { id, ours: 3, theirs: 2 });
    assert_eq!(claim(&place, &ours, "b").expect("a free shard").shard, 1);
}

fn a_claim_that_is_dropped_is_free<P: Place>() {
    let run = run(2);
    let place = P::open(&run);
    let begun = Instant::now();
    for _ in 0..3 {
        let claimed = place.coordinator().claim(&run, "a", Some(1));
        drop(claimed.expect("the earlier claim was dropped"));
        // The parent notices a closed connection a moment later.
        thread::sleep(Duration::from_millis(50));
    }
    assert!(begun.elapsed() < timing().claim_expiry, "no claim had to expire");
}

fn the_claim_of_a_dead_process_expires_before_the_start<P: Place>() {
    let run = run(2);
    let place = P::open(&run);
    let living = claim(&place, &run, "here").expect("a free shard");
    let mut process = start_process(&place, 2, 1);
    process.kill();
    let died = Instant::now();
    let mut next = None;
    // The parent notices a closed connection a moment later.
    wait_until("the dead claim expires", || {
        next = place.coordinator().claim(&run, "next", Some(1)).ok();
        next.is_some()
    });
    let (next, waited) = (next.expect("it was awaited"), died.elapsed());
    // The last heartbeat may have been one interval before the death.
    assert!(waited + timing().heartbeat * 2 > place.claim_expiry(), "expired after {waited:?}");
    assert!(waited < place.claim_expiry() + Duration::from_secs(3), "expired after {waited:?}");
    let both = [living, next];
    start_all(&both);
}

fn all_generators_start_at_one_instant<P: Place>() {
    let run = run(4);
    let mut place = P::open(&run);
    let mut claimed = claim_all(&place, &run);
    let starts = start_all(&claimed);
    let now = Instant::now();
    for start in &starts {
        assert!(start.at > now, "the start lies in the future");
        assert!(start.error < Duration::from_millis(20), "{:?}", start.error);
        for other in &starts {
            let apart = start.at.max(other.at) - start.at.min(other.at);
            assert!(apart <= start.error + other.error, "{apart:?} apart, stated {:?}", start.error);
        }
    }
    let leadership = place.leadership(&mut claimed);
    let events = until(&leadership.events, |event| matches!(event, Event::Started { .. }));
    let mut hosts: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Claimed { shard, host } => Some((*shard, host.clone())),
            _ => None,
        })
        .collect();
    hosts.sort_unstable();
    assert_eq!(hosts, (0..4).map(|shard| (shard, format!("host-{shard}"))).collect::<Vec<_>>());
    let Some(Event::Started { at }) = events.last() else { panic!("it was awaited") };
    let apart = starts[0].at.max(*at) - starts[0].at.min(*at);
    assert!(apart <= starts[0].error * 2, "{apart:?}");
}

fn the_barrier_gives_up_after_its_time<P: Place>() {
    let run = run(8);
    let place = P::open(&run);
    let claimed: Vec<_> = (0..4).map(|_| claim(&place, &run, "a").expect("a free shard")).collect();
    let within = Duration::from_millis(1200);
    // One of four holds a shard and is never ready.
    let errors: Vec<_> = thread::scope(|scope| {
        let waiting: Vec<_> = claimed[..3]
            .iter()
            .map(|one| {
                scope.spawn(|| {
                    let mut most = 0;
                    let begun = Instant::now();
                    let error = one.generator.ready(within, &mut |came| {
                        most = most.max(came);
                        true
                    });
                    assert!(begun.elapsed() >= within);
                    (most, error.expect_err("five never come"))
                })
            })
            .collect();
        waiting.into_iter().map(|one| one.join().expect("no panic")).collect()
    });
    for (most, error) in errors {
        assert_eq!(most, 3);
        assert_eq!(error, BarrierError::Incomplete { came: 3, of: 8, within });
        assert!(error.to_string().starts_with("3 of 8 generators came within 1.2 s"), "{error}");
    }
}

fn the_barrier_can_be_cancelled<P: Place>() {
    let run = run(2);
    let place = P::open(&run);
    let claimed = claim(&place, &run, "a").expect("a free shard");
    let mut polls = 0;
    let error = claimed.generator.ready(PATIENCE, &mut |_| {
        polls += 1;
        polls < 3
    });
    assert_eq!((error, polls), (Err(BarrierError::Cancelled), 3));
}

fn a_generator_that_gave_up_does_not_count<P: Place>() {
    let run = run(2);
    let place = P::open(&run);
    let gone = claim(&place, &run, "a").expect("a free shard");
    let error = gone.generator.ready(Duration::from_millis(100), &mut |_| true);
    assert!(matches!(error, Err(BarrierError::Incomplete { came: 1, of: 2, .. })), "{error:?}");
    drop(gone);
    thread::sleep(Duration::from_millis(100));
    let other = place.coordinator().claim(&run, "b", Some(1)).expect("a free shard");
    let error = other.generator.ready(Duration::from_millis(300), &mut |_| true);
    assert!(matches!(error, Err(BarrierError::Incomplete { came: 1, of: 2, .. })), "{error:?}");
    let again = place.coordinator().claim(&run, "c", Some(0)).expect("it is free again");
    start_all(&[again, other]);
}

fn parts_arrive_once_and_in_order<P: Place>() {
    const PARTS: u64 = 300;
    let team = Team::<P>::start(3);
    let events = thread::scope(|scope| {
        for one in &team.claimed {
            let (generator, shard) = (&one.generator, one.shard);
            scope.spawn(move || {
                for part in 1..=PARTS {
                    generator.send(number(part)).expect("it is small");
                    if part % 50 == 0 {
                        thread::sleep(timing().heartbeat / 2);
                    }
                }
                generator.finish(number(u64::from(shard)), PATIENCE).expect("the leader takes it");
            });
        }
        team.rest()
    });
    for shard in 0..3 {
        assert_eq!(parts(&events, shard), (1..=PARTS).collect::<Vec<_>>());
        assert_eq!(dropped(&events, shard), 0);
        assert_eq!(team.claimed[shard as usize].generator.dropped(), 0);
        let last = events.iter().rfind(|event| match event {
            Event::Part { shard: of, .. } | Event::Finished { shard: of, .. } => *of == shard,
            _ => false,
        });
        assert_eq!(last, Some(&Event::Finished { shard, bytes: number(u64::from(shard)) }));
    }
    assert_eq!(events.iter().filter(|event| is_finished(event)).count(), 3);
    assert_eq!(losses(&events), []);
    let numbers: HashSet<(u32, u64)> = events
        .iter()
        .filter_map(|event| match event {
            Event::Part { shard, number, .. } => Some((*shard, *number)),
            _ => None,
        })
        .collect();
    assert_eq!(numbers.len() as u64, 3 * PARTS);
}

fn the_last_status_arrives<P: Place>() {
    let team = Team::<P>::start(2);
    for status in 1..=100u8 {
        team.claimed[1].generator.note(vec![status]).expect("it is small");
        thread::sleep(Duration::from_millis(5));
    }
    let events = team.until(|event| *event == Event::Status { shard: 1, bytes: vec![100] });
    let statuses: Vec<u8> = events
        .iter()
        .filter_map(|event| match event {
            Event::Status { shard: 1, bytes } if !bytes.is_empty() => Some(bytes[0]),
            _ => None,
        })
        .collect();
    assert!(statuses.is_sorted_by(|a, b| a < b), "{statuses:?}");
    let more = during(&team.leadership.events, timing().heartbeat * 4);
    assert!(more.is_empty(), "an unchanged status is no event: {more:?}");
}

fn commands_arrive_once_and_in_order<P: Place>() {
    const COMMANDS: u32 = 200;
    let (team, mut process) = start_with_process::<P>(4);
    for command in 0..COMMANDS {
        let bytes = command.to_string().into_bytes();
        team.leadership.leader.command(Command::Custom(bytes)).expect("there is room");
        if command % 40 == 0 {
            thread::sleep(timing().heartbeat);
        }
    }
    team.leadership.leader.command(Command::Abort("enough".to_owned())).expect("there is room");
    for one in &team.claimed {
        for command in 0..COMMANDS {
            assert_eq!(next(&one.commands), Command::Custom(command.to_string().into_bytes()));
        }
        assert_eq!(next(&one.commands), Command::Abort("enough".to_owned()));
        one.commands.recv_timeout(timing().heartbeat * 3).expect_err("each arrives once");
    }
    for command in 0..COMMANDS {
        assert_eq!(process.expect("command"), command.to_string());
    }
    assert_eq!(process.expect("abort"), "enough");
}

fn commands_are_limited<P: Place>() {
    let team = Team::<P>::start(1);
    let leader = &team.leadership.leader;
    let error = leader.command(Command::Custom(vec![0; MAX_PAYLOAD + 1])).expect_err("it is too large");
    assert!(matches!(error, CommandError::TooLarge(_)), "{error}");
    let received = thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..MAX_COMMANDS {
                leader.command(Command::Custom(Vec::new())).expect("there is room");
            }
        });
        (0..MAX_COMMANDS).map(|_| next(&team.claimed[0].commands)).collect::<Vec<_>>().len()
    });
    assert_eq!(received, MAX_COMMANDS);
    let error = leader.command(Command::Abort(String::new())).expect_err("it is one too many");
    assert_eq!(error, CommandError::TooMany { limit: MAX_COMMANDS });
}

fn the_verdict_reaches_all<P: Place>() {
    let team = Team::<P>::start(2);
    assert_eq!(team.claimed[1].generator.verdict(Duration::from_millis(50)), None);
    for one in &team.claimed {
        one.generator.finish(Vec::new(), PATIENCE).expect("the leader takes it");
    }
    team.rest();
    thread::scope(|scope| {
        let generator = &team.claimed[1].generator;
        let waiting = scope.spawn(|| generator.verdict(PATIENCE));
        team.leadership.leader.conclude(b"PASS".to_vec(), PATIENCE).expect("it is stored");
        assert_eq!(waiting.join().expect("no panic"), Some(b"PASS".to_vec()));
    });
    assert_eq!(team.claimed[0].generator.verdict(PATIENCE), Some(b"PASS".to_vec()));
    let error = claim(&team.place, &run(2), "late").expect_err("the run has finished");
    assert_eq!(error, ClaimError::Finished { id: "test".to_owned(), shard: None });
}

fn nobody_joins_after_the_start<P: Place>() {
    let (mut team, mut process) = start_with_process::<P>(2);
    let error = claim(&team.place, &run(2), "late").expect_err("the run has started");
    assert_eq!(error, ClaimError::AlreadyStarted { id: "test".to_owned() });
    process.kill();
    team.until(is_lost);
    // The claim of a dead generator stays: its shard would be played twice.
    thread::sleep(team.place.claim_expiry());
    for shard in [0, 1] {
        let error = team.place.coordinator().claim(&run(2), "late", Some(shard)).expect_err("it has started");
        assert_eq!(error, ClaimError::AlreadyStarted { id: "test".to_owned() });
    }
    team.claimed.pop();
}

fn large_payloads_are_refused<P: Place>() {
    let team = Team::<P>::start(1);
    let generator = &team.claimed[0].generator;
    generator.send(number(1)).expect("it is small");
    let error = generator.send(vec![0; MAX_PAYLOAD + 1]).expect_err("it is too large");
    let expected = format!(
        "a part of {} bytes is larger than the limit of {MAX_PAYLOAD} bytes: send less at once",
        MAX_PAYLOAD + 1
    );
    assert_eq!(error.to_string(), expected);
    generator.send(vec![7; MAX_PAYLOAD]).expect("it is just small enough");
    generator.note(vec![0; MAX_STATUS + 1]).expect_err("it is too large");
    let error = generator.finish(vec![0; MAX_PAYLOAD + 1], PATIENCE).expect_err("it is too large");
    assert!(matches!(error, FinishError::TooLarge(_)), "{error}");
    generator.finish(Vec::new(), PATIENCE).expect("the leader takes it");
    let events = team.rest();
    assert_eq!(parts(&events, 0), [1, u64::from_le_bytes([7; 8])]);
    assert_eq!((dropped(&events, 0), generator.dropped()), (1, 1));
}

fn a_killed_generator_is_lost_once<P: Place>() {
    let (team, mut process) = start_with_process::<P>(3);
    let sent: u64 =
        (0..10).map(|_| process.expect("part").parse::<u64>().expect("a number")).last().expect("ten");
    team.until(|event| matches!(event, Event::Part { shard: 2, number, .. } if *number >= sent));
    process.kill();
    let killed = Instant::now();
    let before = team.until(is_lost);
    let noticed = killed.elapsed();
    assert!(
        noticed < timing().heartbeat * 4 + timing().calm + Duration::from_secs(3),
        "noticed after {noticed:?}"
    );
    let Some(Event::Lost { shard: 2, reason }) = before.last() else { panic!("{:?}", before.last()) };
    assert!(!reason.is_empty());
    for one in &team.claimed {
        one.generator.send(number(1)).expect("it is small");
        one.generator.finish(Vec::new(), PATIENCE).expect("the leader takes it");
    }
    let after = team.rest();
    assert_eq!(losses(&after), [], "it is lost once, and the others are not");
    assert_eq!((parts(&after, 0), parts(&after, 1), parts(&after, 2)), (vec![1], vec![1], vec![]));
}

fn a_frozen_generator_is_lost_and_aborts<P: Place>() {
    let (team, mut process) = start_with_process::<P>(2);
    process.expect("part");
    process.freeze();
    let events = team.until(is_lost);
    let (shard, reason) = losses(&events)[0];
    assert!(shard == 1 && reason.starts_with("no heartbeat for 0.45 s"), "{reason}");
    process.thaw();
    let reason = process.expect("abort");
    assert!(!reason.is_empty());
    process.wait();
    team.claimed[0].generator.finish(Vec::new(), PATIENCE).expect("the leader takes it");
    let after = team.rest();
    assert_eq!((losses(&after), parts(&after, 1)), (vec![], vec![]), "a loss is the last event of a shard");
}

fn a_generator_without_a_result_is_lost<P: Place>() {
    let mut team = Team::<P>::start(3);
    team.claimed[2].generator.send(number(1)).expect("it is small");
    team.until(|event| matches!(event, Event::Part { shard: 2, .. }));
    drop(team.claimed.pop());
    let events = team.until(is_lost);
    let (shard, reason) = losses(&events)[0];
    assert!(shard == 2 && reason.contains("ended without a result"), "{reason}");
}

fn a_slow_leader_loses_nothing<P: Place>() {
    // More than wait for the leader.
    const PARTS: u64 = 3000;
    let team = Team::<P>::start(2);
    thread::scope(|scope| {
        for one in &team.claimed {
            scope.spawn(|| {
                for part in 1..=PARTS {
                    one.generator.send(number(part)).expect("it is small");
                }
                one.generator.finish(Vec::new(), PATIENCE).expect("the leader takes it");
            });
        }
        // Longer than it takes to lose a generator.
        thread::sleep(timing().heartbeat * 10 + timing().calm);
        let events = team.rest();
        for shard in 0..2 {
            assert_eq!(parts(&events, shard), (1..=PARTS).collect::<Vec<_>>());
        }
        assert_eq!(losses(&events), []);
    });
}

fn a_finished_generator_is_never_lost<P: Place>() {
    let mut team = Team::<P>::start(2);
    team.claimed[1].generator.finish(b"done".to_vec(), PATIENCE).expect("the leader takes it");
    drop(team.claimed.pop());
    let events = during(&team.leadership.events, timing().heartbeat * 10 + timing().calm);
    assert_eq!(losses(&events), []);
    assert!(events.contains(&Event::Finished { shard: 1, bytes: b"done".to_vec() }));
    team.claimed[0].generator.finish(Vec::new(), PATIENCE).expect("the leader takes it");
    assert_eq!(rest(&team.leadership.events).iter().filter(|event| is_finished(event)).count(), 1);
}
