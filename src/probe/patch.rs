//! Patching: components' outputs replaced while the decoder runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use burn::tensor::Tensor;

use super::means::Means;
use super::overlap::Applied;
use super::trace::{Trace, output_hook};
use super::{ProbeError, Replacement};
use crate::choice::Choice;
use crate::component::{Component, Selector, SelectorError, Stack, Stage, Stages};
use crate::t5::{Attention, Hook, Site, T5, T5Config, Tap};

/// A part of the decoder whose output is replaced: some components of some layers, or heads of some attentions.
#[derive(Debug, Clone)]
pub(super) struct PatchedPart {
    /// As it was written.
    pub selector: String,
    /// By layer, then in the order in which components run.
    pub places: Vec<(usize, Component)>,
    /// Each once; none for whole outputs.
    pub heads: Option<Vec<usize>>,
}

impl PatchedPart {
    /// Reads a selector of decoder components, perhaps with `.heads[0,2]` behind an attention.
    pub fn parse(
        text: &str,
        stages: Option<&Stages>,
        config: &T5Config,
    ) -> Result<Self, ProbeError> {
        let refuse =
            |reason: String| Err(ProbeError::NotPatchable { selector: text.to_owned(), reason });
        let (word, heads) = match text.split_once(".heads[") {
            None => (text, None),
            Some((word, rest)) => match parse_heads(rest) {
                Some(heads) => (word, Some(heads)),
                None => return refuse("heads are numbers in brackets".to_owned()),
            },
        };
        let selector: Selector = word.parse()?;
        if selector.takes_away {
            return refuse("it takes away".to_owned());
        }
        let depth = config.num_decoder_layers;
        if stages.is_none() && selector.needs_stages() {
            return Err(SelectorError::NoStages { selector: word.to_owned(), depth }.into());
        }
        if let Some(beyond) = selector.layers_beyond(stages, depth) {
            return refuse(format!("layers {beyond} go beyond the decoder's {depth} layers"));
        }
        let places: Vec<(usize, Component)> = (0..depth)
            .flat_map(|layer| Component::ALL.map(|component| (layer, component)))
            .filter(|&(layer, component)| {
                selector.matches_component(Stack::Decoder, layer, component, stages)
            })
            .collect();
        if places.is_empty() {
            return refuse("it names no component of the decoder".to_owned());
        }
        if let Some(heads) = &heads {
            if places.iter().any(|(_, component)| *component == Component::Mlp) {
                return refuse("an MLP has no heads".to_owned());
            }
            if let Some(head) = heads.iter().find(|&&head| head >= config.num_heads) {
                return refuse(format!("there is no head {head} of {}", config.num_heads));
            }
        }
        Ok(Self { selector: text.to_owned(), places, heads })
    }

    /// A component in all layers of a stage.
    pub fn of_stage(component: Component, stage: Stage, stages: &Stages) -> Self {
        Self {
            selector: format!("decoder.{}[{stage}]", component.name()),
            places: stages.layers(stage).clone().map(|layer| (layer, component)).collect(),
            heads: None,
        }
    }
}

/// `0,2]`
fn parse_heads(text: &str) -> Option<Vec<usize>> {
    let heads = text.strip_suffix(']')?.split(',').map(|head| head.trim().parse().ok());
    let heads: BTreeSet<usize> = heads.collect::<Option<_>>()?;
    Some(heads.into_iter().collect())
}

/// A part with what stands in for its output.
#[derive(Debug, Clone)]
pub(super) struct Patch {
    pub part: PatchedPart,
    pub replacement: Replacement,
}

impl Patch {
    /// Reads `SELECTOR=zero`, `SELECTOR=mean` or `SELECTOR=base`.
    pub fn parse(
        text: &str,
        stages: Option<&Stages>,
        config: &T5Config,
    ) -> Result<Self, ProbeError> {
        let read = text.rsplit_once('=');
        let read = read.and_then(|(part, how)| Some((part, Replacement::from_name(how.trim())?)));
        let Some((part, replacement)) = read else {
            return Err(ProbeError::NotAPatch { patch: text.to_owned() });
        };
        Ok(Self { part: PatchedPart::parse(part.trim(), stages, config)?, replacement })
    }
}

