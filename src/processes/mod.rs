//! Several processes that train one run together, started by MPI (`mpirun`, `srun`); the cargo feature `mpi`.

#[cfg(feature = "mpi")]
mod mpi;
#[cfg(not(feature = "mpi"))]
mod none;

mod group;
mod needs;
mod order;
#[cfg(feature = "mpi")]
mod watch;

use std::env;
use std::fmt;

use thiserror::Error;

use crate::ops::most_shards;

pub(crate) use group::Group;
#[cfg(feature = "mpi")]
pub use mpi::World;
pub use needs::Needs;
#[cfg(not(feature = "mpi"))]
pub use none::World;
pub(crate) use order::Order;

/// Errors of working together with other processes.
#[derive(Debug, Error)]
pub enum ProcessesError {
    /// MPI has started several processes of a build without MPI.
    #[error(
        "{started}, and this build of genir has no MPI: each would do the whole of the work. Build it with `--features mpi`, or \
         start one process without {} (docs/processes.md)", started.variable
    )]
    NotBuilt {
        /// The processes that MPI has started.
        started: Started,
    },
    /// The launcher belongs to another MPI than the one that genir was built with.
    #[error(
        "{started}, and the MPI that this genir was built with knows of {found}: use the mpirun of that MPI, or the \
         `srun --mpi=...` that it supports (docs/processes.md)"
    )]
    OtherMpi {
        /// The processes that the launcher has started.
        started: Started,
        /// Number of processes that MPI knows of.
        found: usize,
    },
    /// MPI has started several processes of a sweep.
    #[error(
        "{started}, and a sweep trains its runs one after another: start one process, without {}", started.variable
    )]
    Several {
        /// The processes that MPI has started.
        started: Started,
    },
    /// A function of MPI failed.
    #[error("MPI: {0}")]
    Mpi(String),
    /// Processes do not have the same of something.
    #[error("the processes differ in {what}: {}", of_processes(found))]
    Disagree {
        /// The name of the value in which they differ.
        what: &'static str,
        /// The value of each process.
        found: Vec<String>,
    },
    /// Another process has failed.
    #[error("process {rank} of {count}: {message}")]
    Other {
        /// The number of the process, from 0.
        rank: usize,
        /// Number of processes.
        count: usize,
        /// Its error.
        message: String,
    },
    /// The docid rows cannot be divided among the processes.
    #[error(
        "docids.shard: {documents} docid rows cannot be divided among {count} processes: start at most {most}"
    )]
    Shards {
        /// Docid rows.
        documents: usize,
        /// Number of processes.
        count: usize,
        /// The most processes among which they can be divided.
        most: usize,
    },
    /// The batches of an update cannot be divided among the processes.
    #[error(
        "{count} processes cannot share the {accumulate} batches of an update equally: train.accumulate must be {count} \
         times a power of two; the nearest such value is {nearest}"
    )]
    Accumulate {
        /// Number of processes.
        count: usize,
        /// The recipe's `train.accumulate`.
        accumulate: usize,
        /// The nearest value that can be shared.
        nearest: usize,
    },
}

/// `process 0 has a; process 1 has b`, each value with the first process that has it.
fn of_processes(found: &[String]) -> String {
    let mut seen: Vec<(usize, &String)> = Vec::new();
    for (rank, value) in found.iter().enumerate() {
        if !seen.iter().any(|(_, known)| *known == value) {
            seen.push((rank, value));
        }
    }
    let words = seen.iter().map(|(rank, value)| format!("process {rank} has {value}"));
    words.collect::<Vec<String>>().join("; ")
}

impl World {
    /// Joins the processes that MPI has started with this one; `None` if it was started alone.
    ///
    /// # Errors
    /// This build has no MPI, or MPI cannot be initialised.
    pub fn join() -> Result<Option<Self>, ProcessesError> {
        Started::found().map(Self::open).transpose()
    }

    /// Returns whether this process is the one that writes, evaluates and shows progress.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Returns the texts of all processes, in their order.
    ///
    /// # Errors
    /// A function of MPI failed.
    pub fn texts(&self, own: &str) -> Result<Vec<String>, ProcessesError> {
        let all = self.all_gather_each(own.as_bytes())?;
        Ok(all.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect())
    }

