//! AdamW with PyTorch's formula and defaults, in one pass over memory on the CPU.

use burn::optim::{AdamWState, AdaptiveMomentumState, LearningRate, Optimizer};
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use crate::device::is_host;
use crate::kernel::wide;
use crate::ops::floats;

/// AdamW as `torch.optim.AdamW` computes it.
///
/// Burn's own makes some ten temporaries of the parameter's size a step; here the update of host tensors
/// reads and writes each value once (`benches/README.md` has the measurement).
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta_1: f64,
    /// Decay of the second moment.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, times the learning rate.
    pub weight_decay: f64,
    /// Every gradient is multiplied by this first: clipping by global norm without a pass of its own.
    pub gradient_scale: f64,
}

impl Optimizer for AdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        learning_rate: LearningRate,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let (time, first, second) = match state {
            Some(AdamWState { momentum }) => {
                (momentum.time + 1, momentum.moment_1, momentum.moment_2)
            }
            None => (1, parameter.zeros_like(), parameter.zeros_like()),
        };
        let update = Update {
            rule: self,
            rate: learning_rate / (1.0 - self.beta_1.powi(time as i32)),
            keep: 1.0 - learning_rate * self.weight_decay,
            correction: (1.0 - self.beta_2.powi(time as i32)).sqrt(),
        };
        let (parameter, first, second) = if is_host(&parameter.device()) {
            update.in_place(parameter, gradient, first, second)
        } else {
            update.by_tensors(parameter, gradient, first, second)
        };
        let momentum =
            AdaptiveMomentumState { time, moment_1: first, moment_2: second, max_moment_2: None };
        (parameter, Some(AdamWState::new(momentum)))
    }

    fn to_device<const D: usize>(mut state: Self::State<D>, device: &Device) -> Self::State<D> {
        state.momentum = state.momentum.to_device(device);
        state
    }
}

/// One update's constants.
struct Update<'a> {
    rule: &'a AdamW,
    /// Learning rate over the first moment's bias correction.
    rate: f64,
    /// The factor of the parameter by weight decay.
    keep: f64,
    /// Root of the second moment's bias correction.
    correction: f64,
}

type Moments<const D: usize> = (Tensor<D>, Tensor<D>, Tensor<D>);

impl Update<'_> {
    /// The update as tensor operations, for devices that fuse them.
    fn by_tensors<const D: usize>(
        &self,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        first: Tensor<D>,
        second: Tensor<D>,
    ) -> Moments<D> {
        let rule = self.rule;
        let gradient = gradient * rule.gradient_scale;
        let first = first * rule.beta_1 + gradient.clone() * (1.0 - rule.beta_1);
        let second = second * rule.beta_2 + gradient.square() * (1.0 - rule.beta_2);
        let root = second.clone().sqrt() / self.correction + rule.epsilon;
        let parameter = parameter * self.keep - first.clone() / root * self.rate;
        (parameter, first, second)
    }

    /// The update in the tensors' own memory. On Flex a tensor with one owner is turned into its data and
    /// back without a copy; with more owners (an evaluation that still holds the model) it is copied.
    fn in_place<const D: usize>(
        &self,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        first: Tensor<D>,
        second: Tensor<D>,
    ) -> Moments<D> {
        /// Values a task takes at once: large enough to hide the scheduling, small enough to share out.
        const CHUNK: usize = 1 << 15;
        let device = parameter.device();
        let mut data = [parameter, first, second].map(Tensor::into_data);
        let gradient = gradient.into_data();
        {
            let [parameter, first, second] = data.each_mut().map(floats_mut);
            parameter
                .par_chunks_mut(CHUNK)
                .zip(floats(&gradient).par_chunks(CHUNK))
                .zip(first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK)))
                .for_each(|((parameter, gradient), (first, second))| {
                    self.chunk(parameter, gradient, first, second);
                });
        }
        let [parameter, first, second] = data.map(|data| Tensor::from_data(data, &device));
        (parameter, first, second)
    }

    fn chunk(
        &self,
        parameter: &mut [f32],
        gradient: &[f32],
        first: &mut [f32],
        second: &mut [f32],
    ) {
        let (beta_1, beta_2) = (self.rule.beta_1, self.rule.beta_2);
        let factors = Factors {
            betas: [beta_1 as f32, beta_2 as f32],
            // 1 - beta in f64 first, as PyTorch does: in f32, 1 - 0.999 is off by 1e-5 of itself.
            new: [(1.0 - beta_1) as f32, (1.0 - beta_2) as f32],
            rate: self.rate as f32,
            keep: self.keep as f32,
            epsilon: self.rule.epsilon as f32,
            scale: self.rule.gradient_scale as f32,
            // Times the inverse: the two divisions and the root are what this loop waits for.
            correction: (1.0 / self.correction) as f32,
        };
        update(&factors, parameter, gradient, first, second);
    }
}

/// [`Update`] in f32.
struct Factors {
    betas: [f32; 2],
    new: [f32; 2],
    rate: f32,
    keep: f32,
    epsilon: f32,
    scale: f32,
    correction: f32,
}

wide! {
    fn update(
        factors: &Factors,
        parameter: &mut [f32],
        gradient: &[f32],
        first: &mut [f32],
        second: &mut [f32],
    ) {
        let &Factors { betas, new, rate, keep, epsilon, scale, correction } = factors;
        let moments = first.iter_mut().zip(second);
        for ((parameter, gradient), (first, second)) in
            parameter.iter_mut().zip(gradient).zip(moments)
        {
            let gradient = gradient * scale;
            *first = betas[0] * *first + new[0] * gradient;
            *second = betas[1] * *second + new[1] * gradient * gradient;
            *parameter = keep * *parameter - rate * *first / (second.sqrt() * correction + epsilon);
        }
    }
}

pub(super) fn floats_mut(data: &mut TensorData) -> &mut [f32] {
    data.as_mut_slice().unwrap_or_else(|_| unreachable!("parameters and their moments are f32"))
}