impl fmt::Display for Patch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.part.selector, self.replacement)
    }
}

/// What replaces outputs in one batch.
#[derive(Clone, Copy)]
pub(super) struct Supply<'a> {
    pub model: &'a T5,
    /// None where nothing is replaced by a mean.
    pub means: Option<&'a Means>,
    /// The base model with its pass on the batch; none where nothing is replaced by it.
    pub base: Option<(&'a T5, &'a Trace)>,
}

/// A tap that replaces outputs.
pub(super) struct Patching<'a> {
    model: &'a T5,
    /// What stands in for whole outputs, `[1 or batch, d_model]`.
    outputs: BTreeMap<(usize, Component), Tensor<2>>,
    /// Heads of an attention, and the sum of what stands in for their shares, `[1 or batch, d_model]`.
    heads: BTreeMap<(usize, Component), (Vec<usize>, Tensor<2>)>,
    /// The share of the heads that are replaced, in the attention that is running.
    own_share: Option<Tensor<2>>,
}

impl<'a> Patching<'a> {
    /// The tap for what `applied` replaces.
    pub fn new(applied: &Applied, supply: &Supply<'a>) -> Self {
        let (mut outputs, mut heads) = (BTreeMap::new(), BTreeMap::new());
        for (&at, parts) in &applied.outputs {
            let of = |how: Option<Replacement>| -> Vec<usize> {
                (0..parts.len()).filter(|&part| parts[part] == how).collect()
            };
            let kept = of(None);
            let ways = Replacement::ALL.iter().map(|&how| (how, of(Some(how))));
            let mut stand_ins = ways.filter(|(_, some)| !some.is_empty()).map(|(how, some)| {
                match some.len() == parts.len() {
                    true => supply.output(at, how),
                    false => supply.heads(at, &some, how),
                }
            });
            let Some(first) = stand_ins.next() else { continue };
            let stand_in = stand_ins.fold(first, |sum, stand_in| sum + stand_in);
            if kept.is_empty() {
                outputs.insert(at, stand_in);
            } else {
                let replaced = (0..parts.len()).filter(|part| !kept.contains(part)).collect();
                heads.insert(at, (replaced, stand_in));
            }
        }
        Self { model: supply.model, outputs, heads, own_share: None }
    }
}

impl Supply<'_> {
    /// What stands in for a whole output, `[1 or batch, d_model]`.
    fn output(&self, (layer, component): (usize, Component), how: Replacement) -> Tensor<2> {
        match how {
            Replacement::Zero => self.nothing(),
            Replacement::Mean => self.means().output(layer, component),
            Replacement::Base => self.base().1.output_of(layer, component).clone(),
        }
    }

    /// What stands in for the shares of `heads` together, `[1 or batch, d_model]`.
    fn heads(
        &self,
        (layer, component): (usize, Component),
        heads: &[usize],
        how: Replacement,
    ) -> Tensor<2> {
        match how {
            Replacement::Zero => self.nothing(),
            Replacement::Mean => {
                share_of(self.model, layer, component, heads, self.means().mixed(layer, component))
            }
            Replacement::Base => {
                let (base, trace) = self.base();
                let mixed = trace.layers[layer].mixed[component].clone();
                share_of(base, layer, component, heads, mixed)
            }
        }
    }

    fn nothing(&self) -> Tensor<2> {
        let device = self.model.shared.weight.val().device();
        Tensor::zeros([1, self.model.config().d_model], &device)
    }

    fn means(&self) -> &Means {
        self.means.unwrap_or_else(|| unreachable!("means are taken for every patch that asks"))
    }

    fn base(&self) -> (&T5, &Trace) {
        self.base.unwrap_or_else(|| unreachable!("a patch with the base is refused without one"))
    }
}

/// What `heads` add to the residual stream together: `mixed`, `[rows, heads, d_kv]`, -> `[rows, d_model]`.
fn share_of(
    t5: &T5,
    layer: usize,
    component: Component,
    heads: &[usize],
    mixed: Tensor<3>,
) -> Tensor<2> {
    let shares = head_shares(t5, layer, component, mixed); // [heads, rows, d_model]
    let parts = heads.iter().map(|&head| shares.clone().slice(head..head + 1).squeeze_dim(0));
    parts
        .reduce(|sum, share: Tensor<2>| sum + share)
        .unwrap_or_else(|| unreachable!("heads are named"))
}

