//! Resolves overlapping patches: which replacement applies to each output and head.

use std::collections::BTreeMap;

use super::Replacement;
use super::patch::Patch;
use crate::component::Component;
use crate::t5::T5Config;

/// The replacements of a list of patches. Where two patches name the same output or head, the later one wins.
#[derive(Debug, Clone)]
pub(super) struct Applied {
    /// By layer and component: the replacement of each part of an output that is patched.
    pub outputs: BTreeMap<(usize, Component), Vec<Option<Replacement>>>,
    /// The patches as they are applied, in order, without overlaps: a patch that is partly overridden by a later one
    /// lists only its remaining parts.
    pub patches: Vec<String>,
}

/// The index of the patch that replaces each part of an output. The parts of an attention are its heads; an MLP has one
/// part.
type Parts = Vec<Option<usize>>;

impl Applied {
    /// Resolves `patches` in order.
    pub fn new(patches: &[Patch], config: &T5Config) -> Self {
        let mut outputs: BTreeMap<(usize, Component), Parts> = BTreeMap::new();
        for (index, patch) in patches.iter().enumerate() {
            for &place in &patch.part.places {
                let count = if place.1 == Component::Mlp { 1 } else { config.num_heads };
                let parts = outputs.entry(place).or_insert_with(|| vec![None; count]);
                match &patch.part.heads {
                    None => parts.fill(Some(index)),
                    Some(heads) => heads.iter().for_each(|&head| parts[head] = Some(index)),
                }
            }
        }
        let names = patches.iter().enumerate();
        let names =
            names.flat_map(|(index, patch)| remaining_patches(index, patch, &outputs)).collect();
        let replacement = |part: Option<usize>| part.map(|index| patches[index].replacement);
        let outputs = outputs
            .into_iter()
            .map(|(place, parts)| (place, parts.into_iter().map(replacement).collect()));
        Self { outputs: outputs.collect(), patches: names }
    }

    /// The first layer with a replacement, if there is one.
    pub fn first_layer(&self) -> Option<usize> {
        self.outputs.keys().next().map(|(layer, _)| *layer)
    }
}

/// The patch at `index` as it is applied: unchanged if no later one overrides a part of it, otherwise its remaining
/// parts by component and heads.
fn remaining_patches(
    index: usize,
    patch: &Patch,
    outputs: &BTreeMap<(usize, Component), Parts>,
) -> Vec<String> {
    let mut overridden = false;
    // The remaining parts of each component with the layers in which they are the same, in the order in which they run.
    let mut remaining: Vec<(Component, Remaining, Vec<String>)> = Vec::new();
    for &place in &patch.part.places {
        let Some(parts) = outputs.get(&place) else { continue };
        let (layer, component) = place;
        let held: Vec<usize> =
            (0..parts.len()).filter(|&part| parts[part] == Some(index)).collect();
        overridden |= held.len() < patch.part.heads.as_ref().map_or(parts.len(), Vec::len);
        let here = match held.len() {
            0 => continue,
            count if count == parts.len() => Remaining::Output,
            _ => Remaining::Heads(held),
        };
        let layer = layer.to_string();
        match remaining.iter_mut().find(|(of, there, _)| (*of, there) == (component, &here)) {
            Some((.., layers)) => layers.push(layer),
            None => remaining.push((component, here, vec![layer])),
        }
    }
    if !overridden {
        return vec![patch.to_string()];
    }
    let name = |(component, part, layers): (Component, Remaining, Vec<String>)| {
        let heads = match part {
            Remaining::Output => String::new(),
            Remaining::Heads(heads) => {
                let heads: Vec<String> = heads.iter().map(usize::to_string).collect();
                format!(".heads[{}]", heads.join(","))
            }
        };
        let (component, layers) = (component.name(), layers.join(","));
        format!("decoder.{component}[{layers}]{heads}={}", patch.replacement)
    };
    remaining.into_iter().map(name).collect()
}

