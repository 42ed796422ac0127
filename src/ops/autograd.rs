//! Operations of our own on Burn's autodiff graph: the one place that knows it from the inside.

use std::fmt::Debug;
use std::marker::PhantomData;

use burn::tensor::Tensor;
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::NoCheckpointing;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn_flex::Flex;

use super::host::{Contiguous, HostTensor};

/// The backward pass of an operation with `N` inputs, as `torch.autograd.Function` has it.
pub(super) trait Operation<const N: usize>: 'static {
    /// The values that the forward pass saves for the backward pass.
    type Saved: Debug + Clone + Send + 'static;

    /// Gradients of the inputs, in their order, from that of the output. `needed` says which inputs require one; the
    /// gradient of another is ignored.
    fn backward(
        saved: Self::Saved,
        gradient: HostTensor,
        needed: [bool; N],
    ) -> [Option<HostTensor>; N];
}

/// An input of an operation.
pub(super) struct Input {
    value: HostTensor,
    /// None for a tensor off the graph: a constant.
    node: Option<NodeGuard>,
    /// True if a gradient is required.
    tracked: bool,
}

impl Input {
    /// In place of an input that is absent; its value is not read.
    pub(super) fn absent() -> Self {
        Self { value: HostTensor::new(vec![0.0], [1]), node: None, tracked: false }
    }
}

impl<const D: usize> From<Tensor<D>> for Input {
    fn from(tensor: Tensor<D>) -> Self {
        if !tensor.is_autodiff() {
            return Self { value: HostTensor::of(tensor), node: None, tracked: false };
        }
        let (value, node, tracked) = on_graph(tensor);
        Self { value, node: Some(node), tracked }
    }
}

/// Applies `forward` to the inputs' values. Where one of them is on the autodiff graph, the output is, too, and what
/// `forward` returns beside it is saved for the backward pass of `O`.
///
/// `forward` also gets which inputs require a gradient.
pub(super) fn apply<O: Operation<N>, const N: usize, const D: usize>(
    inputs: [Input; N],
    forward: impl FnOnce([HostTensor; N], [bool; N]) -> (HostTensor, O::Saved),
) -> Tensor<D> {
    let off_graph = inputs.iter().all(|input| input.node.is_none());
    let needed = inputs.each_ref().map(|input| input.tracked);
    let mut nodes = Vec::with_capacity(N);
    let values = inputs.map(|input| {
        nodes.push(input.node);
        input.value
    });
    if off_graph {
        return forward(values, needed).0.into_tensor();
    }
    let mut nodes = nodes.into_iter();
    // A constant enters the graph as a node without a gradient; its value does not matter there.
    let nodes: [NodeGuard; N] = std::array::from_fn(|_| {
        nodes.next().flatten().unwrap_or_else(|| {
            on_graph(HostTensor::new(vec![0.0], [1]).into_tensor::<1>().autodiff()).1
        })
    });
    let (output, saved) = forward(values, needed);
    let prepared = Node::<O>(PhantomData).prepare::<NoCheckpointing>(nodes);
    Tensor::from_primitive::<Autodiff<Flex>>(match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(saved, output.into_flex()),
        OpsKind::UnTracked(prepared) => prepared.finish(output.into_flex()),
    })
}

/// The values of a tensor that is an input without a gradient, whether it is on the graph or not.
pub(super) fn constant<const D: usize>(tensor: Tensor<D>) -> Contiguous {
    Input::from(tensor).value.contiguous()
}

/// The value of a tensor on the graph, its node, and whether it requires a gradient.
fn on_graph<const D: usize>(tensor: Tensor<D>) -> (HostTensor, NodeGuard, bool) {
    let tensor = tensor.try_into_primitive::<Autodiff<Flex>>();
    let tensor = tensor.unwrap_or_else(|_| {
        unreachable!("callers ask `is_host` first, and no checkpointing strategy is ever chosen")
    });
    let tracked = tensor.is_tracked();
    let (value, node) = tensor.into_parts();
    (HostTensor::from_flex(value), node, tracked)
}

/// The node of operation `O` in Burn's graph.
struct Node<O>(PhantomData<fn() -> O>);

impl<O> Debug for Node<O> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(std::any::type_name::<O>())
    }
}

impl<O: Operation<N>, const N: usize> Backward<Flex, N> for Node<O> {
    type State = O::Saved;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = HostTensor::from_flex(gradients.consume::<Flex>(&ops.node));
        let needed = ops.parents.each_ref().map(Option::is_some);
        let found = O::backward(ops.state, gradient, needed);
        for (node, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                gradients.register::<Flex>(node.id, gradient.into_flex());
            }
        }
    }
}
