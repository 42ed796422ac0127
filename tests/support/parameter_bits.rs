//! A model's parameters as bits, to compare two models exactly.

use std::collections::BTreeMap;

use genir::t5::GenirModel;
use genir::t5::weights::parameters;

/// Shape and bits of every parameter, by name.
pub type Bits = BTreeMap<String, (Vec<usize>, Vec<u32>)>;

/// Fails with the names of the parameters that differ: their values would fill pages.
#[track_caller]
pub fn assert_same(found: &Bits, expected: &Bits, what: &str) {
    assert!(found.keys().eq(expected.keys()), "{what}: other parameters");
    let differ: Vec<&String> = found.keys().filter(|&name| found[name] != expected[name]).collect();
    assert!(differ.is_empty(), "{what}: {differ:?} differ");
}

pub fn bits(model: &GenirModel) -> Bits {
    parameters(model)
        .into_iter()
        .map(|parameter| {
            let values: Vec<f32> = parameter.values.into_data().try_to_vec().expect("f32");
            let bits = values.into_iter().map(f32::to_bits).collect();
            (parameter.name, (parameter.shape, bits))
        })
        .collect()
}