/// The part of an output that a patch still replaces.
#[derive(PartialEq)]
enum Remaining {
    /// The complete output.
    Output,
    /// Some of an attention's heads.
    Heads(Vec<usize>),
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Tensor, TensorData};

    use super::super::patch_tap::tests::{Pair, agree, pair};
    use super::super::trace::Trace;
    use super::*;
    use crate::t5::{Attention, Hook, Pass, Site, Stack, T5, Tap};

    /// A tap that replaces outputs by hand, head by head in plain loops, as the test specifies.
    struct ByHand<'a> {
        pair: &'a Pair,
        replaced: &'a [((usize, Component), &'a str)],
        /// The weighted values of the attention that is running, `[batch, heads * d_kv]`.
        weighted: Vec<f32>,
    }

    fn component(hook: Hook) -> Option<Component> {
        match hook {
            Hook::WeightedValues(Attention::SelfAttention) | Hook::AttentionOut => {
                Some(Component::SelfAttention)
            }
            Hook::WeightedValues(Attention::CrossAttention) | Hook::CrossAttentionOut => {
                Some(Component::CrossAttention)
            }
            Hook::MlpOut => Some(Component::Mlp),
            _ => None,
        }
    }

    fn numbers(data: TensorData) -> Vec<f32> {
        data.try_into_vec::<f32>().expect("activations are f32")
    }

    /// The mean of each column, in every row.
    fn means(values: &[f32], rows: usize) -> Vec<f32> {
        let columns = values.len() / rows;
        let mean = |at: usize| {
            let column = values.iter().skip(at % columns).step_by(columns);
            column.map(|value| f64::from(*value)).sum::<f64>() / rows as f64
        };
        (0..values.len()).map(|at| mean(at) as f32).collect()
    }

    impl ByHand<'_> {
        fn replaced(&self, site: Site) -> Option<(Component, &str)> {
            let component = component(site.hook).filter(|_| site.stack == Stack::Decoder)?;
            let mut all = self.replaced.iter();
            let found = all.find(|(place, _)| *place == (site.layer, component))?;
            Some((component, found.1))
        }

        /// The output of an attention, `[rows, d_model]`: the sum over heads of their values times their rows of `W_O`.
        fn attention(&self, layer: usize, component: Component, how: &str) -> Vec<f32> {
            let [model, base] = [&self.pair.model, &self.pair.base];
            let config = model.config();
            let (d_kv, d_model) = (config.d_kv, config.d_model);
            let inner = config.num_heads * d_kv;
            let rows = self.weighted.len() / inner;
            let weighted = |trace: &Trace| {
                numbers(trace.layers[layer].weighted[component].clone().into_data())
            };
            let matrix = |t5: &T5| {
                let block = &t5.decoder.layers[layer];
                let attention = match component {
                    Component::SelfAttention => &block.self_attention,
                    _ => &block.cross_attention,
                };
                numbers(attention.output.weight.val().into_data())
            };
            let [trace, base_trace] = &self.pair.traces;
            let mut output = vec![0.0; rows * d_model];
            for (head, how) in how.chars().enumerate() {
                let (values, matrix) = match how {
                    '.' => (self.weighted.clone(), matrix(model)),
                    'z' => continue,
                    'm' => (means(&weighted(trace), rows), matrix(model)),
                    'b' => (weighted(base_trace), matrix(base)),
                    how => panic!("{how}"),
                };
                for row in 0..rows {
                    for column in 0..d_model {
                        for inside in head * d_kv..(head + 1) * d_kv {
                            output[row * d_model + column] +=
                                values[row * inner + inside] * matrix[inside * d_model + column];
                        }
                    }
                }
            }
            output
        }

        fn mlp(&self, layer: usize, rows: usize, how: &str) -> Vec<f32> {
            let output =
                |trace: &Trace| numbers(trace.output_of(layer, Component::Mlp).clone().into_data());
            let [own, base] = [&self.pair.traces[0], &self.pair.traces[1]].map(output);
            match how {
                "z" => vec![0.0; own.len()],
                "m" => means(&own, rows),
                "b" => base,
                how => panic!("{how}"),
            }
        }
    }

    impl Tap for ByHand<'_> {
        fn wants(&self, site: Site) -> bool {
            self.replaced(site).is_some()
        }

        fn heads(&mut self, _site: Site, value: Tensor<4>) -> Tensor<4> {
            self.weighted = numbers(value.clone().into_data());
            value
        }

        fn stream(&mut self, site: Site, value: Tensor<3>) -> Tensor<3> {
            let Some((component, how)) = self.replaced(site) else { return value };
            let [rows, ..] = value.dims();
            let by_hand = match component {
                Component::Mlp => self.mlp(site.layer, rows, how),
                attention => self.attention(site.layer, attention, how),
            };
            Tensor::from_data(TensorData::new(by_hand, value.dims()), &value.device())
        }
    }

    /// Patches, the expected resolved patches, and the expected replacement of each output with one letter for each
    /// head: `z`ero, `m`ean, `b`ase or `.` for none.
    type Case = (
        &'static [&'static str],
        &'static [&'static str],
        &'static [((usize, Component), &'static str)],
    );

    const CASES: [Case; 10] = {
        use Component::{CrossAttention as Cross, Mlp, SelfAttention as Itself};
        [
            (
                &[
                    "decoder.cross_attention[1].heads[0]=zero",
                    "decoder.cross_attention[1].heads[1]=mean",
                ],
                &[
                    "decoder.cross_attention[1].heads[0]=zero",
                    "decoder.cross_attention[1].heads[1]=mean",
                ],
                &[((1, Cross), "zm..")],
            ),
            (
                &["decoder.cross_attention[1]=zero", "decoder.cross_attention[1].heads[1]=mean"],
                &[
                    "decoder.cross_attention[1].heads[0,2,3]=zero",
                    "decoder.cross_attention[1].heads[1]=mean",
                ],
                &[((1, Cross), "zmzz")],
            ),
            (
                &["decoder.cross_attention[1]=base", "decoder.cross_attention[1].heads[0,3]=zero"],
                &[
                    "decoder.cross_attention[1].heads[1,2]=base",
                    "decoder.cross_attention[1].heads[0,3]=zero",
                ],
                &[((1, Cross), "zbbz")],
            ),
            (
                &["decoder.cross_attention[1].heads[1]=mean", "decoder.cross_attention[1]=base"],
                &["decoder.cross_attention[1]=base"],
                &[((1, Cross), "bbbb")],
            ),
            (
                &[
                    "decoder.self_attention[2].heads[0,1]=zero",
                    "decoder.self_attention[2].heads[1,2]=base",
                ],
                &[
                    "decoder.self_attention[2].heads[0]=zero",
                    "decoder.self_attention[2].heads[1,2]=base",
                ],
                &[((2, Itself), "zbb.")],
            ),
            (
                &["decoder.cross_attention[3].heads[2,2]=mean"],
                &["decoder.cross_attention[3].heads[2,2]=mean"],
                &[((3, Cross), "..m.")],
            ),
            (
                &["decoder.mlp[1,2]=zero", "decoder.mlp[2]=mean", "decoder.mlp[3]=base"],
                &["decoder.mlp[1]=zero", "decoder.mlp[2]=mean", "decoder.mlp[3]=base"],
                &[((1, Mlp), "z"), ((2, Mlp), "m"), ((3, Mlp), "b")],
            ),
            (
                &["decoder.mlp[4]=zero", "decoder.mlp[4]=mean"],
                &["decoder.mlp[4]=mean"],
                &[((4, Mlp), "m")],
            ),
            (
                &[
                    "decoder.layers[1,2]=zero",
                    "decoder.cross_attention[2].heads[3]=mean",
                    "decoder.mlp[1]=base",
                ],
                &[
                    "decoder.self_attention[1,2]=zero",
                    "decoder.cross_attention[1]=zero",
                    "decoder.cross_attention[2].heads[0,1,2]=zero",
                    "decoder.mlp[2]=zero",
                    "decoder.cross_attention[2].heads[3]=mean",
                    "decoder.mlp[1]=base",
                ],
                &[
                    ((1, Itself), "zzzz"),
                    ((1, Cross), "zzzz"),
                    ((1, Mlp), "b"),
                    ((2, Itself), "zzzz"),
                    ((2, Cross), "zzzm"),
                    ((2, Mlp), "z"),
                ],
            ),
            (
                &[
                    "decoder.cross_attention[5].heads[0]=zero",
                    "decoder.cross_attention[5].heads[1]=mean",
                    "decoder.cross_attention[5].heads[2]=base",
                    "decoder.cross_attention[5].heads[3]=mean",
                ],
                &[
                    "decoder.cross_attention[5].heads[0]=zero",
                    "decoder.cross_attention[5].heads[1]=mean",
                    "decoder.cross_attention[5].heads[2]=base",
                    "decoder.cross_attention[5].heads[3]=mean",
                ],
                &[((5, Cross), "zmbm")],
            ),
        ]
    };

    #[test]
    fn later_patches_override_earlier_ones_where_they_overlap() {
        let pair = pair();
        let base = (&pair.base, &pair.traces[1]);
        for (patches, applied, replaced) in CASES {
            let found = pair.patched(patches, base);
            let mut tap = ByHand { pair: &pair, replaced, weighted: Vec::new() };
            let residual = pair.traces[0].layers[0].residual_pre.clone();
            let mut pass = Pass::evaluate(&mut tap);
            let by_hand = pair.model.decode_from(0, residual, &pair.states, &mut pass).into_data();
            agree(&found, &by_hand, &patches.join(", "));
            assert_ne!(found, pair.unpatched(), "{patches:?}");

            // The recorded patches describe the same replacements without overlaps.
            assert_eq!(pair.applied(patches).patches, applied, "{patches:?}");
            agree(&pair.patched(applied, base), &found, &applied.join(", "));
        }
    }
}
