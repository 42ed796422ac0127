//! The command `genir`: start-up only, see `genir::cli`.

use std::process::ExitCode;

// Training allocates and frees large tensors all the time: see genir::allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    genir::allocator::retain_freed_memory();
    genir::cli::main()
}
