//! Stored prefixes of a set of texts, and how batches are gathered from them.

use std::collections::HashMap;

use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;

use super::compute::{FrozenModel, indices};
use super::file::Mapped;
use super::texts::{TextKey, Texts, key_of};
use super::{CacheError, Element, PrefixOutput};
use crate::device::is_host;
use crate::processes::Group;
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
    rows: StoredRows,
    /// The start token's embedding, `[1, d_model]`, where that is the residual of all; else each text's residual is
    /// its last row.
    start: Option<Tensor<2>>,
    device: Device,
}

/// Where the rows are: of each text the states of its tokens, then its residual if it has one.
pub(super) enum StoredRows {
    Memory(Vec<u8>),
    Mapped(Mapped),
    /// `[rows, d_model]`, in the type they are stored as.
    Device(Box<Tensor<2>>),
}

/// Rows of a batch of texts in the host's memory.
pub(super) struct Gathered {
    places: Vec<usize>,
    /// Padded with zeros, `[batch * length, d_model]`.
    states: TensorData,
    /// `[batch, d_model]`, where they are the texts' own.
    residuals: Option<TensorData>,
}

impl Gathered {
    /// Returns whether it is what [`Store::gather`] makes of `places`.
    pub fn is_of(&self, places: &[usize]) -> bool {
        self.places == places
    }
}

impl StoredRows {
    /// Takes rows to where batches are computed: memory, or the GPU's.
    pub fn load(bytes: Vec<u8>, width: usize, element: Element, device: &Device) -> Self {
        let values = bytes.len() / element.size();
        if is_host(device) || values > MOST_ON_GPU {
            return StoredRows::Memory(bytes);
        }
        let dtype = element.dtype();
        let data = TensorData::from_bytes_vec(bytes, [values / width, width], dtype);
        StoredRows::Device(Box::new(Tensor::from_data(data, (device, dtype))))
    }
}

