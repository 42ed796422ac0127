//! Processes that MPI has started.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use ferrompi::{Communicator, Error, Mpi, MpiDatatype, ThreadLevel};

use super::watch::Watch;
use super::{Order, ProcessesError, Started};

/// The processes that train together. Dropped before [`World::finish`], it ends all of them: the others would wait for
/// this one.
pub struct World {
    mpi: Option<Mpi>,
    communicator: Communicator,
    watch: Option<Watch>,
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

/// The tag of an [`Order`].
const ORDER: i32 = 1;

/// The tag of what [`World::send`] sends.
const VALUES: i32 = 2;

/// The most values that all processes gather in one message; more are sent in several. MPI counts them in 31 bits.
const MOST_VALUES: u64 = 1 << 28;

/// The longest time between two looks for an [`Order`]. A process that waits in MPI would occupy a core while the first
/// process evaluates.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

impl World {
    pub(super) fn open(started: Started) -> Result<Self, ProcessesError> {
        // All calls of MPI come from this thread.
        let mpi = with_launcher(|| Mpi::init_thread(ThreadLevel::Funneled))?;
        let communicator = mpi.world();
        let mut world = Self { mpi: Some(mpi), communicator, watch: None };
        match world.count() {
            found if found == started.count => {
                match Watch::start(&world) {
                    Ok(watch) => world.watch = Some(watch),
                    Err(error) => {
                        // If standard error cannot be written, nothing is left to report to.
                        let _ = writeln!(
                            io::stderr(),
                            "error: {world:?}, on {}: {error}",
                            world.host()
                        );
                        world.abort(1);
                    }
                }
                Ok(world)
            }
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

    /// Returns the values of each process, in their order. Each may give another number of them.
    pub(crate) fn all_gather_each<T: MpiDatatype + Default>(
        &self,
        own: &[T],
    ) -> Result<Vec<Vec<T>>, ProcessesError> {
        let counts = self.all_gather(&[own.len() as u64])?;
        let mut parts: Vec<Vec<T>> =
            counts.iter().map(|&count| Vec::with_capacity(count as usize)).collect();
        let most = MOST_VALUES / counts.len() as u64; // of a process in one message
        let longest = counts.iter().copied().max().unwrap_or(0);
        for begun in (0..longest).step_by(most as usize) {
            let sizes: Vec<u64> =
                counts.iter().map(|count| count.saturating_sub(begun).min(most)).collect();
            let own = &own[(begun as usize).min(own.len())..][..sizes[self.rank()] as usize];
            let sizes = message_sizes(&sizes)?;
            let mut all = vec![T::default(); sizes.iter().sum::<i32>() as usize];
            self.communicator.allgatherv(own, &mut all, &sizes, &starts(&sizes))?;
            for (part, values) in parts.iter_mut().zip(divided(&all, &sizes)) {
                part.extend(values);
            }
        }
        Ok(parts)
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

    /// Sends each process its part, of any size, and returns those that all processes have for this one, in their order.
    pub(crate) fn exchange_each<T: MpiDatatype + Default>(
        &self,
        parts: &[Vec<T>],
    ) -> Result<Vec<Vec<T>>, ProcessesError> {
        let counts: Vec<u64> = parts.iter().map(|part| part.len() as u64).collect();
        let received = message_sizes(&self.all_to_all(&counts)?)?;
        let counts = message_sizes(&counts)?;
        let mut all = vec![T::default(); received.iter().sum::<i32>() as usize];
        let (from, to) = (starts(&counts), starts(&received));
        self.communicator.alltoallv(&parts.concat(), &counts, &from, &mut all, &received, &to)?;
        Ok(divided(&all, &received))
    }

    /// Gives the others an order. Only the first process may.
    pub(crate) fn order(&self, order: Order) -> Result<(), ProcessesError> {
        (1..self.count()).try_for_each(|rank| self.order_one(rank, order))
    }

    /// Gives the process of this rank an order. Only the first process may.
    pub(crate) fn order_one(&self, rank: usize, order: Order) -> Result<(), ProcessesError> {
        Ok(self.communicator.send(&order.to_words(), rank as i32, ORDER)?)
    }

    /// Waits for an order of the first process, without occupying a core.
    pub(crate) fn hear(&self) -> Result<Order, ProcessesError> {
        let mut pause = Duration::from_micros(20);
        while self.communicator.iprobe::<u64>(0, ORDER)?.is_none() {
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        let mut words = Order::End.to_words();
        self.communicator.recv(&mut words, 0, ORDER)?;
        Ok(Order::of_words(words))
    }

    /// Sends values to the first process, which receives as many.
    pub(crate) fn send<T: MpiDatatype>(&self, values: &[T]) -> Result<(), ProcessesError> {
        Ok(self.communicator.send(values, 0, VALUES)?)
    }

    /// Receives values of the process of this rank, as many as there are in `values`.
    pub(crate) fn receive(&self, rank: usize, values: &mut [f32]) -> Result<(), ProcessesError> {
        self.communicator.recv(values, rank as i32, VALUES)?;
        Ok(())
    }

    /// Ends MPI, which waits for all processes to do so.
    pub fn finish(mut self) {
        self.watch.iter().for_each(Watch::done);
        self.mpi = None;
        self.watch.iter().for_each(Watch::end);
    }

    /// Ends all processes at once, with this exit code.
    pub fn abort(&self, code: i32) -> ! {
        self.watch.iter().for_each(Watch::failed);
        self.communicator.abort(code)
    }
}

/// Runs `initialise` so that this process ends with its parent, which is the launcher or was started by it: if another process is
/// killed meanwhile, Open MPI 4 may wait for ever in its own start. Afterwards the processes watch each other.
fn with_launcher<T>(initialise: impl FnOnce() -> T) -> T {
    end_with_parent(true);
    let done = initialise();
    end_with_parent(false);
    done
}

/// Has the kernel kill this process when its parent ends, or not any more.
#[cfg(target_os = "linux")]
fn end_with_parent(ends: bool) {
    use rustix::process::{Signal, set_parent_process_death_signal};
    if let Err(error) = set_parent_process_death_signal(ends.then_some(Signal::KILL)) {
        tracing::debug!("this process cannot end with its parent: {error}");
    }
}

/// Other systems cannot.
#[cfg(not(target_os = "linux"))]
fn end_with_parent(_: bool) {}

/// The numbers of values in messages, as MPI has them.
fn message_sizes(counts: &[u64]) -> Result<Vec<i32>, ProcessesError> {
    let sum: u64 = counts.iter().sum();
    let too_large = |_| {
        let most = i32::MAX;
        let words = "use a smaller batch (train.batch_size; evaluate.batch_size and evaluate.run_depth, or --batch-size and --depth)";
        ProcessesError::Mpi(format!("a message of {sum} values, of at most {most}: {words}"))
    };
    i32::try_from(sum).map_err(too_large)?;
    Ok(counts.iter().map(|&count| count as i32).collect())
}

/// The start of each part among parts with so many values.
fn starts(counts: &[i32]) -> Vec<i32> {
    let before = counts.iter().scan(0, |sum, &count| Some(std::mem::replace(sum, *sum + count)));
    before.collect()
}

/// The parts with so many values.
fn divided<T: Clone>(all: &[T], counts: &[i32]) -> Vec<Vec<T>> {
    let part = |(start, &count): (i32, &i32)| all[start as usize..][..count as usize].to_vec();
    starts(counts).into_iter().zip(counts).map(part).collect()
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
