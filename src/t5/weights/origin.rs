//! The origin of a T5's initial weights, from which each parameter can be restored.

use burn::tensor::Device;

use super::initial::initial;
use super::{StoredTensors, WeightsError, fill, parameter_of};
use crate::device::ComputeDevice;
use crate::t5::{FeedForward, T5, T5Config};

/// The files or the seed that the weights of a T5 came from.
#[derive(Debug)]
pub struct Origin {
    config: T5Config,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Seed(u64),
    /// The files stay open: what is read later is what was read first, also if they are replaced or removed.
    Files(StoredTensors),
}

impl Origin {
    /// T5's own initialisation, as `seed` draws it.
    pub fn seed(config: T5Config, seed: u64) -> Self {
        Self { config, source: Source::Seed(seed) }
    }

    /// A checkpoint.
    pub fn files(config: T5Config, tensors: StoredTensors) -> Self {
        Self { config, source: Source::Files(tensors) }
    }

    /// Values of the parameter `name` (dotted, without `t5.`), as many as `shape` holds, row after row.
    ///
    /// # Errors
    /// The files no longer give them.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        match &self.source {
            Source::Seed(seed) => Ok(initial(&self.config, *seed, name, shape)),
            Source::Files(tensors) => {
                let gated = self.config.feed_forward == FeedForward::GatedGelu;
                parameter_of(tensors, gated, name, shape)
            }
        }
    }

    /// Reads the values of all parameters once, and keeps none of them; its head is a matrix of its own unless `tied`.
    ///
    /// # Errors
    /// The first that cannot be read or is not finite.
    pub fn check_values(&self, tied: bool) -> Result<(), WeightsError> {
        let parameters = fill::shapes(&T5::zeros(&self.config, tied, &Device::flex()));
        parameters.iter().try_for_each(|(name, shape)| self.values(name, shape).map(drop))
    }

    /// The T5 with all of them; its head is a matrix of its own unless `tied`.
    pub fn t5(&self, tied: bool, device: impl Into<ComputeDevice>) -> Result<T5, WeightsError> {
        fill::fill(T5::zeros(&self.config, tied, device), |name, shape| self.values(name, shape))
    }

    /// The original T5 of `model`, which was trained from it. Only the parameters that `trained` selects (dotted,
    /// without `t5.`) are read; all others share the model's tensors.
    pub fn t5_sharing_frozen(
        &self,
        model: &T5,
        trained: impl Fn(&str) -> bool,
    ) -> Result<T5, WeightsError> {
        fill::fill_some(model.clone(), trained, |name, shape| self.values(name, shape))
    }
}
