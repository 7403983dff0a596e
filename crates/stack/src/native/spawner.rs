//! The thread that starts all child processes. Linux sends a child its parent-death signal when the *thread* that started it ends.
//! This thread therefore lives as long as the process, even if runtimes end earlier. Children have a lower priority than the load
//! client on the same machine: if CPU time is short, the stack is late and not the measurement.

use nix::{
    sys::{prctl, signal::Signal},
    unistd::{Pid, getpid, getppid},
};
use std::{
    io,
    sync::{OnceLock, mpsc},
    thread,
};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

struct SpawnRequest {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts a command with this niceness. The calling runtime handles the child. When this process ends for any reason, the kernel
/// sends `parent_death_signal` to the child.
pub(crate) async fn spawn(
    mut command: Command,
    parent_death_signal: Signal,
    niceness: i32,
) -> io::Result<Child> {
    prepare(&mut command, parent_death_signal, niceness);
    let (reply, child) = oneshot::channel();
    let request = SpawnRequest { command, runtime: Handle::current(), reply };
    spawner()?.send(request).map_err(|_| thread_ended())?;
    child.await.map_err(|_| thread_ended())?
}

fn thread_ended() -> io::Error {
    io::Error::other("the thread that starts processes has ended")
}

/// Returns the channel to the thread, and starts it at the first call.
fn spawner() -> io::Result<&'static mpsc::SyncSender<SpawnRequest>> {
    static SPAWNER: OnceLock<Result<mpsc::SyncSender<SpawnRequest>, io::ErrorKind>> = OnceLock::new();
    let start = || {
        let (sender, requests) = mpsc::sync_channel::<SpawnRequest>(16);
        thread::Builder::new()
            .name("spawner".into())
            .spawn(move || serve(&requests))
            .map_err(|e| e.kind())?;
        Ok(sender)
    };
    SPAWNER.get_or_init(start).as_ref().map_err(|kind| io::Error::from(*kind))
}

fn serve(requests: &mpsc::Receiver<SpawnRequest>) {
    for SpawnRequest { mut command, runtime, reply } in requests {
        let _runtime = runtime.enter();
        // If the caller has stopped waiting, the child is dropped, which kills it.
        let _ = reply.send(command.spawn());
    }
}

fn prepare(command: &mut Command, signal: Signal, niceness: i32) {
    let parent: Pid = getpid();
    let in_child = move || {
        rustix::process::nice(niceness)?;
        prctl::set_pdeathsig(signal)?;
        // If the parent has ended between the fork and this line, no signal will come.
        if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: between fork and exec the closure makes three system calls; it allocates nothing and takes no lock.
    #[allow(unsafe_code, reason = "the parent-death signal can only be set between fork and exec")]
    unsafe {
        command.pre_exec(in_child);
    }
}
