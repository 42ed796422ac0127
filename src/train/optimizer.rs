//! Applies an update rule to every trained parameter of a module, with clipping by global norm.
//!
//! Burn's own `ModuleOptimizer` clips each tensor by itself and keys states by ids that are new in every
//! process. Here the norm is taken over all gradients, and states have the parameters' names.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::optim::{AdafactorState, AdamWState, DynState, GradientsParams, Optimizer as Rule};
use burn::tensor::Tensor;
use rayon::prelude::*;
use thiserror::Error;

use super::adafactor::Adafactor;
use super::adamw::AdamW;
use super::shards::DOCIDS;
use crate::component::{MapParameter, VisitParameter, map_parameters, visit_parameters};
use crate::device::is_host;
use crate::kernel;
use crate::ops::{floats, task_rows};
use crate::recipe;

/// The optimizer of a run: a rule, and a state for each parameter that it has updated.
pub struct Optimizer {
    pub(super) rule: UpdateRule,
    clip_norm: Option<f64>,
    pub(super) states: BTreeMap<String, State>,
}

/// The state of one parameter.
pub(super) struct State {
    pub(super) state: DynState,
    bytes: u64,
}

impl State {
    /// Of a parameter of rank `D`.
    pub(super) fn new<const D: usize>(state: impl Moments<D>) -> Self {
        let bytes = state.values() * size_of::<f32>() as u64;
        Self { bytes, state: DynState::create(state, D) }
    }
}

/// The update rule.
#[derive(Clone)]
pub(super) enum UpdateRule {
    AdamW(AdamW),
    Adafactor(Adafactor),
}

/// Result of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Updated {
    /// Norm of all gradients together, before clipping.
    pub gradient_norm: f64,
}

/// Error of an update; nothing was updated.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
#[error("the norm of the gradients is {gradient_norm}")]
pub struct UpdateError {
    /// Norm of all gradients together: infinite or NaN.
    pub gradient_norm: f64,
}

impl Optimizer {
    /// The optimizer that a recipe asks for, without states.
    pub fn new(section: &recipe::OptimizerSection) -> Self {
        let rule = match section.optimizer {
            recipe::OptimizerSettings::AdamW {
                betas: [beta_1, beta_2],
                eps: epsilon,
                weight_decay,
            } => UpdateRule::AdamW(AdamW {
                beta_1,
                beta_2,
                epsilon,
                weight_decay,
                gradient_scale: 1.0,
            }),
            recipe::OptimizerSettings::Adafactor {
                eps: [epsilon_1, epsilon_2],
                clip_threshold,
                decay_rate,
                weight_decay,
                scale_parameter,
            } => UpdateRule::Adafactor(Adafactor {
                epsilon: epsilon_1,
                least_scale: epsilon_2,
                clip_threshold,
                decay_rate,
                weight_decay,
                scale_parameter,
                gradient_scale: 1.0,
            }),
        };
        Self { rule, clip_norm: section.clip_norm, states: BTreeMap::new() }
    }

    /// Names of the parameters that have a state: those updated so far.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.states.keys().map(String::as_str)
    }

    /// Bytes of all states.
    pub fn state_bytes(&self) -> u64 {
        self.states.values().map(|state| state.bytes).sum()
    }

    /// Updates every parameter of `module` that has a gradient.
    ///
    /// # Errors
    /// The gradients are not finite; the module is then returned as it was.
    pub fn step<M: Module>(
        &mut self,
        module: M,
        gradients: GradientsParams,
        learning_rate: f64,
    ) -> (M, Result<Updated, UpdateError>) {
        self.step_with(module, gradients, learning_rate, None)
    }

    /// The same, where `module` has some of the docid rows only: `of_docids` is the sum of the squares of the gradients of
    /// all of them, by [`sums_of_squares`].
    pub(super) fn step_with<M: Module>(
        &mut self,
        module: M,
        mut gradients: GradientsParams,
        learning_rate: f64,
        of_docids: Option<f64>,
    ) -> (M, Result<Updated, UpdateError>) {
        let mut norm =
            NormOf { gradients: &mut gradients, on_host: 0.0, on_device: None, of_docids };
        visit_parameters(&module, &mut norm);
        let gradient_norm = norm.value();
        if !gradient_norm.is_finite() {
            return (module, Err(UpdateError { gradient_norm }));
        }
        // As torch.nn.utils.clip_grad_norm_ has it.
        let scale = match self.clip_norm {
            Some(limit) => (limit / (gradient_norm + 1e-6)).min(1.0),
            None => 1.0,
        };
        let mut apply = Apply {
            rule: &self.rule,
            states: &mut self.states,
            gradients: &mut gradients,
            learning_rate,
            scale,
        };
        (map_parameters(module, &mut apply), Ok(Updated { gradient_norm }))
    }
}

