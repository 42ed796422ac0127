//! Work that several processes share batch by batch.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ProcessesError, World};

/// Processes that share the batches of a computation: all of a [`World`], or this one alone (`default()`). Each of them makes
/// the same calls in the same order, and learns the results of all in the order of the batches, so that nothing depends on
/// their number.
#[derive(Clone, Copy, Default)]
pub(crate) struct Group<'a> {
    world: Option<&'a World>,
}

impl fmt::Debug for Group<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.world {
            None => f.write_str("this process"),
            Some(world) => world.fmt(f),
        }
    }
}

impl<'a> Group<'a> {
    /// The processes of `world`, or this one alone.
    pub fn of(world: Option<&'a World>) -> Self {
        Self { world }
    }

    /// Number of processes.
    pub fn count(self) -> usize {
        self.world.map_or(1, World::count)
    }

    /// The number of this process among them, from 0.
    pub fn rank(self) -> usize {
        self.world.map_or(0, World::rank)
    }

    /// The rounds in which `batches` are computed: the first process has the first batch, the second process the second one,
    /// and so on, and then the next ones. Returns for each round the batch of this process, if it has one.
    pub fn rounds<T>(self, batches: &[T]) -> impl Iterator<Item = Option<&T>> {
        batches.chunks(self.count()).map(move |round| round.get(self.rank()))
    }

    /// Returns the values of the processes that have one, in their order.
    ///
    /// # Errors
    /// MPI failed.
    pub fn gather<T: Serialize + DeserializeOwned>(
        self,
        own: Option<T>,
    ) -> Result<Vec<T>, ProcessesError> {
        let Some(world) = self.world else { return Ok(own.into_iter().collect()) };
        // CBOR holds every number exactly, NaN too.
        let mut bytes = Vec::new();
        if let Some(own) = own {
            ciborium::into_writer(&own, &mut bytes).map_err(not_transferred)?;
        }
        let all = world.all_gather_each(&bytes)?;
        let found = all.iter().filter(|bytes| !bytes.is_empty());
        found
            .map(|bytes| ciborium::from_reader(bytes.as_slice()).map_err(not_transferred))
            .collect()
    }

    /// Returns the values of each process, in their order. Each may have another number of them.
    ///
    /// # Errors
    /// MPI failed.
    pub fn gather_values(self, own: Vec<f32>) -> Result<Vec<Vec<f32>>, ProcessesError> {
        match self.world {
            None => Ok(vec![own]),
            Some(world) => world.all_gather_each(&own),
        }
    }

    /// Returns whether `own` is true in any of the processes.
    ///
    /// # Errors
    /// MPI failed.
    pub fn any(self, own: bool) -> Result<bool, ProcessesError> {
        match self.world {
            None => Ok(own),
            Some(world) => Ok(world.all_gather(&[u8::from(own)])?.contains(&1)),
        }
    }
}

fn not_transferred(error: impl std::fmt::Display) -> ProcessesError {
    ProcessesError::Mpi(format!("results were not transferred: {error}"))
}
