//! The simulator as a program for containers; `streamstress server` is the same.

/// glibc's allocator takes twice as long over a token's small, short-lived pieces.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    host::use_small_pages();
    server::program::run(std::env::args_os())
}