/// Sums the squares of all gradients of a module.
struct NormOf<'a> {
    gradients: &'a mut GradientsParams,
    on_host: f64,
    /// `[1]`: a GPU's sums are added up there and read once, or it would be waited for at each parameter.
    on_device: Option<Tensor<1>>,
    /// The squares of the docid rows, if they are not to be computed here.
    of_docids: Option<f64>,
}

impl NormOf<'_> {
    fn value(self) -> f64 {
        let on_device = self.on_device.map_or(0.0, |sum| f64::from(sum.into_scalar::<f32>()));
        (self.on_host + on_device).sqrt()
    }
}

impl VisitParameter for NormOf<'_> {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        if let (DOCIDS, Some(squares)) = (name, self.of_docids) {
            self.on_host += squares;
            return;
        }
        // Taken out and put back: a tensor with one owner gives its data without a copy.
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return };
        let gradient = if is_host(&gradient.device()) {
            let rows = gradient.dims()[0];
            let task = if name == DOCIDS { task_rows(rows) } else { rows };
            let (sums, gradient) = sums_of_squares(gradient, task);
            self.on_host += sums.iter().sum::<f64>();
            gradient
        } else {
            let sum = gradient.clone().square().sum();
            self.on_device = Some(match self.on_device.take() {
                Some(others) => others + sum,
                None => sum,
            });
            gradient
        };
        self.gradients.register(param.id, gradient);
    }
}

/// Sums of the squares of a tensor that lies in the CPU's memory, in chunks that begin anew with each task of rows. They are
/// to be added up in this order: the sum depends neither on the number of threads nor on how tasks are divided among
/// processes.
pub(super) fn sums_of_squares<const D: usize>(
    gradient: Tensor<D>,
    task: usize,
) -> (Vec<f64>, Tensor<D>) {
    let device = gradient.device();
    let row = gradient.shape().num_elements() / gradient.dims()[0].max(1);
    let data = gradient.into_data();
    let tasks = floats(&data).chunks((task * row).max(1));
    let chunks: Vec<&[f32]> = tasks.flat_map(|task| task.chunks(1 << 14)).collect();
    let sums = chunks.into_par_iter().map(kernel::sum_of_squares).collect();
    (sums, Tensor::from_data(data, &device))
}

/// Walks a module and updates each parameter that has a gradient.
struct Apply<'a> {
    rule: &'a UpdateRule,
    states: &'a mut BTreeMap<String, State>,
    gradients: &'a mut GradientsParams,
    learning_rate: f64,
    scale: f64,
}

impl MapParameter for Apply<'_> {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else {
            return param;
        };
        let (id, tensor, mapper) = param.consume();
        let state = self.states.remove(name);
        let tensor = tensor.inner();
        let (tensor, state) = match self.rule {
            UpdateRule::AdamW(rule) => {
                let rule = AdamW { gradient_scale: self.scale, ..*rule };
                update(&rule, self.learning_rate, tensor, gradient, state)
            }
            UpdateRule::Adafactor(rule) => {
                let rule = Adafactor { gradient_scale: self.scale, ..*rule };
                update(&rule, self.learning_rate, tensor, gradient, state)
            }
        };
        if let Some(state) = state {
            self.states.insert(name.to_owned(), state);
        }
        let tensor = Tensor::from_inner(tensor).require_grad();
        Param::from_mapped_value(id, tensor, mapper)
    }
}

fn update<R: Rule, const D: usize>(
    rule: &R,
    learning_rate: f64,
    tensor: Tensor<D>,
    gradient: Tensor<D>,
    state: Option<State>,
) -> (Tensor<D>, Option<State>)
where
    R::State<D>: Moments<D>,
{
    let state = state.map(|state| state.state.downcast::<R::State<D>>());
    let (tensor, state) = rule.step(learning_rate, tensor, gradient, state);
    (tensor, state.map(State::new))
}

/// The state of an update rule, in f32.
pub(super) trait Moments<const D: usize>: Send + Sync + 'static {
    /// Number of values.
    fn values(&self) -> u64;
}

impl<const D: usize> Moments<D> for AdamWState<D> {
    fn values(&self) -> u64 {
        count(&self.momentum.moment_1) + count(&self.momentum.moment_2)
    }
}

impl<const D: usize> Moments<D> for AdafactorState<D> {
    fn values(&self) -> u64 {
        count(&self.second_moment) + self.column_second_moment.as_ref().map_or(0, count)
    }
}

fn count<const D: usize>(tensor: &Tensor<D>) -> u64 {
    tensor.shape().num_elements() as u64
}
