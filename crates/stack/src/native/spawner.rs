//! The one thread that starts children. Linux sends a child its death signal when the *thread* that started it ends, so
//! that thread lives as long as this process, whatever runtimes and tests come and go. Children give way to the load
//! client on the same machine: when CPU runs short it is the stack that is late, not the ruler.

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

struct Order {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts `command`, to be attended by the calling runtime. When this process dies, however it dies, the kernel sends
/// the child `at_our_death`. It stands back by `niceness`.
pub(crate) async fn spawn(mut command: Command, at_our_death: Signal, niceness: i32) -> io::Result<Child> {
    prepare(&mut command, at_our_death, niceness);
    let (reply, answer) = oneshot::channel();
    let order = Order { command, runtime: Handle::current(), reply };
    spawner()?.send(order).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

fn gone() -> io::Error {
    io::Error::other("the thread that starts processes has ended")
}

fn spawner() -> io::Result<&'static mpsc::SyncSender<Order>> {
    static SPAWNER: OnceLock<Result<mpsc::SyncSender<Order>, io::ErrorKind>> = OnceLock::new();
    let start = || {
        let (orders, inbox) = mpsc::sync_channel::<Order>(16);
        thread::Builder::new().name("spawner".into()).spawn(move || serve(&inbox)).map_err(|e| e.kind())?;
        Ok(orders)
    };
    SPAWNER.get_or_init(start).as_ref().map_err(|kind| io::Error::from(*kind))
}

fn serve(inbox: &mpsc::Receiver<Order>) {
    for Order { mut command, runtime, reply } in inbox {
        let _runtime = runtime.enter();
        // Nobody waits any more: the child is dropped, and with it killed.
        let _ = reply.send(command.spawn());
    }
}

fn prepare(command: &mut Command, signal: Signal, niceness: i32) {
    let us: Pid = getpid();
    let in_child = move || {
        rustix::process::nice(niceness)?;
        prctl::set_pdeathsig(signal)?;
        // We may have died between fork and here; then no signal will come.
        if getppid() == us { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: between fork and exec the closure makes three system calls; it allocates nothing and takes no lock.
    #[allow(unsafe_code, reason = "the kernel's death signal can only be asked for between fork and exec")]
    unsafe {
        command.pre_exec(in_child);
    }
}