impl Store {
    /// The prefixes of distinct `texts` with the given rows.
    pub(super) fn new(
        frozen: &FrozenModel,
        element: Element,
        texts: Texts,
        rows: StoredRows,
    ) -> Self {
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

    /// Computes the prefixes of `texts`, which the processes of `group` share, and keeps them in memory. `progress` is called
    /// with the number of finished texts.
    ///
    /// # Errors
    /// A value that `element` cannot hold; or the processes cannot exchange what they have computed.
    pub(crate) fn compute<'a>(
        frozen: &FrozenModel,
        texts: impl IntoIterator<Item = &'a [u32]>,
        element: Element,
        group: Group,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self, CacheError> {
        let texts = Texts::distinct(texts);
        let mut bytes = Vec::new();
        frozen.rows(group, &texts.tokens, frozen.prefix.layer() > 0, |rows, done| {
            bytes.extend(
                element.encode(rows).map_err(|value| CacheError::Overflow { value, element })?,
            );
            progress(done);
            Ok::<(), CacheError>(())
        })?;
        let rows = StoredRows::load(bytes, frozen.t5.config().d_model, element, frozen.device);
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
        Some(match &self.rows {
            StoredRows::Device(rows) => self.select_on_device(rows, &places),
            StoredRows::Memory(_) | StoredRows::Mapped(_) => self.to_device(self.gather(places)),
        })
    }

    /// True if gathering a batch blocks, on the disk or on PCIe.
    pub(super) fn gathering_blocks(&self) -> bool {
        match &self.rows {
            StoredRows::Memory(_) => !is_host(&self.device),
            StoredRows::Mapped(_) => true,
            StoredRows::Device(_) => false,
        }
    }

    /// The rows of the texts at `places` that lie in the host's memory, where a GPU fetches them by itself.
    pub(super) fn gather(&self, places: Vec<usize>) -> Gathered {
        if is_host(&self.device) {
            return self.gather_values(places);
        }
        let mut gathered = self.gather_bytes(places);
        self.device.staging([&mut gathered.states].into_iter().chain(&mut gathered.residuals));
        gathered
    }

    /// In f32.
    fn gather_values(&self, places: Vec<usize>) -> Gathered {
        let decode = |bytes: &[u8], values: &mut [f32]| self.element.decode(bytes, values);
        self.gather_with(places, self.width, decode, |values, rows| {
            TensorData::new(values, [rows, self.width])
        })
    }

    /// In the type they are stored as, so that less crosses the bus.
    fn gather_bytes(&self, places: Vec<usize>) -> Gathered {
        let copy = |bytes: &[u8], into: &mut [u8]| into.copy_from_slice(bytes);
        self.gather_with(places, self.width * self.element.size(), copy, |bytes, rows| {
            TensorData::from_bytes_vec(bytes, [rows, self.width], self.element.dtype())
        })
    }

    /// Copies rows by `copy` to as many times `unit` values of `T`, of which `data` makes a number of rows.
    fn gather_with<T: Clone + Default + Send>(
        &self,
        places: Vec<usize>,
        unit: usize,
        copy: impl Fn(&[u8], &mut [T]) + Sync,
        data: impl Fn(Vec<T>, usize) -> TensorData,
    ) -> Gathered {
        let bytes = match &self.rows {
            StoredRows::Memory(bytes) => bytes.as_slice(),
            StoredRows::Mapped(mapped) => mapped.rows(),
            StoredRows::Device(_) => unreachable!("rows on a GPU are selected there"),
        };
        let row_bytes = self.width * self.element.size();
        let (batch, lengths) = (places.len(), self.lengths(&places));
        let length = padded_length(&lengths, &self.device);
        let mut states = vec![T::default(); batch * length * unit];
        let mut residuals = vec![T::default(); if self.start.is_none() { batch * unit } else { 0 }];
        let of_states = states.par_chunks_mut(length * unit);
        of_states.zip(&places).zip(&lengths).for_each(|((states, &place), &tokens)| {
            let first = self.starts[place] as usize * row_bytes;
            let bytes = &bytes[first..first + tokens as usize * row_bytes];
            copy(bytes, &mut states[..tokens as usize * unit]);
        });
        for (residual, &place) in residuals.chunks_exact_mut(unit).zip(&places) {
            let end = self.starts[place + 1] as usize * row_bytes;
            copy(&bytes[end - row_bytes..end], residual);
        }
        let residuals = self.start.is_none().then(|| data(residuals, batch));
        Gathered { states: data(states, batch * length), residuals, places }
    }

    /// The prefix of a batch that was gathered.
    pub(super) fn to_device(&self, gathered: Gathered) -> PrefixOutput {
        let Gathered { places, states, residuals } = gathered;
        let tensor = |data: TensorData| {
            let dtype = data.dtype();
            Tensor::<2>::from_data(data, (&self.device, dtype)).cast(DType::F32)
        };
        self.prefix_output(&places, tensor(states), residuals.map(tensor))
    }

    /// As [`Store::to_device`], but padding holds the text's first row: whatever is there is masked.
    fn select_on_device(&self, rows: &Tensor<2>, places: &[usize]) -> PrefixOutput {
        let lengths = self.lengths(places);
        let length = padded_length(&lengths, &self.device);
        let mut states = Vec::with_capacity(places.len() * length);
        for (&place, &tokens) in places.iter().zip(&lengths) {
            let first = self.starts[place] as i32;
            let row = |token: i32| first + if token < tokens as i32 { token } else { 0 };
            states.extend((0..length as i32).map(row));
        }
        let select =
            |wanted| rows.clone().select(0, indices(wanted, &self.device)).cast(DType::F32);
        let last = |&place: &usize| self.starts[place + 1] as i32 - 1;
        let residuals = self.start.is_none().then(|| places.iter().map(last).collect());
        self.prefix_output(places, select(states), residuals.map(select))
    }

    /// `states`: `[batch * length, d_model]`; `residuals`: `[batch, d_model]`, where they are the texts' own.
    fn prefix_output(
        &self,
        places: &[usize],
        states: Tensor<2>,
        residuals: Option<Tensor<2>>,
    ) -> PrefixOutput {
        let (batch, lengths) = (places.len(), self.lengths(places));
        let start = || self.start.clone().map(|start| start.expand([batch, self.width]));
        let residual = residuals.or_else(start);
        let mask = padding_mask(&lengths, states.dims()[0] / batch, &self.device);
        PrefixOutput {
            layer: self.layer,
            residual: residual.unwrap_or_else(|| unreachable!("residuals are stored, or all one")),
            states: EncoderStates { rows: states, batch, mask },
        }
    }

    /// Tokens of each text.
    fn lengths(&self, places: &[usize]) -> Vec<u32> {
        let residuals = u64::from(self.start.is_none());
        let length = |&place: &usize| self.starts[place + 1] - self.starts[place] - residuals;
        places.iter().map(|place| length(place) as u32).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;
    use crate::prefix::FrozenPrefix;
    use crate::prefix::file::Contents;
    use crate::t5::weights::initialise;
    use crate::t5::{T5, T5Config};

    const WIDTH: usize = 8;
    const TEXTS: [&[u32]; 4] = [&[5, 9, 1], &[7, 1], &[3, 4, 5, 6, 1], &[5, 9, 1]];

    fn small() -> T5 {
        let config = r#"{"d_model": 8, "d_kv": 4, "d_ff": 12, "num_heads": 2, "num_layers": 2, "vocab_size": 30}"#;
        initialise(
            &T5Config::from_json(Path::new("config.json"), config).unwrap(),
            1,
            &Device::flex(),
        )
    }

    fn frozen<'a>(t5: &'a T5, layer: usize, device: &'a Device) -> FrozenModel<'a> {
        let trained = format!("t5.decoder.layers.{layer}.mlp.input.weight");
        let prefix = FrozenPrefix::of((layer < 2).then_some(trained.as_str()), 2).unwrap();
        FrozenModel { t5, prefix, device, pad_id: 0 }
    }

    /// The stored prefix of [`TEXTS`], and its bytes.
    fn stored(frozen: &FrozenModel, element: Element) -> (Store, Vec<u8>) {
        let store = Store::compute(frozen, TEXTS, element, Group::default(), &mut |_| {}).unwrap();
        let StoredRows::Memory(bytes) = &store.rows else {
            panic!("rows on the CPU are in memory")
        };
        let bytes = bytes.clone();
        (store, bytes)
    }

    /// The prefix of [`TEXTS`] in a mapped file.
    pub fn mapped() -> (Store, [&'static [u32]; 4]) {
        let (t5, device) = (small(), Device::flex());
        let frozen = frozen(&t5, 1, &device);
        let (mut store, bytes) = stored(&frozen, Element::F32);
        let contents =
            Contents { key: [7; 32], element: Element::F32, starts: &store.starts, width: WIDTH };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rows");
        let mut file = std::fs::File::create(&path).unwrap();
        let fill = |take: &mut dyn FnMut(&[u8]) -> std::io::Result<()>| {
            take(&bytes).map_err(|error| panic!("{error}"))
        };
        contents.write(&mut file, fill, |error| panic!("{error}")).unwrap();
        store.rows = StoredRows::Mapped(contents.open(&path).unwrap());
        (store, TEXTS)
    }

    /// The largest difference between two prefixes of one batch, in all that is not padding.
    pub fn close(found: &PrefixOutput, expected: &PrefixOutput) -> f32 {
        let values =
            |tensor: &Tensor<2>| -> Vec<f32> { tensor.clone().into_data().try_to_vec().unwrap() };
        assert_eq!((found.layer, found.states.batch), (expected.layer, expected.states.batch));
        let rows = values(&found.states.rows);
        let positions = rows.len() / WIDTH;
        let mask: Vec<f32> = match &expected.states.mask {
            Some(mask) => mask.clone().into_data().try_to_vec().unwrap(),
            None => vec![0.0; positions],
        };
        let difference = |(found, expected): (&f32, &f32)| (found - expected).abs();
        let pairs =
            rows.iter().zip(&values(&expected.states.rows)).map(difference).collect::<Vec<_>>();
        let states = pairs.chunks(WIDTH).zip(mask).filter(|(_, mask)| *mask == 0.0);
        let states = states.flat_map(|(row, _)| row.iter().copied());
        let residuals = values(&found.residual);
        let expected = values(&expected.residual);
        states.chain(residuals.iter().zip(&expected).map(difference)).fold(0.0, f32::max)
    }

    #[test]
    fn what_is_gathered_is_what_was_computed_wherever_it_is_held() {
        let (t5, device) = (small(), Device::flex());
        for (element, near) in [(Element::F32, 1e-5), (Element::Bf16, 0.02), (Element::F16, 0.002)]
        {
            for layer in 0..=2 {
                let frozen = frozen(&t5, layer, &device);
                let (mut store, bytes) = stored(&frozen, element);
                assert!(store.output(&[&[8, 8, 1]]).is_none());
                let batch: [&[u32]; 3] = [TEXTS[2], TEXTS[1], TEXTS[3]];
                let expected = frozen.compute(&batch);
                let on_host = store.output(&batch).unwrap();
                let fetched = store.to_device(store.gather_bytes(store.find(&batch).unwrap()));
                let rows = bytes.len() / element.size() / WIDTH;
                let data = TensorData::from_bytes_vec(bytes, [rows, WIDTH], element.dtype());
                let data = Tensor::from_data(data, (&device, element.dtype()));
                store.rows = StoredRows::Device(Box::new(data));
                for found in [on_host, fetched, store.output(&batch).unwrap()] {
                    let difference = close(&found, &expected);
                    assert!(difference < near, "{element}, layer {layer}: {difference}");
                }
            }
        }
    }
}
