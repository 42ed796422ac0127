//! Builds without MPI: there are never several processes.

use super::{Order, ProcessesError, Started};

/// The processes that train together; none in a build without MPI.
#[derive(Debug)]
pub enum World {}

impl World {
    pub(super) fn open(started: Started) -> Result<Self, ProcessesError> {
        Err(ProcessesError::NotBuilt { started })
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        match *self {}
    }

    /// Number of processes.
    pub fn count(&self) -> usize {
        match *self {}
    }

    /// The name of this process's machine.
    pub fn host(&self) -> String {
        match *self {}
    }

    pub(crate) fn all_gather<T>(&self, _own: &[T]) -> Result<Vec<T>, ProcessesError> {
        match *self {}
    }

    pub(crate) fn all_gather_each<T>(&self, _own: &[T]) -> Result<Vec<Vec<T>>, ProcessesError> {
        match *self {}
    }

    pub(crate) fn exchange_each<T>(
        &self,
        _parts: &[Vec<T>],
    ) -> Result<Vec<Vec<T>>, ProcessesError> {
        match *self {}
    }

    pub(crate) fn all_to_all<T>(&self, _parts: &[T]) -> Result<Vec<T>, ProcessesError> {
        match *self {}
    }

    pub(crate) fn order(&self, _order: Order) -> Result<(), ProcessesError> {
        match *self {}
    }

    pub(crate) fn order_one(&self, _rank: usize, _order: Order) -> Result<(), ProcessesError> {
        match *self {}
    }

    pub(crate) fn hear(&self) -> Result<Order, ProcessesError> {
        match *self {}
    }

    pub(crate) fn send<T>(&self, _values: &[T]) -> Result<(), ProcessesError> {
        match *self {}
    }

    pub(crate) fn receive(&self, _rank: usize, _values: &mut [f32]) -> Result<(), ProcessesError> {
        match *self {}
    }

    /// Ends MPI, which waits for all processes to do so.
    pub fn finish(self) {
        match self {}
    }

    /// Ends all processes at once, with this exit code.
    pub fn abort(&self, _code: i32) -> ! {
        match *self {}
    }
}
