//! The tap that patches: it replaces components' outputs while the decoder runs.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::Replacement;
use super::means::Means;
use super::overlap::Applied;
use super::trace::{Trace, output_hook};
use crate::component::{Component, Stack};
use crate::t5::{Attention, Hook, Site, T5, Tap};

/// The sources of replacements for one batch.
#[derive(Clone, Copy)]
pub(super) struct ReplacementSources<'a> {
    pub model: &'a T5,
    /// Means; none if no patch needs them.
    pub means: Option<&'a Means>,
    /// The base model with its activations for the batch; none if no patch needs them.
    pub base: Option<(&'a T5, &'a Trace)>,
}

/// A tap that replaces outputs.
pub(super) struct PatchTap<'a> {
    model: &'a T5,
    /// Replacements of complete outputs, `[1 or batch, d_model]`.
    outputs: BTreeMap<(usize, Component), Tensor<2>>,
    /// Patched heads of an attention with the replacement of their summed contributions, `[1 or batch, d_model]`.
    heads: BTreeMap<(usize, Component), (Vec<usize>, Tensor<2>)>,
    /// The summed contributions of the patched heads in the attention that is running, `[batch, d_model]`.
    own_contribution: Option<Tensor<2>>,
}

impl<'a> PatchTap<'a> {
    /// The tap that applies the patches `applied`.
    pub fn new(applied: &Applied, supply: &ReplacementSources<'a>) -> Self {
        let (mut outputs, mut heads) = (BTreeMap::new(), BTreeMap::new());
        for (&at, parts) in &applied.outputs {
            let of = |how: Option<Replacement>| -> Vec<usize> {
                (0..parts.len()).filter(|&part| parts[part] == how).collect()
            };
            let unpatched = of(None);
            let ways = Replacement::ALL.iter().map(|&how| (how, of(Some(how))));
            let mut replacements = ways.filter(|(_, some)| !some.is_empty()).map(|(how, some)| {
                match some.len() == parts.len() {
                    true => supply.output(at, how),
                    false => supply.heads(at, &some, how),
                }
            });
            let Some(first) = replacements.next() else { continue };
            let replacement = replacements.fold(first, |sum, replacement| sum + replacement);
            if unpatched.is_empty() {
                outputs.insert(at, replacement);
            } else {
                let replaced = (0..parts.len()).filter(|part| !unpatched.contains(part)).collect();
                heads.insert(at, (replaced, replacement));
            }
        }
        Self { model: supply.model, outputs, heads, own_contribution: None }
    }
}

impl ReplacementSources<'_> {
    /// The replacement of a complete output, `[1 or batch, d_model]`.
    fn output(&self, (layer, component): (usize, Component), how: Replacement) -> Tensor<2> {
        match how {
            Replacement::Zero => self.zeros(),
            Replacement::Mean => self.means().output(layer, component),
            Replacement::Base => self.base().1.output_of(layer, component).clone(),
        }
    }

    /// The replacement of the summed contributions of `heads`, `[1 or batch, d_model]`.
    fn heads(
        &self,
        (layer, component): (usize, Component),
        heads: &[usize],
        how: Replacement,
    ) -> Tensor<2> {
        match how {
            Replacement::Zero => self.zeros(),
            Replacement::Mean => contribution_of_heads(
                self.model,
                layer,
                component,
                heads,
                self.means().weighted(layer, component),
            ),
            Replacement::Base => {
                let (base, trace) = self.base();
                let weighted = trace.layers[layer].weighted[component].clone();
                contribution_of_heads(base, layer, component, heads, weighted)
            }
        }
    }

    fn zeros(&self) -> Tensor<2> {
        let device = self.model.shared.weight.val().device();
        Tensor::zeros([1, self.model.config().d_model], &device)
    }

    fn means(&self) -> &Means {
        self.means.unwrap_or_else(|| unreachable!("means are computed if a patch needs them"))
    }

    fn base(&self) -> (&T5, &Trace) {
        self.base.unwrap_or_else(|| unreachable!("a patch with the base is refused without one"))
    }
}

