//! A model's parameters as bits, to compare two models exactly.

use std::collections::BTreeMap;

use genir::t5::GenirModel;
use genir::t5::weights::parameters;

/// Shape and bits of every parameter, by name.
pub fn bits(model: &GenirModel) -> BTreeMap<String, (Vec<usize>, Vec<u32>)> {
    parameters(model)
        .into_iter()
        .map(|parameter| {
            let values: Vec<f32> = parameter.values.into_data().try_to_vec().expect("f32");
            let bits = values.into_iter().map(f32::to_bits).collect();
            (parameter.name, (parameter.shape, bits))
        })
        .collect()
}
