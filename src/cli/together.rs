//! Commands that several processes do together, started by MPI.

use std::env;
use std::fs::{self, DirEntry, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use burn::tensor::Device;
use thiserror::Error;

use super::{is_broken_pipe, report_error, with_causes};
use crate::checkpoint::Checkpoint;
use crate::device::{ComputeDevice, Precision, describe, is_host};
use crate::monitor::Console;
use crate::processes::{Order, ProcessesError, World};
use crate::train::Arithmetic;

/// Does `work`, together with the other processes that MPI has started, if there are any. Those that are not the first do it
/// until the first one orders the end. An error of one ends all of them.
pub(super) fn together(
    console: &Console,
    work: impl FnOnce(Option<&World>) -> Result<()>,
) -> Result<ExitCode> {
    let Some(world) = World::join()? else { return work(None).map(|()| ExitCode::SUCCESS) };
    let done = work(Some(&world)).and_then(|()| match world.is_first() {
        true => Ok(world.order(Order::End)?),
        false => Ok(()),
    });
    match done {
        Ok(()) => {
            world.finish();
            Ok(ExitCode::SUCCESS)
        }
        // The reader of an output has closed it on purpose. The others may be in the middle of a ranking.
        Err(error) if is_broken_pipe(&error) => world.abort(0),
        Err(error) => end_all(world, error, console),
    }
}

/// Waits for the end that [`together`] orders, in a process that is not the first.
pub(super) fn wait_for_end(world: &World) -> Result<()> {
    while world.hear()? != Order::End {}
    Ok(())
}

/// An error that all processes know of.
#[derive(Debug, Error)]
#[error("{0}")]
struct KnownToAll(String);

/// The result of this process where all of `world` have one; otherwise an error on all.
pub(super) fn of_all<T>(world: Option<&World>, own: Result<T>) -> Result<T> {
    let Some(world) = world else { return own };
    let known = |error| KnownToAll(with_causes(&error)).into();
    world.all_succeed(own).map_err(known)
}

/// Ends all processes for an error of this one: one of them reports it.
pub(super) fn end_all(world: World, error: anyhow::Error, console: &Console) -> Result<ExitCode> {
    let differ = matches!(error.downcast_ref(), Some(ProcessesError::Disagree { .. }));
    if !differ && !error.is::<KnownToAll>() {
        let (rank, count) = (world.rank(), world.count());
        let place = format!("process {rank} of {count}, on {}", world.host());
        report_error(&error.context(place), console);
        // The others may wait for this process.
        world.abort(1)
    }
    Ok(end_known(world, &error, console))
}

/// Ends all processes for an error that all of them know of: the first one reports it.
pub(super) fn end_known(world: World, error: &anyhow::Error, console: &Console) -> ExitCode {
    if world.is_first() {
        report_error(error, console);
    }
    // After the message: mpirun ends all processes when one has failed.
    world.finish();
    ExitCode::FAILURE
}

/// Returns the values that all processes must have in common to rank or to probe with a checkpoint, each with its name in an
/// error. `options` are those of the command that are not compared elsewhere.
pub(super) fn identity(
    directory: &Path,
    checkpoint: &Checkpoint,
    device: &ComputeDevice,
    options: String,
) -> Result<[(&'static str, String); 3]> {
    let checkpoint = match &checkpoint.manifest {
        // It has the checksums of all files.
        Some(manifest) => digest(&serde_json::to_vec(manifest)?),
        None => {
            let mut files = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
            files.sort_by_key(DirEntry::file_name);
            digest_of_files(files.iter().map(DirEntry::path).filter(|path| path.is_file()))?
        }
    };
    Ok([
        ("their checkpoint, by BLAKE3", checkpoint),
        (
            "their device and instructions",
            device_and_instructions(&device.device, device.precision),
        ),
        ("their options", options),
    ])
}

/// Describes the device and the instruction set, on which the last bits of all results depend.
pub(super) fn device_and_instructions(device: &Device, precision: Precision) -> String {
    let Arithmetic { instructions, .. } = Arithmetic::of(describe(device, precision));
    // Each process may have a GPU of its own.
    let device = match is_host(device) {
        true => "the CPU".to_owned(),
        false => format!("a GPU, products in {precision}"),
    };
    format!("{device}, {instructions}")
}

/// The hash of this program, which all processes must have in common, with its name in an error.
pub(super) fn program() -> Result<(&'static str, String)> {
    let program = env::current_exe().and_then(|program| digest_of_files([program]));
    Ok(("their program, by BLAKE3", program.context("this program cannot be read")?))
}

/// The first 16 hexadecimal digits of the BLAKE3 hash of some bytes.
pub(super) fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_owned()
}

/// The same of the contents of files, one after another.
fn digest_of_files(paths: impl IntoIterator<Item = PathBuf>) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    for path in paths {
        hasher.update_reader(File::open(path)?)?;
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}
