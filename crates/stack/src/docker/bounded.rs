//! Runs a program with limits on time and output.
//! A run is over when the program has ended, even if a child of the program keeps the pipes open.

use anyhow::{Context, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::{
    io::{self, Read},
    os::fd::AsFd,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Limit of stdout, and of stderr. Some KB per container are usual.
const MAX_OUTPUT_BYTES: usize = 8 << 20;

/// Runs a program as [`Command::output`] does, but kills it after `timeout`. Blocks.
///
/// # Errors
/// The program cannot be started, takes longer, or prints more than 8 MiB.
pub(super) fn output(command: &mut Command, timeout: Duration) -> anyhow::Result<Output> {
    let deadline = Instant::now() + timeout;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}: is it installed?", command.get_program().display()))?;
    let (mut out, mut err) =
        (CapturedPipe::new(child.stdout.take())?, CapturedPipe::new(child.stderr.take())?);
    let mut wait = || loop {
        // This comes first: when the program has ended, the pipes hold all its output.
        let ended = child.try_wait()?;
        out.drain()?;
        err.drain()?;
        match ended {
            Some(status) => return Ok(status),
            None if Instant::now() > deadline => bail!("the program did not end within {timeout:?}"),
            None => sleep(POLL_INTERVAL),
        }
    };
    match wait() {
        Ok(status) => Ok(Output { status, stdout: out.bytes, stderr: err.bytes }),
        Err(error) => {
            child.kill()?;
            child.wait()?;
            Err(error)
        }
    }
}

/// A pipe and what has come out of it. Reading does not block.
struct CapturedPipe<P> {
    pipe: Option<P>,
    bytes: Vec<u8>,
}

impl<P: Read + AsFd> CapturedPipe<P> {
    fn new(pipe: Option<P>) -> io::Result<Self> {
        // The other end, which the program has, keeps its mode.
        pipe.iter().try_for_each(|pipe| fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop))?;
        Ok(Self { pipe, bytes: Vec::new() })
    }

    /// Reads what is in the pipe now.
    fn drain(&mut self) -> anyhow::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        let room = MAX_OUTPUT_BYTES + 1 - self.bytes.len();
        match pipe.take(room as u64).read_to_end(&mut self.bytes) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
            Ok(_) | Err(_) => {}
        }
        if self.bytes.len() > MAX_OUTPUT_BYTES {
            bail!("the program printed more than {MAX_OUTPUT_BYTES} bytes");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    const MINUTE: Duration = Duration::from_secs(60);

    fn shell(script: &str, timeout: Duration) -> anyhow::Result<Output> {
        output(Command::new("/bin/sh").args(["-c", script]), timeout)
    }

    #[test]
    fn output_and_exit_code_are_returned() {
        let output = shell("echo out; echo err >&2; exit 3", MINUTE).unwrap();
        let Output { status, stdout, stderr } = output;
        assert_eq!((status.code(), &stdout[..], &stderr[..]), (Some(3), &b"out\n"[..], &b"err\n"[..]));
        let long = shell("head -c 1000000 /dev/zero", MINUTE).unwrap();
        assert_eq!(long.stdout.len(), 1_000_000, "more than a pipe holds");
    }

    #[test]
    fn a_child_that_keeps_the_pipes_does_not_delay_the_end() {
        let began = Instant::now();
        let output = shell("sleep 60 & echo $!", MINUTE).unwrap();
        assert!(began.elapsed() < MINUTE / 2, "{:?}", began.elapsed());
        let child = String::from_utf8(output.stdout).unwrap().trim_end().parse().unwrap();
        kill(Pid::from_raw(child), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn time_and_output_are_limited() {
        let error = shell("exec sleep 60", Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("within 50ms"), "{error}");
        let error = shell("exec cat /dev/zero", MINUTE).unwrap_err().to_string();
        assert!(error.contains("more than 8388608 bytes"), "{error}");
    }
}