/// The summed contributions of `heads` to the residual stream, from weighted values `[rows, heads, d_kv]` to
/// `[rows, d_model]`.
fn contribution_of_heads(
    t5: &T5,
    layer: usize,
    component: Component,
    heads: &[usize],
    weighted: Tensor<3>,
) -> Tensor<2> {
    let shares = head_contributions(t5, layer, component, weighted); // [heads, rows, d_model]
    let parts = heads.iter().map(|&head| shares.clone().slice(head..head + 1).squeeze_dim(0));
    parts
        .reduce(|sum, share: Tensor<2>| sum + share)
        .unwrap_or_else(|| unreachable!("a patch of heads names at least one"))
}

/// The contribution `z_h W_O^h` of each head to the residual stream, from `[rows, heads, d_kv]` to `[heads, rows,
/// d_model]`.
pub(super) fn head_contributions(
    t5: &T5,
    layer: usize,
    component: Component,
    weighted: Tensor<3>,
) -> Tensor<3> {
    let block = &t5.decoder.layers[layer];
    let attention = match component {
        Component::SelfAttention => &block.self_attention,
        _ => &block.cross_attention,
    };
    let [_, heads, d_kv] = weighted.dims();
    let output = attention.output.weight.val(); // [heads * d_kv, d_model]
    let [_, d_model] = output.dims();
    let output = output.reshape([heads, d_kv, d_model]);
    weighted.swap_dims(0, 1).matmul(output) // [heads, rows, d_model]
}

/// The component whose output or weighted values are at `hook`.
fn component_at(hook: Hook) -> Option<Component> {
    match hook {
        Hook::WeightedValues(Attention::SelfAttention) => Some(Component::SelfAttention),
        Hook::WeightedValues(Attention::CrossAttention) => Some(Component::CrossAttention),
        hook => Component::ALL.into_iter().find(|&component| output_hook(component) == hook),
    }
}

