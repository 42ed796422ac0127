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

    /// Computes `batches` in [rounds](Self::rounds), and calls `take` with the results of all, in the order of the batches.
    ///
    /// # Errors
    /// The first error of `take`; or MPI failed.
    pub fn share<B, T: Serialize + DeserializeOwned, E: From<ProcessesError>>(
        self,
        batches: &[B],
        mut compute: impl FnMut(&B) -> T,
        mut take: impl FnMut(T) -> Result<(), E>,
    ) -> Result<(), E> {
        for own in self.rounds(batches) {
            for found in self.gather(own.map(&mut compute))? {
                take(found)?;
            }
        }
        Ok(())
    }

    /// Returns the values of the processes that have one, in their order.
    ///
    /// # Errors
    /// MPI failed.
    pub fn gather<T: Serialize + DeserializeOwned>(
        self,
        own: Option<T>,
    ) -> Result<Vec<T>, ProcessesError> {
        let mut all = Vec::new();
        self.gather_each(own, |value| all.push(value))?;
        Ok(all)
    }

    /// Calls `take` with the values of the processes that have one, in their order, one at a time.
    ///
    /// # Errors
    /// MPI failed.
    pub fn gather_each<T: Serialize + DeserializeOwned>(
        self,
        own: Option<T>,
        mut take: impl FnMut(T),
    ) -> Result<(), ProcessesError> {
        let Some(world) = self.world else {
            own.into_iter().for_each(take);
            return Ok(());
        };
        let bytes = own.map_or(Ok(Vec::new()), |own| to_bytes(&own))?;
        let all = world.all_gather_each(&bytes)?;
        for bytes in all.into_iter().filter(|bytes| !bytes.is_empty()) {
            take(of_bytes(&bytes)?);
        }
        Ok(())
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

    /// Checks that all processes have the same text, whose name in an error is `what`. `own`, which returns it, is called only
    /// if there are several processes.
    ///
    /// # Errors
    /// They have not, or MPI failed.
    pub fn agree(
        self,
        what: &'static str,
        own: impl FnOnce() -> String,
    ) -> Result<(), ProcessesError> {
        self.world.map_or(Ok(()), |world| world.agree(&[(what, own())]))
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

/// A value as CBOR, which holds every number exactly, NaN too.
fn to_bytes(value: &impl Serialize) -> Result<Vec<u8>, ProcessesError> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(not_transferred)?;
    Ok(bytes)
}

fn of_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ProcessesError> {
    ciborium::from_reader(bytes).map_err(not_transferred)
}

fn not_transferred(error: impl std::fmt::Display) -> ProcessesError {
    ProcessesError::Mpi(format!("results were not transferred: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_messages_arrive_to_the_bit() {
        let large = [f64::NAN, -f64::NAN, -0.0, 1.0 / 3.0, f64::MIN_POSITIVE / 4.0, f64::INFINITY];
        let small = [f32::NAN, -f32::NAN, -0.0, 1.0 / 3.0, f32::from_bits(1), f32::NEG_INFINITY];
        let (found_large, found_small) = of_bytes(&to_bytes(&(large, small)).unwrap()).unwrap();
        let (_, _): ([f64; 6], [f32; 6]) = (found_large, found_small);
        assert_eq!(found_large.map(f64::to_bits), large.map(f64::to_bits));
        assert_eq!(found_small.map(f32::to_bits), small.map(f32::to_bits));
        // A value without content is other than none.
        assert!(!to_bytes(&()).unwrap().is_empty());
    }

    #[test]
    fn one_process_has_all_batches() {
        let rounds: Vec<_> = Group::default().rounds(&[1, 2, 3]).collect();
        assert_eq!(rounds, [Some(&1), Some(&2), Some(&3)]);
    }
}
