//! Sums the gradients of several processes.

use std::collections::BTreeSet;
use std::time::Instant;

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};

use super::gradient_sum::round_all;
use super::pairwise_sum::PairwiseSum;
use super::shards::DOCIDS;
use crate::component::{VisitParameter, visit_parameters};
use crate::ops::floats;
use crate::processes::{ProcessesError, World};
use crate::recipe::GradientDtype;
use crate::t5::GenirModel;

/// Adding it to any number, 0.0 and -0.0 among them, gives that number: the gradient of a parameter on a process that has
/// none.
const NOTHING: f32 = -0.0;

/// Returns the sum of the gradients of all processes on each of them, along the tree of [`PairwiseSum`] over the processes.
/// Each sums an equal part of all values, so that less than twice their bytes leave each process, whatever their number.
/// `dtype`: the type to which `own` is rounded, and each sum is. `divided`: docid rows are divided among the processes, and
/// stay.
///
/// # Errors
/// A function of MPI failed.
pub(super) fn sum_of_all(
    world: &World,
    model: &GenirModel,
    own: GradientsParams,
    dtype: GradientDtype,
    divided: bool,
    device: &Device,
) -> Result<GradientsParams, ProcessesError> {
    let begun = Instant::now();
    let mut sent = Flatten { gradients: own, divided, values: Vec::new(), is_there: Vec::new() };
    visit_parameters(model, &mut sent);
    let Flatten { mut values, is_there, .. } = sent;
    let count = values.len();
    // Even, since two bfloat16 are one word.
    let part = count.div_ceil(world.count()).next_multiple_of(2);
    values.resize(part * world.count(), NOTHING);
    let mut parts = match dtype {
        GradientDtype::Float32 => world.all_to_all(&values)?,
        GradientDtype::Bfloat16 => {
            let words = packed(&values);
            values = Vec::new();
            unpacked(&world.all_to_all(&words)?)
        }
    }; // [processes, part]
    drop(values);
    let add = |left, right| added(left, right, dtype);
    let mut sum = PairwiseSum::default();
    for of_process in parts.chunks_exact_mut(part.max(1)) {
        sum.push(of_process, add);
    }
    let sum = sum.total(add).unwrap_or_default().to_vec(); // [part]
    drop(parts);
    let mut values = match dtype {
        GradientDtype::Float32 => world.all_gather(&sum)?,
        GradientDtype::Bfloat16 => unpacked(&world.all_gather(&packed(&sum))?),
    }; // [processes, part]
    values.truncate(count);
    let there = world.all_gather(&is_there)?; // [processes, parameters]
    let anywhere = |at: usize| there.iter().skip(at).step_by(is_there.len()).any(|&is| is == 1);
    let found = (0..is_there.len()).filter(|&at| anywhere(at)).collect();
    let gradients = GradientsParams::new();
    let mut all = Unflatten { values, taken: 0, parameter: 0, found, gradients, divided, device };
    visit_parameters(model, &mut all);
    tracing::debug!("{world:?} has exchanged {count} gradients in {:.1?}", begun.elapsed());
    Ok(all.gradients)
}

fn added<'a>(left: &'a mut [f32], right: &'a mut [f32], dtype: GradientDtype) -> &'a mut [f32] {
    left.iter_mut().zip(right).for_each(|(left, right)| *left += *right);
    round_all(left, dtype);
    left
}

/// An even number of values that bfloat16 has, two in a word.
fn packed(values: &[f32]) -> Vec<u32> {
    let (pairs, _) = values.as_chunks();
    let word = |&[first, second]: &[f32; 2]| first.to_bits() >> 16 | second.to_bits() & 0xffff_0000;
    pairs.iter().map(word).collect()
}

fn unpacked(words: &[u32]) -> Vec<f32> {
    words.iter().flat_map(|&word| [word << 16, word & 0xffff_0000]).map(f32::from_bits).collect()
}

/// Takes the gradients of all trained parameters, one after another in the order of a checkpoint.
struct Flatten {
    gradients: GradientsParams,
    divided: bool,
    values: Vec<f32>,
    /// For each trained parameter, 1 if it has a gradient.
    is_there: Vec<u8>,
}

impl VisitParameter for Flatten {
    fn visit<const D: usize>(&mut self, name: &str, parameter: &Param<Tensor<D>>) {
        if !parameter.is_require_grad() || (self.divided && name == DOCIDS) {
            return;
        }
        let gradient = self.gradients.remove::<D>(parameter.id);
        self.is_there.push(u8::from(gradient.is_some()));
        match gradient {
            Some(gradient) => self.values.extend_from_slice(floats(&gradient.into_data())),
            None => {
                let end = self.values.len() + parameter.shape().num_elements();
                self.values.resize(end, NOTHING);
            }
        }
    }
}

/// Gives each trained parameter its part of the values.
struct Unflatten<'a> {
    values: Vec<f32>,
    taken: usize,
    parameter: usize,
    /// The trained parameters, counted from 0, that have a gradient on any process.
    found: BTreeSet<usize>,
    gradients: GradientsParams,
    divided: bool,
    device: &'a Device,
}

impl VisitParameter for Unflatten<'_> {
    fn visit<const D: usize>(&mut self, name: &str, parameter: &Param<Tensor<D>>) {
        if !parameter.is_require_grad() || (self.divided && name == DOCIDS) {
            return;
        }
        let shape = parameter.shape();
        let end = self.taken + shape.num_elements();
        if self.found.contains(&self.parameter) {
            let values = self.values[self.taken..end].to_vec();
            let gradient = Tensor::<D>::from_data(TensorData::new(values, shape), self.device);
            self.gradients.register(parameter.id, gradient);
        }
        (self.taken, self.parameter) = (end, self.parameter + 1);
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn each_sum_is_rounded() {
        let part = 2.0_f32.powi(-8);
        let sum = |dtype| {
            let (mut values, mut parts) = ([1.0], [part; 2]);
            let (first, second) = parts.split_at_mut(1);
            added(added(&mut values, first, dtype), second, dtype)[0]
        };
        assert_eq!(sum(GradientDtype::Float32), 1.0 + 2.0 * part);
        assert_eq!(sum(GradientDtype::Bfloat16), 1.0);
    }

    #[test]
    fn values_of_bfloat16_are_packed_without_loss() {
        let values = [1.5, -0.0, 0.0, -3.0e38, f32::INFINITY, 1.0e-40, f32::MIN_POSITIVE, -256.0];
        let values = values.map(|value| bf16::from_f32(value).to_f32());
        let found = unpacked(&packed(&values));
        assert_eq!(
            found.iter().map(|value| value.to_bits()).collect::<Vec<_>>(),
            values.map(f32::to_bits)
        );
        assert!(unpacked(&packed(&[f32::NAN, 1.0]))[0].is_nan());
    }
}