impl Tap for PatchTap<'_> {
    fn wants(&self, site: Site) -> bool {
        let Some(component) = component_at(site.hook) else { return false };
        site.stack == Stack::Decoder && self.heads.contains_key(&(site.layer, component))
    }

    fn replace_output(
        &mut self,
        site: Site,
        [batch, position, width]: [usize; 3],
    ) -> Option<Tensor<3>> {
        let at = (site.layer, component_at(site.hook)?);
        let output = self.outputs.get(&at).filter(|_| site.stack == Stack::Decoder)?;
        Some(output.clone().expand([batch, width]).reshape([batch, position, width]))
    }

    fn stream(&mut self, site: Site, value: Tensor<3>) -> Tensor<3> {
        let Some(component) = component_at(site.hook) else { return value };
        let at = (site.layer, component);
        let [batch, _, width] = value.dims();
        match (self.own_contribution.take(), self.heads.get(&at)) {
            (Some(own), Some((_, replacement))) => {
                value + (replacement.clone() - own).reshape([batch, 1, width])
            }
            _ => value,
        }
    }

    fn heads(&mut self, site: Site, value: Tensor<4>) -> Tensor<4> {
        if let Some(component) = component_at(site.hook)
            && let Some((heads, _)) = self.heads.get(&(site.layer, component))
        {
            let weighted = value.clone().squeeze_dim::<3>(1); // [batch, heads, d_kv]
            self.own_contribution =
                Some(contribution_of_heads(self.model, site.layer, component, heads, weighted));
        }
        value
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use burn::tensor::TensorData;

    use super::super::means::Sums;
    use super::super::patch::Patch;
    use super::*;
    use crate::component::Stages;
    use crate::t5::weights::initialise;
    use crate::t5::{EncoderStates, NoTap, Pass, T5Config, Tokens};

    /// Two models that share their token embedding, their activations for the same tokens, and their stages.
    pub struct Pair {
        pub model: T5,
        pub base: T5,
        pub states: EncoderStates,
        pub traces: [Trace; 2],
        stages: Stages,
    }

    pub fn pair() -> Pair {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/probes/deep/checkpoint");
        let config = T5Config::read(Path::new(fixture)).expect("the fixture is there");
        let device = burn::tensor::Device::flex();
        let model = initialise(&config, 1, &device);
        let mut base = initialise(&config, 2, &device);
        base.shared = model.shared.clone();
        let tokens = Tokens::new(&[5, 6, 7, 1, 9, 1, 0, 0], &[4, 2], &device);
        let states = |t5: &T5| t5.encode(&tokens, &mut Pass::evaluate(&mut NoTap));
        let traces = [&model, &base].map(|t5| Trace::record(t5, &states(t5)));
        let stages = Stages::scaled(config.num_decoder_layers).expect("deep enough");
        Pair { states: states(&model), model, base, traces, stages }
    }

    impl Pair {
        pub fn applied(&self, patches: &[&str]) -> Applied {
            let config = self.model.config();
            let patch = |text: &&str| Patch::parse(text, Some(&self.stages), config).expect(text);
            Applied::new(&patches.iter().map(patch).collect::<Vec<_>>(), config)
        }

        pub fn patched(&self, patches: &[&str], base: (&T5, &Trace)) -> TensorData {
            let config = self.model.config();
            let applied = self.applied(patches);
            let first = applied.first_layer().expect("something is replaced");
            let mut means = Means::new(config.num_decoder_layers, &self.states.rows.device());
            means.add(&Sums::of(&self.traces[0]));
            let supply =
                ReplacementSources { model: &self.model, means: Some(&means), base: Some(base) };
            let mut tap = PatchTap::new(&applied, &supply);
            let residual = self.traces[0].layers[first].residual_pre.clone();
            let mut pass = Pass::evaluate(&mut tap);
            self.model.decode_from(first, residual, &self.states, &mut pass).into_data()
        }

        pub fn unpatched(&self) -> TensorData {
            self.traces[0].output.clone().into_data()
        }
    }

    // Recording inside attention changes the order of operations: outputs agree up to rounding.
    pub fn agree(found: &TensorData, expected: &TensorData, what: &str) {
        let values = |data: &TensorData| data.try_to_vec::<f32>().expect("activations are f32");
        for (found, expected) in values(found).iter().zip(values(expected)) {
            let apart = (found - expected).abs();
            assert!(apart <= 1e-5 * expected.abs().max(1.0), "{what}: {found}, not {expected}");
        }
    }

    #[test]
    fn patching_with_an_outputs_own_value_changes_nothing() {
        let pair = pair();
        let itself = (&pair.model, &pair.traces[0]);
        for selector in ["decoder.mlp[II]=base", "decoder.layers[5]=base", "decoder.*=base"] {
            agree(&pair.patched(&[selector], itself), &pair.unpatched(), selector);
        }
        // Contributions of heads are subtracted from a sum and added again.
        for selector in [
            "decoder.cross_attention[2].heads[0,3]=base",
            "decoder.self_attention[II].heads[1]=base",
        ] {
            agree(&pair.patched(&[selector], itself), &pair.unpatched(), selector);
        }
    }

    #[test]
    fn patching_everything_from_the_base_gives_the_base_models_output() {
        let pair = pair();
        let base = (&pair.base, &pair.traces[1]);
        let patched = pair.patched(&["decoder.*=base"], base);
        agree(&patched, &pair.traces[1].output.clone().into_data(), "the base");
        assert_ne!(patched, pair.unpatched());
    }

    #[test]
    fn all_heads_of_an_attention_are_its_whole_output() {
        let pair = pair();
        let base = (&pair.base, &pair.traces[1]);
        for how in ["zero", "mean", "base"] {
            let heads = format!("decoder.cross_attention[II].heads[0,1,2,3]={how}");
            let whole = format!("decoder.cross_attention[II]={how}");
            let heads = pair.patched(&[&heads], base);
            let whole = pair.patched(&[&whole], base);
            agree(&heads, &whole, how);
            assert_ne!(whole, pair.unpatched(), "{how}");
        }
    }

    #[test]
    fn starting_at_the_first_patched_layer_gives_what_the_whole_decoder_gives() {
        let pair = pair();
        let base = (&pair.base, &pair.traces[1]);
        let late = pair.patched(&["decoder.mlp[III]=zero"], base);
        let own = (&pair.model, &pair.traces[0]);
        // With the first of these patches the decoder starts at layer 0, where the patch changes nothing.
        let whole = pair.patched(&["decoder.layers[0]=base", "decoder.mlp[III]=zero"], own);
        agree(&late, &whole, "from layer 0");
    }
}