/// What each head adds to the residual stream: `z_h W_O^h`, from `[rows, heads, d_kv]` to `[heads, rows, d_model]`.
pub(super) fn head_shares(
    t5: &T5,
    layer: usize,
    component: Component,
    mixed: Tensor<3>,
) -> Tensor<3> {
    let block = &t5.decoder.layers[layer];
    let attention = match component {
        Component::SelfAttention => &block.self_attention,
        _ => &block.cross_attention,
    };
    let [_, heads, d_kv] = mixed.dims();
    let output = attention.output.weight.val(); // [heads * d_kv, d_model]
    let [_, d_model] = output.dims();
    let output = output.reshape([heads, d_kv, d_model]);
    mixed.swap_dims(0, 1).matmul(output) // [heads, rows, d_model]
}

/// The component whose output or heads go by at `hook`.
fn component_at(hook: Hook) -> Option<Component> {
    match hook {
        Hook::Mixed(Attention::SelfAttention) => Some(Component::SelfAttention),
        Hook::Mixed(Attention::CrossAttention) => Some(Component::CrossAttention),
        hook => Component::ALL.into_iter().find(|&component| output_hook(component) == hook),
    }
}

impl Tap for Patching<'_> {
    fn wants(&self, site: Site) -> bool {
        let Some(component) = component_at(site.hook) else { return false };
        site.stack == Stack::Decoder && self.heads.contains_key(&(site.layer, component))
    }

    fn stand_in(&mut self, site: Site, [batch, position, width]: [usize; 3]) -> Option<Tensor<3>> {
        let at = (site.layer, component_at(site.hook)?);
        let whole = self.outputs.get(&at).filter(|_| site.stack == Stack::Decoder)?;
        Some(whole.clone().expand([batch, width]).reshape([batch, position, width]))
    }

    fn stream(&mut self, site: Site, value: Tensor<3>) -> Tensor<3> {
        let Some(component) = component_at(site.hook) else { return value };
        let at = (site.layer, component);
        let [batch, _, width] = value.dims();
        match (self.own_share.take(), self.heads.get(&at)) {
            (Some(own), Some((_, stand_in))) => {
                value + (stand_in.clone() - own).reshape([batch, 1, width])
            }
            _ => value,
        }
    }

    fn heads(&mut self, site: Site, value: Tensor<4>) -> Tensor<4> {
        if let Some(component) = component_at(site.hook)
            && let Some((heads, _)) = self.heads.get(&(site.layer, component))
        {
            let mixed = value.clone().squeeze_dim::<3>(1); // [batch, heads, d_kv]
            self.own_share = Some(share_of(self.model, site.layer, component, heads, mixed));
        }
        value
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use burn::tensor::TensorData;

    use super::*;
    use crate::t5::weights::initialise;
    use crate::t5::{EncoderStates, NoTap, Pass, Tokens};

    /// Two models that share embedding and final norm, what they do with the same tokens, and their stages.
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
            means.add(&self.traces[0]);
            let supply = Supply { model: &self.model, means: Some(&means), base: Some(base) };
            let mut tap = Patching::new(&applied, &supply);
            let residual = self.traces[0].layers[first].residual_pre.clone();
            let mut pass = Pass::evaluate(&mut tap);
            self.model.decode_from(first, residual, &self.states, &mut pass).into_data()
        }

        pub fn unpatched(&self) -> TensorData {
            self.traces[0].output.clone().into_data()
        }
    }

    // What reads inside attention, as a trace does, gets it computed in another order: outputs agree but for rounding.
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
        // Heads are taken out of a sum and put back.
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
        // The first of these patches makes the decoder start at layer 0, and changes nothing there.
        let whole = pair.patched(&["decoder.layers[0]=base", "decoder.mlp[III]=zero"], own);
        agree(&late, &whole, "from layer 0");
    }
}
