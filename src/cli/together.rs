//! Commands that several processes do together, started by MPI.

use std::env;
use std::fs::File;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::{is_broken_pipe, report_error};
use crate::monitor::Console;
use crate::processes::{Order, ProcessesError, World};

/// Does `work`, together with the other processes that MPI has started, if there are any. Those that are not the first do it
/// until the first one orders the end. An error of one ends all of them.
pub(super) fn together(
    console: &Console,
    work: impl FnOnce(Option<&World>) -> Result<()>,
) -> Result<ExitCode> {
    let Some(world) = World::join()? else { return work(None).map(|()| ExitCode::SUCCESS) };
    let done = match work(Some(&world)) {
        // The others wait for the next order of the first one.
        Ok(()) if world.is_first() => world.order(Order::End).map_err(anyhow::Error::from),
        Err(error) if world.is_first() && is_broken_pipe(&error) => {
            world.order(Order::End).map_err(anyhow::Error::from)
        }
        done => done,
    };
    match done {
        Ok(()) => {
            world.finish();
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => end_all(world, error, console),
    }
}

/// Ends all processes for an error of this one: one of them reports it.
pub(super) fn end_all(world: World, error: anyhow::Error, console: &Console) -> Result<ExitCode> {
    match error.downcast_ref() {
        // The process that has it reports it.
        Some(ProcessesError::Other { .. }) => {}
        // All have it.
        Some(ProcessesError::Disagree { .. }) => {
            if world.is_first() {
                report_error(&error, console);
            }
        }
        _ => {
            let (rank, count) = (world.rank(), world.count());
            let place = format!("process {rank} of {count}, on {}", world.host());
            report_error(&error.context(place), console);
            // The others may wait for this process.
            world.abort(1)
        }
    }
    // After the message: mpirun ends all processes when one has failed.
    world.finish();
    Ok(ExitCode::FAILURE)
}

/// The hash of this program, which all processes must have in common, with its name in an error.
pub(super) fn program() -> Result<(&'static str, String)> {
    let program = env::current_exe().and_then(|program| {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(program)?)?;
        Ok(hasher.finalize().to_hex()[..16].to_owned())
    });
    Ok(("their program, by BLAKE3", program.context("this program cannot be read")?))
}

/// The first 16 hexadecimal digits of the BLAKE3 hash of some bytes.
pub(super) fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_owned()
}
