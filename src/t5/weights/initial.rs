//! T5's own initialisation, as transformers does it (`T5PreTrainedModel._init_weights`).

use std::ops::Range;

use rand_distr::{Distribution, Normal};

use crate::component::{Component, ParameterPlace, Weight};
use crate::random;
use crate::t5::T5Config;

/// Initial values of the parameter `name` (dotted, ours) with as many values as `shape` holds.
///
/// Each parameter draws from a generator of its own, so its values depend on `seed` and its name alone.
pub fn initial(config: &T5Config, seed: u64, name: &str, shape: &[usize]) -> Vec<f32> {
    initial_some(config, seed, name, 0..shape.iter().product())
}

/// The same of some of its values only.
pub fn initial_some(config: &T5Config, seed: u64, name: &str, values: Range<usize>) -> Vec<f32> {
    match deviation(config, name) {
        None => vec![config.initializer_factor as f32; values.len()],
        Some(deviation) => {
            let mut generator = random::generator(seed, 0, name);
            let normal = Normal::new(0.0_f32, deviation as f32).unwrap_or_else(|_| {
                unreachable!("sizes are positive and the factor is finite, so is {deviation}")
            });
            // A value takes more or fewer random numbers: those before are drawn too.
            (0..values.end).map(|_| normal.sample(&mut generator)).skip(values.start).collect()
        }
    }
}

/// Standard deviation of an initial weight; none for norms, which start at the factor itself.
fn deviation(config: &T5Config, name: &str) -> Option<f64> {
    let inverse_root = |size: usize| (size as f64).powf(-0.5);
    let scale = match ParameterPlace::of(name) {
        Some(ParameterPlace::FinalNorm(_)) => return None,
        Some(ParameterPlace::RelativeBias(_)) => inverse_root(config.d_model),
        Some(ParameterPlace::Layer { component, weight, .. }) => match (weight, component) {
            (Weight::Norm, _) => return None,
            (Weight::Query, _) => inverse_root(config.d_model * config.d_kv),
            (Weight::Key | Weight::Value | Weight::Gate | Weight::Input, _) => {
                inverse_root(config.d_model)
            }
            (Weight::Output, Component::Mlp) => inverse_root(config.d_ff),
            (Weight::Output, _) => inverse_root(config.inner()),
        },
        Some(ParameterPlace::SharedEmbedding | ParameterPlace::Docids | ParameterPlace::Head)
        | None => 1.0,
    };
    Some(config.initializer_factor * scale)
}
