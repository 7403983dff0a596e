//! The program `streamstress`.

/// glibc's allocator takes twice as long over a token's small, short-lived pieces.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    client::program::start(std::env::args_os())
}
