//! Tensors of the device Flex as what Burn's own operations are made of.

use burn::tensor::Tensor;
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::strategy::NoCheckpointing;
use burn_autodiff::ops::{Backward, NodeGuard, OpsKind};
use burn_flex::{Flex, FlexTensor};

const ON_FLEX: &str = "its device is Flex, and no checkpointing strategy is ever asked for";

/// A tensor that is not on the graph.
pub(crate) fn plain<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    tensor.try_into_primitive::<Flex>().unwrap_or_else(|_| unreachable!("{ON_FLEX}"))
}

/// A tensor off the graph.
pub(crate) fn to_tensor<const D: usize>(tensor: FlexTensor) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(tensor)
}

/// An input of an operation on the graph.
pub(crate) struct Input {
    /// What the operation computes with.
    pub value: FlexTensor,
    /// Its place in the graph.
    pub node: NodeGuard,
    /// Whether its gradient is wanted.
    pub tracked: bool,
}

impl Input {
    /// A tensor as an input; one that is not on the graph enters it as a constant.
    pub fn of<const D: usize>(tensor: Tensor<D>) -> Self {
        let tensor = if tensor.is_autodiff() { tensor } else { tensor.autodiff() };
        let tensor = tensor.try_into_primitive::<Autodiff<Flex>>();
        let tensor = tensor.unwrap_or_else(|_| unreachable!("{ON_FLEX}"));
        let tracked = tensor.is_tracked();
        let (value, node) = tensor.into_parts();
        Self { value, node, tracked }
    }
}

/// The output of an operation on the graph over inputs at `nodes`, with what its backward pass needs.
pub(crate) fn recorded<O: Backward<Flex, N>, const N: usize, const D: usize>(
    operation: O,
    nodes: [NodeGuard; N],
    kept: O::State,
    output: FlexTensor,
) -> Tensor<D> {
    let prepared = operation.prepare::<NoCheckpointing>(nodes);
    Tensor::from_primitive::<Autodiff<Flex>>(match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(kept, output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    })
}

/// The values of a contiguous tensor.
pub(crate) fn floats(tensor: &FlexTensor) -> &[f32] {
    let layout = tensor.layout();
    &tensor.storage::<f32>()[layout.start_offset()..][..layout.num_elements()]
}

/// The values of a tensor, to be changed: copied first where another tensor shares them, or where they do not lie one
/// after another from the first on.
pub(crate) fn floats_mut(tensor: &mut FlexTensor) -> &mut [f32] {
    let layout = tensor.layout();
    let count = layout.num_elements();
    if !tensor.is_contiguous() || layout.start_offset() > 0 {
        *tensor = FlexTensor::from_data(tensor.to_contiguous().into_data());
    }
    &mut tensor.storage_mut::<f32>()[..count]
}
