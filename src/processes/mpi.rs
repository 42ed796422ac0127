//! Processes that MPI has started.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use ferrompi::{Communicator, Error, Mpi, MpiDatatype, ThreadLevel};

use super::{ProcessesError, Started};

/// The processes that train together. Dropped before [`World::finish`], it ends all of them: the others would wait for
/// this one.
pub struct World {
    mpi: Option<Mpi>,
    communicator: Communicator,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} of {}", self.rank(), self.count())
    }
}

impl From<Error> for ProcessesError {
    fn from(error: Error) -> Self {
        Self::Mpi(error.to_string())
    }
}

/// The tag of what [`World::tell`] sends.
const GOES_ON: i32 = 1;

/// The longest time between two looks for a message of [`World::tell`]. A process that waits in MPI would occupy a core
/// while the first process evaluates.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

impl World {
    pub(super) fn open(started: Started) -> Result<Self, ProcessesError> {
        // All calls of MPI come from this thread.
        let mpi = Mpi::init_thread(ThreadLevel::Funneled)?;
        let communicator = mpi.world();
        let world = Self { mpi: Some(mpi), communicator };
        match world.count() {
            found if found == started.count => Ok(world),
            found => {
                world.finish();
                Err(ProcessesError::OtherMpi { started, found })
            }
        }
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.communicator.rank() as usize
    }

    /// Number of processes.
    pub fn count(&self) -> usize {
        self.communicator.size() as usize
    }

    /// The name of this process's machine.
    pub fn host(&self) -> String {
        self.communicator.processor_name().unwrap_or_else(|_| "an unknown machine".to_owned())
    }

    /// Returns the values of all processes, in their order. All must give the same number of them.
    pub(crate) fn all_gather<T: MpiDatatype + Default>(
        &self,
        own: &[T],
    ) -> Result<Vec<T>, ProcessesError> {
        let mut all = vec![T::default(); own.len() * self.count()];
        self.communicator.allgather(own, &mut all)?;
        Ok(all)
    }

    /// Sends each process one of the equal `parts`, and returns those that all processes have for this one, in their
    /// order.
    pub(crate) fn all_to_all<T: MpiDatatype + Default>(
        &self,
        parts: &[T],
    ) -> Result<Vec<T>, ProcessesError> {
        let mut all = vec![T::default(); parts.len()];
        self.communicator.alltoall(parts, &mut all)?;
        Ok(all)
    }

    /// Tells all others whether the training goes on. Only the first process may.
    pub(crate) fn tell(&self, goes_on: bool) -> Result<(), ProcessesError> {
        for rank in 1..self.communicator.size() {
            self.communicator.send(&[u8::from(goes_on)], rank, GOES_ON)?;
        }
        Ok(())
    }

    /// Waits for what the first process [tells](World::tell), without occupying a core.
    pub(crate) fn hear(&self) -> Result<bool, ProcessesError> {
        let mut pause = Duration::from_micros(20);
        while self.communicator.iprobe::<u8>(0, GOES_ON)?.is_none() {
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let mut word = [0_u8];
        self.communicator.recv(&mut word, 0, GOES_ON)?;
        Ok(word[0] == 1)
    }

    /// Ends MPI, which waits for all processes to do so.
    pub fn finish(mut self) {
        self.mpi = None;
    }

    /// Ends all processes at once, with this exit code.
    pub fn abort(&self, code: i32) -> ! {
        self.communicator.abort(code)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.mpi.is_some() {
            if thread::panicking() {
                let place = format!("error: the panic is of {self:?}, on {}", self.host());
                // If standard error cannot be written, nothing is left to report to.
                let _ = writeln!(io::stderr(), "{place}");
                self.abort(101);
            }
            self.abort(1);
        }
    }
}
