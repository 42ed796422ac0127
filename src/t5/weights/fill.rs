//! Walks a model's parameters by dotted name: filling them, or handing them out.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};

/// Sets every parameter of `module` to `values(name, shape)` (row-major, as many as the shape holds).
///
/// # Errors
/// The first error of `values`; the module is then lost.
pub fn fill<M: Module, E>(
    module: M,
    values: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
) -> Result<M, E> {
    let mut filler = Filler { path: Vec::new(), values, error: None };
    let module = module.map(&mut filler);
    match filler.error {
        Some(error) => Err(error),
        None => Ok(module),
    }
}

struct Filler<F, E> {
    path: Vec<String>,
    values: F,
    error: Option<E>,
}

impl<F: FnMut(&str, &[usize]) -> Result<Vec<f32>, E>, E> ModuleMapper for Filler<F, E> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        let shape = param.dims();
        match (self.values)(&self.path.join("."), &shape) {
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

/// One parameter, as a visit meets it.
pub struct Parameter {
    /// Dotted name, such as `t5.decoder.layers.3.mlp.output.weight`.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Its values, as a matrix (a vector is one row), off the autodiff graph.
    pub values: Tensor<2>,
    /// Whether it is trained.
    pub trained: bool,
}

/// Dotted name and number of values of every parameter of `module` in the order of its fields; none is looked at.
pub fn sizes<M: Module>(module: &M) -> Vec<(String, usize)> {
    let mut counter = Counter { path: Vec::new(), sizes: Vec::new() };
    module.visit(&mut counter);
    counter.sizes
}

struct Counter {
    path: Vec<String>,
    sizes: Vec<(String, usize)>,
}

impl ModuleVisitor for Counter {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.sizes.push((self.path.join("."), param.dims().iter().product()));
    }
}

/// Every parameter of `module` in the order of its fields. Tensors are shared, not copied.
pub fn parameters<M: Module>(module: &M) -> Vec<Parameter> {
    let mut collector = Collector { path: Vec::new(), parameters: Vec::new() };
    module.visit(&mut collector);
    collector.parameters
}

struct Collector {
    path: Vec<String>,
    parameters: Vec<Parameter>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let shape = tensor.dims().to_vec();
        let columns = shape.last().copied().unwrap_or(1);
        let trained = tensor.is_require_grad();
        let rows = shape.iter().product::<usize>() / columns.max(1);
        self.parameters.push(Parameter {
            name: self.path.join("."),
            values: tensor.inner().reshape([rows, columns]),
            shape,
            trained,
        });
    }
}
