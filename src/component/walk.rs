//! Walks a module's parameters by their dotted names. No other code implements Burn's visitor and mapper.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// Visits each parameter of a module. It is a trait and not a closure because it is generic over the rank.
pub trait VisitParameter {
    /// Called with the dotted name, such as `t5.decoder.layers.3.mlp.output.weight`.
    fn visit<const D: usize>(&mut self, name: &str, parameter: &Param<Tensor<D>>);
}

/// Replaces each parameter of a module.
pub trait MapParameter {
    /// Called with the dotted name; returns the new parameter.
    fn map<const D: usize>(&mut self, name: &str, parameter: Param<Tensor<D>>) -> Param<Tensor<D>>;
}

/// Visits every parameter of `module` in the order of its fields.
pub fn visit_parameters<M: Module>(module: &M, visit: &mut impl VisitParameter) {
    module.visit(&mut Walk { name: String::new(), each: visit });
}

/// The `module` with every parameter mapped, in the order of its fields.
pub fn map_parameters<M: Module>(module: M, map: &mut impl MapParameter) -> M {
    module.map(&mut Walk { name: String::new(), each: map })
}

struct Walk<'a, E> {
    /// Of what is walked through now: `.t5.decoder`.
    name: String,
    each: &'a mut E,
}

impl<E> Walk<'_, E> {
    fn enter(&mut self, name: &str) {
        self.name.push('.');
        self.name.push_str(name);
    }

    fn exit(&mut self, name: &str) {
        self.name.truncate(self.name.len() - name.len() - 1);
    }
}

impl<E: VisitParameter> ModuleVisitor for Walk<'_, E> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.enter(name);
    }

    fn exit_module(&mut self, name: &str, _container: &str) {
        self.exit(name);
    }

    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        self.each.visit(self.name.trim_start_matches('.'), parameter);
    }
}

impl<E: MapParameter> ModuleMapper for Walk<'_, E> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.enter(name);
    }

    fn exit_module(&mut self, name: &str, _container: &str) {
        self.exit(name);
    }

    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.each.map(self.name.trim_start_matches('.'), parameter)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[derive(Module, Debug)]
    struct Inner {
        matrix: Param<Tensor<2>>,
        vector: Param<Tensor<1>>,
    }

    #[derive(Module, Debug)]
    struct Outer {
        layers: Vec<Inner>,
        head: Inner,
    }

    #[derive(Default)]
    struct Names(Vec<String>);

    impl VisitParameter for Names {
        fn visit<const D: usize>(&mut self, name: &str, _parameter: &Param<Tensor<D>>) {
            self.0.push(name.to_owned());
        }
    }

    impl MapParameter for Names {
        fn map<const D: usize>(
            &mut self,
            name: &str,
            parameter: Param<Tensor<D>>,
        ) -> Param<Tensor<D>> {
            self.0.push(name.to_owned());
            parameter
        }
    }

    #[test]
    fn parameters_of_every_rank_are_walked_by_their_dotted_names() {
        let device = Device::flex();
        let inner = || Inner {
            matrix: Param::from_tensor(Tensor::zeros([2, 3], &device)),
            vector: Param::from_tensor(Tensor::zeros([2], &device)),
        };
        let module = Outer { layers: vec![inner(), inner()], head: inner() };
        let (mut visited, mut mapped) = (Names::default(), Names::default());
        visit_parameters(&module, &mut visited);
        map_parameters(module, &mut mapped);
        assert_eq!(
            visited.0,
            [
                "layers.0.matrix",
                "layers.0.vector",
                "layers.1.matrix",
                "layers.1.vector",
                "head.matrix",
                "head.vector"
            ]
        );
        assert_eq!(visited.0, mapped.0);
    }
}
