//! Fills a model's parameters by dotted name, or hands them out.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use crate::component::{MapParameter, VisitParameter, map_parameters, visit_parameters};
use crate::t5::GenirModel;

/// Sets every parameter of `module` to `values(name, shape)` (row-major, as many as the shape holds).
///
/// # Errors
/// The first error of `values`; the module is then lost.
pub fn fill<M: Module, E>(
    module: M,
    values: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
) -> Result<M, E> {
    fill_some(module, |_| true, values)
}

/// As [`fill`], but only the parameters that `which` names.
pub fn fill_some<M: Module, E>(
    module: M,
    which: impl Fn(&str) -> bool,
    values: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
) -> Result<M, E> {
    let mut filler = Filler { which, values, error: None };
    let module = map_parameters(module, &mut filler);
    match filler.error {
        Some(error) => Err(error),
        None => Ok(module),
    }
}

struct Filler<W, F, E> {
    which: W,
    values: F,
    error: Option<E>,
}

impl<W, F, E> MapParameter for Filler<W, F, E>
where
    W: Fn(&str) -> bool,
    F: FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
{
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() || !(self.which)(name) {
            return param;
        }
        let shape = param.dims();
        match (self.values)(name, &shape) {
            Ok(values) => param.map(|old| {
                let new = Tensor::from_data(TensorData::new(values, shape), &old.device());
                new.set_require_grad(old.is_require_grad())
            }),
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

/// One parameter of a module.
pub struct Parameter {
    /// Dotted name, such as `t5.decoder.layers.3.mlp.output.weight`.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Its values, as a matrix (a vector is one row), off the autodiff graph.
    pub values: Tensor<2>,
    /// True if it is trained.
    pub trained: bool,
}

/// Replaces every parameter that `which` selects by a placeholder of the same shape, an expanded view of a single NaN,
/// so that any use of it shows in the result.
pub fn with_placeholders<M: Module>(module: M, which: impl Fn(&str) -> bool) -> M {
    map_parameters(module, &mut Placeholders(which))
}

struct Placeholders<W>(W);

impl<W: Fn(&str) -> bool> MapParameter for Placeholders<W> {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !(self.0)(name) {
            return param;
        }
        param.map(|old| {
            let one = Tensor::<D>::full([1; D], f32::NAN, &old.device());
            one.expand(old.dims()).set_require_grad(old.is_require_grad())
        })
    }
}

/// Dotted name and dimensions of every parameter of `module` in the order of its fields; values are not read.
pub fn shapes<M: Module>(module: &M) -> Vec<(String, Vec<usize>)> {
    let mut measurer = Measurer(Vec::new());
    visit_parameters(module, &mut measurer);
    measurer.0
}

struct Measurer(Vec<(String, Vec<usize>)>);

impl VisitParameter for Measurer {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        self.0.push((name.to_owned(), param.dims().to_vec()));
    }
}

/// Every parameter of `module` in the order of its fields. Tensors are shared, not copied.
pub fn parameters<M: Module>(module: &M) -> Vec<Parameter> {
    parameters_where(module, |_| true)
}

/// As [`parameters`], but only those that `which` names.
pub fn parameters_where<M: Module>(module: &M, which: impl Fn(&str) -> bool) -> Vec<Parameter> {
    let mut collector = Collector { which, parameters: Vec::new() };
    visit_parameters(module, &mut collector);
    collector.parameters
}

struct Collector<W> {
    which: W,
    parameters: Vec<Parameter>,
}

impl<W: Fn(&str) -> bool> VisitParameter for Collector<W> {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        if !(self.which)(name) {
            return;
        }
        let tensor = param.val();
        let shape = tensor.dims().to_vec();
        let columns = shape.last().copied().unwrap_or(1);
        let trained = tensor.is_require_grad();
        let rows = shape.iter().product::<usize>() / columns.max(1);
        self.parameters.push(Parameter {
            name: name.to_owned(),
            values: tensor.inner().reshape([rows, columns]),
            shape,
            trained,
        });
    }
}

/// The first parameter of a model with values that are not finite, and their number. Released weights are not read.
pub fn first_not_finite(model: &GenirModel) -> Option<(String, usize)> {
    first_not_finite_where(model, |_| true)
}

/// As [`first_not_finite`], but only of the parameters that `which` names.
pub fn first_not_finite_where(
    model: &GenirModel,
    which: impl Fn(&str) -> bool,
) -> Option<(String, usize)> {
    let released = model.t5.released();
    let is_held = |name: &str| {
        let own = name.strip_prefix("t5.");
        own.is_none_or(|own| released.is_none_or(|released| !released.includes(own)))
    };
    parameters_where(model, |name| which(name) && is_held(name)).into_iter().find_map(|parameter| {
        let values = parameter.values.into_data();
        let values: &[f32] = values.as_slice().unwrap_or_default();
        let count = values
            .par_chunks(1 << 16)
            .map(|values| values.iter().filter(|value| !value.is_finite()).count());
        Some((parameter.name, count.sum())).filter(|(_, count)| *count > 0)
    })
}
