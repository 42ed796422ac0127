//! The division of a run: the only code that converts between examples, batches, updates and epochs.

use std::fmt;
use std::ops::Range;

use super::TaskError;

/// An epoch divided into updates of the optimizer, and an update into batches.
///
/// An epoch has each example exactly as often as the [`Mixture`](super::Mixture) defines. Each batch has `batch_size`
/// examples and each update `accumulate` batches; the last update of an epoch, and the last batch of an update, have
/// the remainder. The next epoch starts with a new update.
///
/// Updates and epochs are counted from 0 over the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epochs {
    /// Number of examples of an epoch, at least one.
    examples: u64,
    batch_size: u64,
    accumulate: u64,
}

impl Epochs {
    /// Creates epochs of `examples` examples ([`Mixture::per_epoch`](super::Mixture::per_epoch)), in updates of
    /// `accumulate` batches of `batch_size` examples.
    ///
    /// # Errors
    /// `batch_size` or `accumulate` is 0.
    pub fn new(examples: u64, batch_size: usize, accumulate: usize) -> Result<Self, TaskError> {
        if batch_size == 0 {
            return Err(TaskError::BatchSize);
        }
        if accumulate == 0 {
            return Err(TaskError::Accumulate);
        }
        Ok(Self {
            examples: examples.max(1),
            batch_size: batch_size as u64,
            accumulate: accumulate as u64,
        })
    }

    /// Returns the number of examples of an epoch.
    pub fn examples(&self) -> u64 {
        self.examples
    }

    /// Returns the number of updates of an epoch.
    pub fn updates(&self) -> u64 {
        self.examples.div_ceil(self.update_size())
    }

    /// Returns the number of batches of an epoch.
    pub fn batches(&self) -> u64 {
        let (whole, rest) =
            (self.examples / self.update_size(), self.examples % self.update_size());
        whole * self.accumulate + rest.div_ceil(self.batch_size)
    }

    /// Returns the number of examples of the largest update.
    pub fn max_update_size(&self) -> u64 {
        self.update_size().min(self.examples)
    }

    /// Returns the number of examples of the largest batch.
    pub fn max_batch_size(&self) -> u64 {
        self.batch_size.min(self.examples)
    }

    /// Returns the number of batches of the largest update.
    pub fn max_batches(&self) -> u64 {
        self.max_update_size().div_ceil(self.batch_size)
    }

    /// Returns the epoch of an update, and the range of its examples in the order of that epoch.
    pub fn locate(&self, update: u64) -> (u64, Range<usize>) {
        let start = update % self.updates() * self.update_size();
        let end = start.saturating_add(self.update_size()).min(self.examples);
        (update / self.updates(), start as usize..end as usize)
    }

    /// Returns the number of examples of an update.
    pub fn examples_of(&self, update: u64) -> u64 {
        self.locate(update).1.len() as u64
    }

    /// Returns the number of batches before the first batch of an update.
    pub fn first_batch(&self, update: u64) -> u64 {
        let (epoch, place) = (update / self.updates(), update % self.updates());
        epoch.saturating_mul(self.batches()).saturating_add(place * self.accumulate)
    }

    /// Returns the number of examples seen after `updates` updates.
    pub fn examples_after(&self, updates: u64) -> u64 {
        let whole = (updates / self.updates()).saturating_mul(self.examples);
        whole.saturating_add(updates % self.updates() * self.update_size())
    }

    /// Returns the number of epochs after `updates` updates; a started epoch counts by its fraction of examples.
    pub fn epochs_after(&self, updates: u64) -> f64 {
        let begun = updates % self.updates() * self.update_size();
        (updates / self.updates()) as f64 + begun as f64 / self.examples as f64
    }

    /// Returns the number of updates in `epochs` epochs, at least one; a fraction of an epoch is rounded to the
    /// nearest update.
    pub fn updates_in(&self, epochs: f64) -> u64 {
        let of_fraction = (epochs.fract() * self.updates() as f64).round();
        let whole = (epochs.trunc() as u64).saturating_mul(self.updates());
        whole.saturating_add(of_fraction as u64).max(1)
    }

