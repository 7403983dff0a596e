//! The programs of the benchmarks do not panic when stdout or stderr is full or closed, and keep their exit codes.

use std::{
    fs::File,
    process::{Command, Stdio},
};

const BENCH: &str = env!("CARGO_BIN_EXE_streamstress-bench");
const PEER: &str = env!("CARGO_BIN_EXE_streamstress-bench-peer");

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// Returns the writing end of a pipe whose reading end is closed.
fn closed() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

#[test]
fn every_program_keeps_its_exit_code() {
    type Case<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, &'a str)], i32);
    let cases: [Case<'_>; 7] = [
        (BENCH, &["--help"], &[], 0),
        (BENCH, &["--no-such-flag"], &[], 2),
        (BENCH, &["table", "/no/such/record.json"], &[], 1),
        (BENCH, &["matrix", "--list"], &[], 0),
        (BENCH, &["matrix", "--only", "no such row"], &[], 1),
        (PEER, &[], &[], 1),
        (PEER, &[], &[("PEER", "nothing")], 1),
    ];
    for (program, arguments, environment, code) in cases {
        for [stdout, stderr] in
            [[full(), full()], [closed(), closed()], [full(), closed()], [closed(), full()]]
        {
            let mut command = Command::new(program);
            command.args(arguments).env_clear().env("RUST_LOG", "trace").envs(environment.iter().copied());
            let status = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).status().unwrap();
            assert_eq!(status.code(), Some(code), "{program} {arguments:?} {environment:?}: {status}");
        }
    }
}