    /// Checks that all processes have the same of each of `all`, which is a list of names with values.
    ///
    /// # Errors
    /// The first one in which they differ, on all processes.
    pub fn agree(&self, all: &[(&'static str, String)]) -> Result<(), ProcessesError> {
        for (what, own) in all {
            let found = self.texts(own)?;
            if found.iter().any(|other| *other != found[0]) {
                return Err(ProcessesError::Disagree { what, found });
            }
        }
        Ok(())
    }

    /// Returns the value of `own` if all processes have one, and otherwise an error on all of them: on the first process
    /// that failed its own, on the others that of the first one that failed.
    ///
    /// # Errors
    /// A process failed, or a function of MPI did.
    pub fn all_succeed<T>(&self, own: anyhow::Result<T>) -> anyhow::Result<T> {
        let message = own.as_ref().err().map_or(String::new(), |error| format!("{error:#}"));
        let all = self.texts(&message)?;
        let Some(rank) = all.iter().position(|message| !message.is_empty()) else { return own };
        match own {
            Err(error) if rank == self.rank() => Err(error),
            _ => {
                let (count, message) = (self.count(), all[rank].clone());
                Err(ProcessesError::Other { rank, count, message }.into())
            }
        }
    }
}

/// Returns the number of an update's `accumulate` batches that each of `count` processes computes. The sum of their
/// gradients does not depend on the number of processes, since each one owns a whole branch of its tree
/// (`src/train/pairwise_sum.rs`).
///
/// # Errors
/// The batches cannot be divided so.
pub fn share(accumulate: usize, count: usize) -> Result<usize, ProcessesError> {
    let is_shared = accumulate.is_multiple_of(count) && (accumulate / count).is_power_of_two();
    if is_shared {
        return Ok(accumulate / count);
    }
    let powers = (0..usize::BITS).map_while(|power| count.checked_mul(1_usize.checked_shl(power)?));
    let nearest = powers.min_by_key(|value| value.abs_diff(accumulate)).unwrap_or(count);
    Err(ProcessesError::Accumulate { count, accumulate, nearest })
}

/// Checks that `count` processes can divide so many docid rows (`docids.shard`).
///
/// # Errors
/// They are too many.
pub fn check_shards(documents: usize, count: usize) -> Result<(), ProcessesError> {
    match most_shards(documents) {
        most if count > most => Err(ProcessesError::Shards { documents, count, most }),
        _ => Ok(()),
    }
}

/// Several processes that MPI has started, as an environment variable tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Number of processes.
    pub count: usize,
    /// The environment variable.
    pub variable: &'static str,
}

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MPI has started {0} processes ({1}={0})", self.count, self.variable)
    }
}

impl Started {
    /// The processes that MPI has started with this one, by the variables of Open MPI, MPICH, Intel MPI and Slurm; `None`
    /// if there are no others.
    fn found() -> Option<Self> {
        let several = |variable: &'static str| {
            let count = env::var(variable).ok()?.trim().parse().ok()?;
            Some(Self { count, variable })
        };
        let of_mpi = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];
        let found = of_mpi.into_iter().find_map(several).or_else(|| {
            // `srun --mpi=pmix` sets PMIX_RANK; without MPI, srun sets the variables of Slurm alone.
            env::var_os("PMIX_RANK")?;
            several("SLURM_STEP_NUM_TASKS").or_else(|| several("SLURM_NTASKS"))
        });
        found.filter(|started| started.count > 1)
    }
}

/// Checks that MPI has not started other processes with this one.
///
/// # Errors
/// It has.
pub(crate) fn alone() -> Result<(), ProcessesError> {
    Started::found().map_or(Ok(()), |started| Err(ProcessesError::Several { started }))
}

/// The number of processes that MPI has started; 1 for one that was started alone.
pub(crate) fn started_count() -> usize {
    Started::found().map_or(1, |started| started.count)
}

/// The rank of this process among those that MPI has started, before MPI is initialised; 0 if it was started alone.
pub(crate) fn started_rank() -> usize {
    number(&["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"])
}

/// The rank of this process among those that MPI has started on this machine; 0 if it was started alone.
#[cfg(feature = "cuda")]
pub(crate) fn started_local_rank() -> usize {
    let variables = ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"];
    Started::found().map_or(0, |_| number(&variables))
}

/// The number in the first of these environment variables that has one, or 0.
fn number(variables: &[&str]) -> usize {
    let number = |name: &&str| env::var(name).ok()?.trim().parse().ok();
    variables.iter().find_map(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_differ_are_named_once_with_the_first_process_that_has_them() {
        let found = ["a", "b", "a", "b", "c"].map(str::to_owned);
        assert_eq!(of_processes(&found), "process 0 has a; process 1 has b; process 4 has c");
    }
}
