//! One run of a program, bounded in time and in the bytes that it says.
//! It is over when the program is: a child of its that keeps the pipes open is waited for by nobody.

use anyhow::{Context, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::{
    io::{self, Read},
    os::fd::AsFd,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Of stdout and of stderr: some KB a container are usual.
const MOST_BYTES: usize = 8 << 20;

/// [`Command::output`] within `patience`; then the program is killed. Blocks.
///
/// # Errors
/// It cannot be started, takes longer, or says more than 8 MiB.
pub(super) fn output(command: &mut Command, patience: Duration) -> anyhow::Result<Output> {
    let deadline = Instant::now() + patience;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}: is it installed?", command.get_program().display()))?;
    let (mut out, mut err) = (Flow::of(child.stdout.take())?, Flow::of(child.stderr.take())?);
    let mut follow = || loop {
        // Asked first: of a program that has ended, the pipes hold all that it said.
        let ended = child.try_wait()?;
        out.drain()?;
        err.drain()?;
        match ended {
            Some(status) => return Ok(status),
            None if Instant::now() > deadline => bail!("it does not end within {patience:?}"),
            None => sleep(LOOK_EVERY),
        }
    };
    match follow() {
        Ok(status) => Ok(Output { status, stdout: out.said, stderr: err.said }),
        Err(error) => {
            child.kill()?;
            child.wait()?;
            Err(error)
        }
    }
}

/// What comes out of a pipe, without waiting for it.
struct Flow<P> {
    pipe: Option<P>,
    said: Vec<u8>,
}

impl<P: Read + AsFd> Flow<P> {
    fn of(pipe: Option<P>) -> io::Result<Self> {
        // The program has the other end, whose mode is its own.
        pipe.iter().try_for_each(|pipe| fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop))?;
        Ok(Self { pipe, said: Vec::new() })
    }

    /// Takes what is there now.
    fn drain(&mut self) -> anyhow::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        let room = MOST_BYTES + 1 - self.said.len();
        match pipe.take(room as u64).read_to_end(&mut self.said) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
            Ok(_) | Err(_) => {}
        }
        if self.said.len() > MOST_BYTES {
            bail!("it says more than {MOST_BYTES} bytes");
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

    fn shell(script: &str, patience: Duration) -> anyhow::Result<Output> {
        output(Command::new("/bin/sh").args(["-c", script]), patience)
    }

    #[test]
    fn what_it_says_and_how_it_ends() {
        let output = shell("echo out; echo err >&2; exit 3", MINUTE).unwrap();
        let Output { status, stdout, stderr } = output;
        assert_eq!((status.code(), &stdout[..], &stderr[..]), (Some(3), &b"out\n"[..], &b"err\n"[..]));
        let long = shell("head -c 1000000 /dev/zero", MINUTE).unwrap();
        assert_eq!(long.stdout.len(), 1_000_000, "more than a pipe holds");
    }

    #[test]
    fn a_child_that_keeps_the_pipes_holds_nobody_up() {
        let began = Instant::now();
        let output = shell("sleep 60 & echo $!", MINUTE).unwrap();
        assert!(began.elapsed() < MINUTE / 2, "{:?}", began.elapsed());
        let child = String::from_utf8(output.stdout).unwrap().trim_end().parse().unwrap();
        kill(Pid::from_raw(child), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn time_and_bytes_are_bounded() {
        let error = shell("exec sleep 60", Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("within 50ms"), "{error}");
        let error = shell("exec cat /dev/zero", MINUTE).unwrap_err().to_string();
        assert!(error.contains("more than 8388608 bytes"), "{error}");
    }
}
