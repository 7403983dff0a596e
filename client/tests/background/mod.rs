//! Servers of the tests on threads of their own.

use std::net::SocketAddr;
use tokio::{net::TcpListener, runtime::Builder};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Serves on `N` free ports until the guard is dropped.
pub fn serve<const N: usize, F: Future>(
    serve: impl FnOnce([TcpListener; N]) -> F + Send + 'static,
) -> ([SocketAddr; N], DropGuard) {
    let sockets = [0; N].map(|port| {
        let socket = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        // The standard library's queue holds 128 connections. A client that finds it full repeats its SYN only after a second.
        socket2::SockRef::from(&socket).listen(4096).unwrap();
        socket
    });
    let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    let end = CancellationToken::new();
    let ended = end.clone();
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listeners = sockets.map(|socket| {
                socket.set_nonblocking(true).unwrap();
                TcpListener::from_std(socket).unwrap()
            });
            ended.run_until_cancelled(serve(listeners)).await;
        });
    });
    (addresses, end.drop_guard())
}
