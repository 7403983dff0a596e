//! The gateway as a program for containers; `streamstress wsproxy` is the same.

/// glibc's allocator takes twice as long over a token's small, short-lived pieces.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    host::use_small_pages();
    wsproxy::program::run(std::env::args_os())
}
