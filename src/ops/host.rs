//! Tensors in the CPU's memory: the one place that knows how Burn's device Flex stores them.

use burn::tensor::{Tensor, TensorData};
use burn_flex::{Flex, FlexTensor};

use crate::device::is_host;
use crate::kernel::Matrix;

/// An f32 tensor in the CPU's memory, in any layout and off the autodiff graph. Clones share memory.
#[derive(Debug, Clone)]
pub(crate) struct HostTensor(FlexTensor);

impl HostTensor {
    /// The values of a tensor of the device Flex that is not on the autodiff graph; nothing is copied.
    pub fn of<const D: usize>(tensor: Tensor<D>) -> Self {
        let tensor = tensor.try_into_primitive::<Flex>();
        Self(
            tensor
                .unwrap_or_else(|_| unreachable!("callers ask `is_host` and `is_autodiff` first")),
        )
    }

    /// The values of a tensor of any device that is not on the autodiff graph; copied only if they are elsewhere.
    pub fn read<const D: usize>(tensor: Tensor<D>) -> Self {
        match is_host(&tensor.device()) {
            true => Self::of(tensor),
            false => Self(FlexTensor::from_data(tensor.into_data())),
        }
    }

    /// Contiguous values in row-major order.
    pub fn new<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Self {
        Self(FlexTensor::from_data(TensorData::new(values, shape)))
    }

    /// As a tensor of the device Flex, off the autodiff graph; nothing is copied.
    pub fn into_tensor<const D: usize>(self) -> Tensor<D> {
        Tensor::from_primitive::<Flex>(self.0)
    }

    /// Its sizes; panics if its rank is not `D`.
    pub fn shape<const D: usize>(&self) -> [usize; D] {
        let shape = self.0.layout().shape();
        assert_eq!(shape.len(), D, "rank of a tensor");
        std::array::from_fn(|axis| shape[axis])
    }

    /// A tensor of rank 2 as a matrix, whatever its layout.
    pub fn matrix(&self) -> Matrix<'_> {
        let layout = self.0.layout();
        let (shape, strides) = (self.shape(), layout.strides());
        let values = &self.0.storage::<f32>()[layout.start_offset()..];
        Matrix::strided(values, shape, [strides[0], strides[1]])
    }

    /// In row-major order; copied only if its layout is another one.
    pub fn contiguous(self) -> Contiguous {
        Contiguous(Self(if self.0.is_contiguous() { self.0 } else { self.0.to_contiguous() }))
    }

    /// Burn's own type, for the autodiff graph.
    pub(super) fn into_flex(self) -> FlexTensor {
        self.0
    }

    /// From Burn's own type.
    pub(super) fn from_flex(tensor: FlexTensor) -> Self {
        Self(tensor)
    }
}

/// The values of parameters, of their gradients or of their moments.
pub(crate) fn floats(data: &TensorData) -> &[f32] {
    data.as_slice().unwrap_or_else(|_| unreachable!("they are f32"))
}

/// A [`HostTensor`] whose values are contiguous, in row-major order.
#[derive(Debug, Clone)]
pub(crate) struct Contiguous(HostTensor);

impl Contiguous {
    /// All values.
    pub fn values(&self) -> &[f32] {
        let tensor = &self.0.0;
        let layout = tensor.layout();
        &tensor.storage::<f32>()[layout.start_offset()..][..layout.num_elements()]
    }

    /// All values, for changes: copied first if another tensor shares them.
    pub fn values_mut(&mut self) -> &mut [f32] {
        let tensor = &mut self.0.0;
        let count = tensor.layout().num_elements();
        if tensor.layout().start_offset() > 0 {
            *tensor = FlexTensor::from_data(tensor.to_contiguous().into_data());
        }
        &mut tensor.storage_mut::<f32>()[..count]
    }

    /// Its sizes; panics if its rank is not `D`.
    pub fn shape<const D: usize>(&self) -> [usize; D] {
        self.0.shape()
    }

    /// A tensor of rank 2 as a matrix.
    pub fn matrix(&self) -> Matrix<'_> {
        self.0.matrix()
    }

    /// The tensor itself.
    pub fn into_host(self) -> HostTensor {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn counting() -> Tensor<2> {
        let values: Vec<f32> = (0..12).map(|at| at as f32).collect();
        Tensor::from_data(TensorData::new(values, [3, 4]), &Device::flex())
    }

    #[test]
    fn values_of_any_layout_are_given_in_row_major_order() {
        let transposed = HostTensor::of(counting().transpose()).contiguous();
        assert_eq!(transposed.shape(), [4, 3]);
        assert_eq!(transposed.values()[..4], [0.0, 4.0, 8.0, 1.0]);
        let rows = HostTensor::of(counting().slice(1..3)).contiguous();
        assert_eq!(rows.values(), [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
    }

    #[test]
    fn changed_values_change_no_other_tensor() {
        let whole = counting();
        let mut rows = HostTensor::of(whole.clone().slice(1..2)).contiguous();
        rows.values_mut().fill(-1.0);
        assert_eq!(rows.values(), [-1.0; 4]);
        let whole = HostTensor::of(whole).contiguous();
        assert_eq!(whole.values()[4..8], [4.0, 5.0, 6.0, 7.0]);
    }
}
