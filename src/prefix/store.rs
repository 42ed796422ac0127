//! Stored prefixes of a set of texts, and how batches are gathered from them.

use std::collections::HashMap;

use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;

use super::compute::{Frozen, indices};
use super::file::Mapped;
use super::texts::{TextKey, Texts, key_of};
use super::{CacheError, Element, PrefixOutput};
use crate::device::is_host;
use crate::t5::{EncoderStates, padded_length, padding_mask};

/// Values of one tensor on a GPU: kernels count them in 32 bits.
const MOST_ON_GPU: usize = i32::MAX as usize;

/// The stored prefix of each text of a set.
pub struct Store {
    layer: usize,
    width: usize,
    element: Element,
    places: HashMap<TextKey, u32>,
    /// Where the rows of each text begin; one more for the end.
    starts: Vec<u64>,
    rows: Rows,
    /// The start token's embedding, `[1, d_model]`, where that is the residual of all; else each text's residual is
    /// its last row.
    start: Option<Tensor<2>>,
    device: Device,
}

/// Where the rows are: of each text the states of its tokens, then its residual if it has one.
pub(super) enum Rows {
    Memory(Vec<u8>),
    Mapped(Mapped),
    /// `[rows, d_model]`, in the type they are stored as.
    Device(Box<Tensor<2>>),
}

impl Rows {
    /// Takes rows to where batches are computed: memory, or the GPU's.
    pub fn held(bytes: Vec<u8>, width: usize, element: Element, device: &Device) -> Self {
        let values = bytes.len() / element.size();
        if is_host(device) || values > MOST_ON_GPU {
            return Rows::Memory(bytes);
        }
        let dtype = match element {
            Element::F32 => DType::F32,
            Element::Bf16 => DType::BF16,
            Element::F16 => DType::F16,
        };
        let data = TensorData::from_bytes_vec(bytes, [values / width, width], dtype);
        Rows::Device(Box::new(Tensor::from_data(data, (device, dtype))))
    }
}

impl Store {
    /// The prefixes of distinct `texts`, whose rows are at hand.
    pub(super) fn new(frozen: &Frozen, element: Element, texts: Texts, rows: Rows) -> Self {
        let layer = frozen.prefix.layer();
        // Nothing of the text has come to the decoder before its first layer.
        let start = (layer == 0).then(|| frozen.compute(&[&[frozen.pad_id]]).residual);
        Self {
            layer,
            width: frozen.t5.config().d_model,
            element,
            starts: texts.starts(start.is_none()),
            places: texts.places,
            rows,
            start,
            device: frozen.device.clone(),
        }
    }

    /// Computes the prefixes of `texts` and keeps them in memory. `progress` is told how many texts are done.
    ///
    /// # Errors
    /// A value that `element` cannot hold.
    pub(crate) fn compute<'a>(
        frozen: &Frozen,
        texts: impl IntoIterator<Item = &'a [u32]>,
        element: Element,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self, CacheError> {
        let texts = Texts::distinct(texts);
        let mut bytes = Vec::new();
        frozen.rows(&texts.tokens, frozen.prefix.layer() > 0, |rows, done| {
            bytes.extend(
                element.encode(rows).map_err(|value| CacheError::Overflow { value, element })?,
            );
            progress(done);
            Ok::<(), CacheError>(())
        })?;
        let rows = Rows::held(bytes, frozen.t5.config().d_model, element, frozen.device);
        Ok(Self::new(frozen, element, texts, rows))
    }

    /// Where each of `texts` is, if all are stored.
    pub(super) fn find(&self, texts: &[&[u32]]) -> Option<Vec<usize>> {
        let place = |tokens: &&[u32]| self.places.get(&key_of(tokens)).map(|&place| place as usize);
        texts.iter().map(place).collect()
    }

    /// The prefix of a batch of texts, if all of them are stored.
    pub fn output(&self, texts: &[&[u32]]) -> Option<PrefixOutput> {
        let places = self.find(texts)?;
        let lengths: Vec<u32> = texts.iter().map(|tokens| tokens.len() as u32).collect();
        let length = padded_length(&lengths, &self.device);
        let batch = texts.len();
        let (rows, own) = match &self.rows {
            Rows::Memory(bytes) => self.gathered(bytes, &places, &lengths, length),
            Rows::Mapped(mapped) => self.gathered(mapped.rows(), &places, &lengths, length),
            Rows::Device(rows) => self.selected(rows, &places, &lengths, length),
        };
        let residual = match &self.start {
            Some(start) => start.clone().expand([batch, self.width]),
            None => own,
        };
        let mask = padding_mask(&lengths, length, &self.device);
        Some(PrefixOutput {
            layer: self.layer,
            residual,
            states: EncoderStates { rows, batch, mask },
        })
    }

