//! The command `genir`: start-up only, see `genir::cli`.

use std::process::ExitCode;

// Training allocates and frees large tensors all the time; the measurement is in benches/README.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    genir::cli::main()
}
