//! The types that stored values can have, and their bytes.

use burn::tensor::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::choice::choice;

choice! {
    /// The type of a stored value.
    Element {
        /// As it was computed.
        F32 = "f32",
        /// Half the size; 3 significant digits, and the range of f32.
        Bf16 = "bf16",
        /// Half the size; 4 significant digits, up to 65,504.
        F16 = "f16",
    }
}

impl Element {
    /// Bytes of one value.
    pub fn size(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::Bf16 | Element::F16 => 2,
        }
    }

    /// Burn's name for it.
    pub(super) fn dtype(self) -> DType {
        match self {
            Element::F32 => DType::F32,
            Element::Bf16 => DType::BF16,
            Element::F16 => DType::F16,
        }
    }

    /// The number that stands for it in files.
    pub(super) fn number(self) -> u32 {
        match self {
            Element::F32 => 1,
            Element::Bf16 => 2,
            Element::F16 => 3,
        }
    }

    /// `values` as bytes, little-endian; or the first finite value that the type cannot hold.
    pub(super) fn encode(self, values: &[f32]) -> Result<Vec<u8>, f32> {
        let lost = |value: f32, stored: f32| value.is_finite() && !stored.is_finite();
        let halves = |to: &dyn Fn(f32) -> (u16, f32)| {
            let mut bytes = Vec::with_capacity(values.len() * 2);
            for &value in values {
                let (bits, stored) = to(value);
                if lost(value, stored) {
                    return Err(value);
                }
                bytes.extend_from_slice(&bits.to_le_bytes());
            }
            Ok(bytes)
        };
        match self {
            Element::F32 => Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
            Element::Bf16 => halves(&|value| {
                let stored = bf16::from_f32(value);
                (stored.to_bits(), stored.to_f32())
            }),
            Element::F16 => halves(&|value| {
                let stored = f16::from_f32(value);
                (stored.to_bits(), stored.to_f32())
            }),
        }
    }

    /// Fills `values` from as many stored ones.
    pub(super) fn decode(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Element::F32 => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            Element::Bf16 => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
            Element::F16 => {
                // In parts: the processor converts many at once, but wants them aligned.
                let mut part = [f16::ZERO; 256];
                for (values, bytes) in values.chunks_mut(256).zip(bytes.chunks(512)) {
                    let part = &mut part[..values.len()];
                    for (half, bytes) in part.iter_mut().zip(bytes.as_chunks::<2>().0) {
                        *half = f16::from_le_bytes(*bytes);
                    }
                    part.convert_to_f32_slice(values);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_near_as_their_type_allows() {
        let values: Vec<f32> = (0..1001).map(|at| (at as f32 - 500.0) * 1.2345e-3).collect();
        for (element, near) in [(Element::F32, 0.0), (Element::Bf16, 4e-3), (Element::F16, 5e-4)] {
            let bytes = element.encode(&values).unwrap();
            assert_eq!(bytes.len(), values.len() * element.size());
            let mut back = vec![f32::NAN; values.len()];
            element.decode(&bytes, &mut back);
            for (value, back) in values.iter().zip(&back) {
                assert!((value - back).abs() <= near * value.abs(), "{element}: {value} {back}");
            }
        }
    }

    #[test]
    fn a_value_that_is_too_large_is_not_stored_as_infinity() {
        assert_eq!(Element::F16.encode(&[1.0, -70_000.0]), Err(-70_000.0));
        assert!(Element::Bf16.encode(&[-70_000.0, f32::NAN]).is_ok());
    }
}
