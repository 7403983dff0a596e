//! The program `streamstress`.

/// mimalloc, because glibc's allocator takes twice as long for the small, short-lived allocations of a token.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    host::use_small_pages();
    client::program::start(std::env::args_os())
}