    /// Returns the number of examples of a full update.
    fn update_size(&self) -> u64 {
        self.batch_size.saturating_mul(self.accumulate)
    }
}

/// Formats as `2 steps per epoch, 24 examples each in 8 batches, 6 in the last`.
impl fmt::Display for Epochs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (updates, last) = (self.updates(), self.examples_of(self.updates() - 1));
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        write!(
            f,
            "{updates} step{} per epoch, {} example",
            plural(updates),
            self.max_update_size()
        )?;
        f.write_str(plural(self.max_update_size()))?;
        if updates > 1 {
            f.write_str(" each")?;
        }
        if self.max_batches() > 1 {
            write!(f, " in {} batches", self.max_batches())?;
        }
        if last < self.max_update_size() {
            write!(f, ", {last} in the last")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(examples: u64, batch_size: u64, accumulate: u64) -> Epochs {
        Epochs { examples, batch_size, accumulate }
    }

    #[test]
    fn the_last_update_of_an_epoch_has_the_remaining_examples() {
        // Examples, batch size, batches an update: batches, updates and sizes of the updates of an epoch.
        let cases: [(Epochs, u64, &[u64]); 7] = [
            (epochs(30, 3, 8), 10, &[24, 6]),
            (epochs(33, 8, 1), 5, &[8, 8, 8, 8, 1]),
            (epochs(30, 7, 5), 5, &[30]),
            (epochs(30, 7, 4), 5, &[28, 2]),
            (epochs(32, 8, 2), 4, &[16, 16]),
            (epochs(1, 64, 64), 1, &[1]),
            (epochs(30, u64::MAX, u64::MAX), 1, &[30]),
        ];
        for (epochs, batches, sizes) in cases {
            assert_eq!((epochs.batches(), epochs.updates()), (batches, sizes.len() as u64));
            for epoch in [0, 1, 7] {
                let (mut examples, mut batches) = (0, 0);
                for (at, &size) in sizes.iter().enumerate() {
                    let update = epoch * epochs.updates() + at as u64;
                    assert_eq!(epochs.locate(update), (epoch, examples..examples + size as usize));
                    assert_eq!(epochs.examples_of(update), size);
                    assert_eq!(epochs.first_batch(update), epoch * epochs.batches() + batches);
                    assert_eq!(
                        epochs.examples_after(update),
                        epoch * epochs.examples() + examples as u64
                    );
                    examples += size as usize;
                    batches += size.div_ceil(epochs.batch_size);
                }
                assert_eq!(examples as u64, epochs.examples(), "each example once");
                assert_eq!(batches, epochs.batches());
            }
        }
    }

    #[test]
    fn epochs_are_counted_in_examples_and_end_exactly() {
        let epochs_of_two = epochs(30, 3, 8);
        assert_eq!(epochs_of_two.updates_in(10.0), 20);
        assert_eq!(epochs_of_two.epochs_after(20), 10.0);
        assert_eq!(epochs_of_two.epochs_after(19), 9.8);
        let epochs_of_five = epochs(33, 8, 1);
        assert_eq!(epochs_of_five.updates_in(12.0), 60);
        assert_eq!(epochs_of_five.epochs_after(60), 12.0);
        assert_eq!(epochs_of_five.epochs_after(59), 11.0 + 32.0 / 33.0);
        assert_eq!(epochs_of_five.updates_in(0.5), 3);
        assert_eq!(epochs_of_five.updates_in(2.2), 11);
        assert_eq!(epochs_of_five.updates_in(0.01), 1);
        assert_eq!(epochs_of_five.updates_in(1e300), u64::MAX);
    }

    #[test]
    fn an_epoch_is_formatted_as_text() {
        for (epochs, text) in [
            (epochs(30, 3, 8), "2 steps per epoch, 24 examples each in 8 batches, 6 in the last"),
            (epochs(32, 8, 1), "4 steps per epoch, 8 examples each"),
            (epochs(30, 7, 5), "1 step per epoch, 30 examples in 5 batches"),
        ] {
            assert_eq!(epochs.to_string(), text);
        }
    }
}
