//! Readers that read, stall, leave or never open the pipe: events are written or counted as dropped, and the run does not wait.

use super::*;
use nix::{
    pty::{OpenptyResult, openpty},
    sys::stat::Mode,
    unistd::mkfifo,
};
use serde_json::json;
use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Read},
    os::fd::AsRawFd,
    path::Path,
};

fn last(written: u64, dropped: u64) -> Value {
    json!({ "type": "verdict", "written": written, "dropped": dropped })
}

/// An event of a kilobyte.
fn event(n: usize) -> Value {
    json!({ "type": "second", "t": n, "filling": "x".repeat(1_000) })
}

fn pipe(dir: &Path) -> PathBuf {
    let path = dir.join("pipe");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    path
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_line_of_a_file_is_an_event_and_the_last_counts_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.ndjson");
    let events = Events::start(Pipe::open(&path).unwrap()).unwrap();
    let sink = events.sink();
    (0..100).for_each(|n| sink.send(&event(n)));
    drop(sink);
    let tally = events.end(last);
    assert_eq!((tally.written, tally.dropped, tally.error), (101, 0, None));
    let lines = lines(&fs::read_to_string(&path).unwrap());
    assert_eq!(lines.len(), 101);
    assert_eq!(lines[100], last(100, 0));
}

#[test]
fn a_reader_that_stalls_costs_events_and_no_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = pipe(dir.path());
    // Open both ends, so that the pipe has a reader that never reads.
    let stalled = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let events = Events::start(Pipe::open(&path).unwrap()).unwrap();
    let sink = events.sink();
    let sent = LINES + 2_000;
    (0..sent).for_each(|n| sink.send(&event(n)));
    assert!(sink.dropped() > 0, "more than the queue and the pipe hold");
    drop(sink);
    let tally = events.end(last);
    assert_eq!(tally.written + tally.dropped, sent as u64 + 1);
    assert_eq!(tally.error.as_deref(), Some(TOO_SLOW));
    drop(stalled);
}

#[test]
fn a_reader_that_is_slow_and_never_stalls_costs_no_time_either() {
    let dir = tempfile::tempdir().unwrap();
    let path = pipe(dir.path());
    let events = Events::start(Pipe::open(&path).unwrap()).unwrap();
    // One page every 10 ms: the pipe is never full for long, but the queue takes 20 s to drain.
    let reader = std::thread::spawn(move || {
        let (mut file, mut text, mut out) = (fs::File::open(&path).unwrap(), Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = file.read(&mut out) {
            text.extend_from_slice(&out[..read]);
            std::thread::sleep(Duration::from_millis(10));
        }
        String::from_utf8(text).unwrap()
    });
    let sink = events.sink();
    (0..LINES).for_each(|n| sink.send(&event(n)));
    drop(sink);
    let ended = Instant::now();
    let tally = events.end(last);
    assert!(ended.elapsed() < 4 * PATIENCE, "{:?}", ended.elapsed());
    assert_eq!((tally.written + tally.dropped, tally.error.as_deref()), (LINES as u64 + 1, Some(TOO_SLOW)));
    let lines = lines(&reader.join().unwrap());
    assert_eq!(
        lines.last(),
        Some(&last(tally.written - 1, tally.dropped)),
        "no line is partial, and the last one is there"
    );
}

#[test]
fn a_blocked_terminal_is_abandoned() {
    let OpenptyResult { master, slave } = openpty(None, None).unwrap();
    let terminal = PathBuf::from(format!("/dev/fd/{}", slave.as_raw_fd()));
    let events = Events::start(Pipe::open(&terminal).unwrap()).unwrap();
    let sink = events.sink();
    (0..1_000).for_each(|n| sink.send(&event(n)));
    drop(sink);
    let ended = Instant::now();
    let tally = events.end(last);
    assert!(ended.elapsed() < 2 * (PATIENCE + GRACE), "{:?}", ended.elapsed());
    assert_eq!((tally.written + tally.dropped, tally.error.as_deref()), (1_001, Some(TOO_SLOW)));
    assert!(tally.dropped > 900, "a terminal holds a few pages: {tally:?}");
    drop((master, slave));
}

#[test]
fn a_reader_that_leaves_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = pipe(dir.path());
    let events = Events::start(Pipe::open(&path).unwrap()).unwrap();
    let sink = events.sink();
    sink.send(&event(0));
    let mut line = String::new();
    BufReader::new(fs::File::open(&path).unwrap()).read_line(&mut line).unwrap();
    assert_eq!(lines(&line), [event(0)]);
    (1..1_000).for_each(|n| sink.send(&event(n)));
    drop(sink);
    let tally = events.end(last);
    assert_eq!(tally.written + tally.dropped, 1_001);
    assert!(tally.dropped > 900 && tally.error.is_some(), "{tally:?}");
}

#[test]
fn a_lasting_pipe_waits_for_the_next_reader() {
    let dir = tempfile::tempdir().unwrap();
    let path = pipe(dir.path());
    let events = Events::start(Pipe::lasting(&path).unwrap()).unwrap();
    let sink = events.sink();
    sink.send(&event(0));
    let mut line = String::new();
    BufReader::new(fs::File::open(&path).unwrap()).read_line(&mut line).unwrap();
    assert_eq!(lines(&line), [event(0)]);
    // Nobody reads now.
    (1..500).for_each(|n| sink.send(&event(n)));
    let reader = std::thread::spawn(move || {
        let (mut text, mut next) = (String::new(), BufReader::new(fs::File::open(&path).unwrap()));
        let mut begin = 0;
        while !text[begin..].contains("verdict") {
            begin = text.len();
            // Between two writing ends, a pipe seems to have ended.
            if next.read_line(&mut text).unwrap() == 0 {
                std::thread::yield_now();
            }
        }
        text
    });
    drop(sink);
    let tally = events.end(last);
    assert_eq!((tally.written, tally.dropped, tally.error), (501, 0, None));
    let lines = lines(&reader.join().unwrap());
    assert_eq!(lines, (1..500).map(event).chain([last(500, 0)]).collect::<Vec<_>>());
}

#[test]
fn a_pipe_is_opened_when_it_has_a_reader() {
    let dir = tempfile::tempdir().unwrap();
    let path = pipe(dir.path());
    let events = Events::start(Pipe::open(&path).unwrap()).unwrap();
    let sink = events.sink();
    (0..500).for_each(|n| sink.send(&event(n)));
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        fs::File::open(&path).unwrap().read_to_string(&mut text).unwrap();
        text
    });
    drop(sink);
    let tally = events.end(last);
    let lines = lines(&reader.join().unwrap());
    assert_eq!((lines.len(), tally.dropped), (501, 0));
    assert_eq!(lines[500], last(500, 0));
}

#[test]
fn places_and_formats() {
    for (text, expected) in [
        ("json", Destination::Results),
        ("json=-", Destination::Stdout),
        ("json=a=b", Destination::File("a=b".into())),
        ("seconds=a", Destination::Seconds("a".into())),
    ] {
        assert_eq!(text.parse(), Ok(expected), "{text}");
    }
    for bad in ["csv", "", "json=", "JSON=x", "seconds", "seconds="] {
        let error = bad.parse::<Destination>().unwrap_err();
        assert!(error.contains("json, json=FILE or json=-"), "{error}");
    }
}