    /// States padded with zeros, `[batch * length, d_model]`, and each text's last row, `[batch, d_model]`.
    fn gathered(
        &self,
        bytes: &[u8],
        places: &[usize],
        lengths: &[u32],
        length: usize,
    ) -> (Tensor<2>, Tensor<2>) {
        let (batch, width) = (places.len(), self.width);
        let row_bytes = width * self.element.size();
        let mut states = vec![0.0; batch * length * width];
        let mut last = vec![0.0; batch * width];
        let into = states.par_chunks_mut(length * width).zip(last.par_chunks_mut(width));
        into.zip(places.par_iter().zip(lengths)).for_each(|((states, last), (&place, &tokens))| {
            let rows = self.starts[place] as usize..self.starts[place + 1] as usize;
            let bytes = &bytes[rows.start * row_bytes..rows.end * row_bytes];
            self.element.decode(bytes, &mut states[..tokens as usize * width]);
            if self.start.is_none() {
                self.element.decode(&bytes[bytes.len() - row_bytes..], last);
            }
        });
        let tensor =
            |values, rows| Tensor::from_data(TensorData::new(values, [rows, width]), &self.device);
        (tensor(states, batch * length), tensor(last, batch))
    }

    /// As [`Store::gathered`], but padding holds the text's first row: whatever is there is masked.
    fn selected(
        &self,
        rows: &Tensor<2>,
        places: &[usize],
        lengths: &[u32],
        length: usize,
    ) -> (Tensor<2>, Tensor<2>) {
        let mut states = Vec::with_capacity(places.len() * length);
        for (&place, &tokens) in places.iter().zip(lengths) {
            let first = self.starts[place] as i32;
            let row = |token: i32| first + if token < tokens as i32 { token } else { 0 };
            states.extend((0..length as i32).map(row));
        }
        let last = places.iter().map(|&place| self.starts[place + 1] as i32 - 1).collect();
        let select =
            |wanted| rows.clone().select(0, indices(wanted, &self.device)).cast(DType::F32);
        (select(states), select(last))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::prefix::FrozenPrefix;
    use crate::t5::weights::initialise;
    use crate::t5::{T5, T5Config};

    fn small() -> T5 {
        let config = r#"{"d_model": 8, "d_kv": 4, "d_ff": 12, "num_heads": 2, "num_layers": 2, "vocab_size": 30}"#;
        initialise(
            &T5Config::from_json(Path::new("config.json"), config).unwrap(),
            1,
            &Device::flex(),
        )
    }

    fn values(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    #[test]
    fn what_is_gathered_is_what_was_computed_wherever_it_is_held() {
        let (t5, device) = (small(), Device::flex());
        let texts: [&[u32]; 4] = [&[5, 9, 1], &[7, 1], &[3, 4, 5, 6, 1], &[5, 9, 1]];
        for layer in 0..=2 {
            let trained = format!("t5.decoder.layers.{layer}.mlp.input.weight");
            let prefix = FrozenPrefix::of((layer < 2).then_some(trained.as_str()), 2).unwrap();
            let frozen = Frozen { t5: &t5, prefix, device: &device, pad_id: 0 };
            let mut store = Store::compute(&frozen, texts, Element::F32, &mut |_| {}).unwrap();
            assert!(store.output(&[&[8, 8, 1]]).is_none());
            let batch: [&[u32]; 3] = [texts[2], texts[1], texts[3]];
            let expected = frozen.compute(&batch);
            let on_host = store.output(&batch).unwrap();
            let Rows::Memory(bytes) = &store.rows else { panic!("rows on the CPU are in memory") };
            let data = TensorData::from_bytes_vec(bytes.clone(), [bytes.len() / 32, 8], DType::F32);
            store.rows = Rows::Device(Box::new(Tensor::from_data(data, &device)));
            for found in [on_host, store.output(&batch).unwrap()] {
                assert_eq!((found.layer, found.states.batch), (layer, 3));
                for (found, expected) in
                    values(found.residual).iter().zip(values(expected.residual.clone()))
                {
                    assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
                }
                let rows = values(found.states.rows);
                let right = values(expected.states.rows.clone());
                for (row, tokens) in batch.iter().enumerate() {
                    let of_text = row * 5 * 8..(row * 5 + tokens.len()) * 8;
                    for (found, expected) in rows[of_text.clone()].iter().zip(&right[of_text]) {
                        assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
                    }
                }
            }
        }
    }
}
