//! Taps: every site is visited under its name with its shape, reading changes nothing, replacing acts,
//! and the components' outputs add up to the residual stream.

use std::collections::BTreeSet;

use burn::tensor::{Device, Tensor, TensorData};
use genir::t5::{Attention, Dropout, Hook, NoTap, Pass, Site, Stack, T5, Tap, Tokens};

use crate::small_models;
use crate::small_models::{DECODER_LAYERS, ENCODER_LAYERS};

const BATCH: usize = 2;
const SOURCE: usize = 5;
const TARGET: usize = 3;

/// A visited site with what it saw.
struct Visit {
    site: Site,
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// Keeps what it wants, in the order of the visits.
struct Recorder<W> {
    wanted: W,
    visits: Vec<Visit>,
}

impl<W: Fn(Site) -> bool> Recorder<W> {
    fn new(wanted: W) -> Self {
        Self { wanted, visits: Vec::new() }
    }

    fn keep<const D: usize>(&mut self, site: Site, value: &Tensor<D>) {
        let (shape, values) = (value.dims().to_vec(), values(value.clone()));
        self.visits.push(Visit { site, shape, values });
    }
}

impl<W: Fn(Site) -> bool> Tap for Recorder<W> {
    fn wants(&self, site: Site) -> bool {
        (self.wanted)(site)
    }

    fn stream(&mut self, site: Site, value: Tensor<3>) -> Tensor<3> {
        self.keep(site, &value);
        value
    }

    fn heads(&mut self, site: Site, value: Tensor<4>) -> Tensor<4> {
        self.keep(site, &value);
        value
    }
}

/// Replaces what goes by at one site.
struct Patch<'a> {
    site: Site,
    values: &'a [f32],
    done: usize,
}

impl Patch<'_> {
    fn patch<const D: usize>(&mut self, value: Tensor<D>) -> Tensor<D> {
        self.done += 1;
        let data = TensorData::new(self.values.to_vec(), value.dims());
        Tensor::from_data(data, &value.device())
    }
}

impl Tap for Patch<'_> {
    fn wants(&self, site: Site) -> bool {
        site == self.site
    }

    fn stream(&mut self, _site: Site, value: Tensor<3>) -> Tensor<3> {
        self.patch(value)
    }

    fn heads(&mut self, _site: Site, value: Tensor<4>) -> Tensor<4> {
        self.patch(value)
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("values in f32")
}

/// The decoder's output for a padded batch and `target` tokens.
fn run(t5: &T5, target: usize, pass: &mut Pass) -> Vec<f32> {
    let device = Device::flex();
    let source: Vec<i32> = (1..=(BATCH * SOURCE) as i32).collect();
    let states = t5.encode(&Tokens::new(&source, &[SOURCE as u32, 3], &device), pass);
    let start = t5.config().decoder_start_token_id as i32;
    let tokens: Vec<i32> = (0..BATCH * target)
        .map(|at| if at % target == 0 { start } else { 11 + at as i32 })
        .collect();
    let tokens = Tokens::new(&tokens, &[target as u32; BATCH], &device);
    values(t5.decode(&tokens, &states, pass))
}

fn evaluate(t5: &T5, target: usize, tap: &mut dyn Tap) -> Vec<f32> {
    run(t5, target, &mut Pass::evaluate(tap))
}

fn everything(_site: Site) -> bool {
    true
}

fn record(t5: &T5, target: usize) -> Vec<Visit> {
    let mut recorder = Recorder::new(everything);
    evaluate(t5, target, &mut recorder);
    recorder.visits
}

/// Names and shapes as TransformerLens has them, in the order of the computation. Sizes are those of
/// `small_models`: width 16, MLP 20, 4 heads of 6.
fn expected_sites(gated: bool, target: usize) -> Vec<(String, Vec<usize>)> {
    let mut sites = Vec::new();
    for (stack, layers, length) in
        [("encoder", ENCODER_LAYERS, SOURCE), ("decoder", DECODER_LAYERS, target)]
    {
        let stream = vec![BATCH, length, 16];
        let hidden = vec![BATCH, length, 20];
        let attention = |name: &str, source: usize| {
            [
                ("hook_q", vec![BATCH, length, 4, 6]),
                ("hook_k", vec![BATCH, source, 4, 6]),
                ("hook_v", vec![BATCH, source, 4, 6]),
                ("hook_attn_scores", vec![BATCH, 4, length, source]),
                ("hook_pattern", vec![BATCH, 4, length, source]),
                ("hook_z", vec![BATCH, length, 4, 6]),
            ]
            .map(|(hook, shape)| (format!("{name}.{hook}"), shape))
        };
        sites.push((format!("{stack}.hook_embed"), stream.clone()));
        for layer in 0..layers {
            let mut layer_sites = vec![
                ("hook_resid_pre".to_owned(), stream.clone()),
                ("ln1.hook_normalized".to_owned(), stream.clone()),
            ];
            layer_sites.extend(attention("attn", length));
            layer_sites.push(("hook_attn_out".to_owned(), stream.clone()));
            layer_sites.push(("hook_resid_mid".to_owned(), stream.clone()));
            let mut last_norm = "ln2.hook_normalized";
            if stack == "decoder" {
                layer_sites.push((last_norm.to_owned(), stream.clone()));
                layer_sites.extend(attention("cross_attn", SOURCE));
                layer_sites.push(("hook_cross_attn_out".to_owned(), stream.clone()));
                layer_sites.push(("hook_resid_mid_cross".to_owned(), stream.clone()));
                last_norm = "ln3.hook_normalized";
            }
            layer_sites.push((last_norm.to_owned(), stream.clone()));
            layer_sites.push(("mlp.hook_pre".to_owned(), hidden.clone()));
            if gated {
                layer_sites.push(("mlp.hook_pre_linear".to_owned(), hidden.clone()));
            }
            layer_sites.push(("mlp.hook_post".to_owned(), hidden.clone()));
            layer_sites.push(("hook_mlp_out".to_owned(), stream.clone()));
            layer_sites.push(("hook_resid_post".to_owned(), stream.clone()));
            let named = |(name, shape)| (format!("{stack}.{layer}.{name}"), shape);
            sites.extend(layer_sites.into_iter().map(named));
        }
        sites.push((format!("{stack}_final_ln.hook_normalized"), stream));
    }
    sites
}

#[test]
fn every_site_is_visited_once_under_its_name_with_its_shape() {
    for gated in [false, true] {
        let t5 = small_models::model(gated, true, &Device::flex());
        for target in [TARGET, 1] {
            let visits = record(&t5, target);
            let found: Vec<(String, Vec<usize>)> =
                visits.iter().map(|visit| (visit.site.to_string(), visit.shape.clone())).collect();
            assert_eq!(found, expected_sites(gated, target), "gated {gated}, target {target}");
            let names: BTreeSet<&String> = found.iter().map(|(name, _)| name).collect();
            assert_eq!(names.len(), found.len());
        }
    }
}

#[test]
fn the_one_token_path_visits_all_but_scores_with_the_same_values() {
    const SELF: Attention = Attention::SelfAttention;
    let skipped = |site: Site| {
        let hooks = [Hook::Query(SELF), Hook::Key(SELF), Hook::Scores(SELF), Hook::Pattern(SELF)];
        site.stack == Stack::Decoder && hooks.contains(&site.hook)
    };
    let t5 = small_models::model(true, true, &Device::flex());
    let mut recorder = Recorder::new(|site| !skipped(site));
    evaluate(&t5, 1, &mut recorder);
    let all = record(&t5, 1);
    let expected: Vec<&Visit> = all.iter().filter(|visit| !skipped(visit.site)).collect();
    assert_eq!(expected.len() + 4 * DECODER_LAYERS, all.len());
    assert_eq!(recorder.visits.len(), expected.len());
    for (found, expected) in recorder.visits.iter().zip(expected) {
        assert_eq!(found.site, expected.site);
        assert_eq!(found.shape, expected.shape, "{}", found.site);
        assert_eq!(found.values, expected.values, "{}", found.site);
    }
}

#[test]
fn only_wanted_sites_are_visited() {
    let t5 = small_models::model(false, true, &Device::flex());
    let wanted = Site { stack: Stack::Decoder, layer: 1, hook: Hook::MlpOut };
    let mut recorder = Recorder::new(|site| site == wanted);
    evaluate(&t5, TARGET, &mut recorder);
    assert_eq!(recorder.visits.len(), 1);
    assert_eq!(recorder.visits[0].site.to_string(), "decoder.1.hook_mlp_out");
}

/// Whether who reads this asks for another, longer way through attention to the same numbers, equal but for
/// rounding: see `one_token_path.rs`.
fn is_inside_attention(site: Site) -> bool {
    use Hook::{Key, Pattern, Query, Scores, Value};
    matches!(site.hook, Query(_) | Key(_) | Value(_) | Scores(_) | Pattern(_))
}

#[test]
fn reading_everything_changes_nothing_but_rounding() {
    for gated in [false, true] {
        let t5 = small_models::model(gated, true, &Device::flex());
        for target in [TARGET, 1] {
            let untouched = evaluate(&t5, target, &mut NoTap);
            let on_the_way = |site| !is_inside_attention(site);
            let read = evaluate(&t5, target, &mut Recorder::new(on_the_way));
            assert_eq!(read, untouched, "gated {gated}, target {target}");
            let read = evaluate(&t5, target, &mut Recorder::new(|_| true));
            for (read, untouched) in read.iter().zip(&untouched) {
                assert!((read - untouched).abs() < 1e-5, "gated {gated}, target {target}");
            }
        }
    }
}

#[test]
fn patching_any_site_with_its_own_value_changes_no_bit() {
    let t5 = small_models::model(true, true, &Device::flex());
    for visit in record(&t5, TARGET) {
        let mut recorder = Recorder::new(|site| site == visit.site);
        let untouched = evaluate(&t5, TARGET, &mut recorder);
        let values = &recorder.visits[0].values;
        let mut patch = Patch { site: visit.site, values, done: 0 };
        assert_eq!(evaluate(&t5, TARGET, &mut patch), untouched, "{}", visit.site);
        assert_eq!(patch.done, 1, "{}", visit.site);
    }
}

#[test]
fn patching_any_site_with_another_value_changes_the_output() {
    let t5 = small_models::model(true, true, &Device::flex());
    let untouched = evaluate(&t5, TARGET, &mut NoTap);
    for visit in record(&t5, TARGET) {
        // Neither a shift nor a factor, which a softmax or a norm would take back.
        let other: Vec<f32> = visit
            .values
            .iter()
            .enumerate()
            .map(|(at, value)| value + (at as f32 * 1.3).sin())
            .collect();
        let mut patch = Patch { site: visit.site, values: &other, done: 0 };
        assert_ne!(evaluate(&t5, TARGET, &mut patch), untouched, "{}", visit.site);
    }
}

#[test]
fn what_replaces_the_last_residual_is_what_the_final_norm_reads() {
    let t5 = small_models::model(false, true, &Device::flex());
    let last = Site { stack: Stack::Decoder, layer: DECODER_LAYERS - 1, hook: Hook::ResidualPost };
    let ones = vec![1.0; BATCH * TARGET * 16];
    let mut patch = Patch { site: last, values: &ones, done: 0 };
    let output = evaluate(&t5, TARGET, &mut patch);
    // Weights of norms start at 1 and the mean square of ones is 1.
    assert!(output.iter().all(|value| (value - 1.0).abs() < 1e-5), "{output:?}");
    assert_eq!(output.len(), ones.len());
}

/// Adds up what `visits` saw of a stack's components, onto `start`.
fn assert_adds_up(visits: &[Visit], stack: Stack, start: Hook, layers: usize) {
    let find = |layer, hook| {
        let site = Site { stack, layer, hook };
        let visit = visits.iter().find(|visit| visit.site == site);
        &visit.unwrap_or_else(|| panic!("{site} was not visited")).values
    };
    let mut sum = find(0, start).clone();
    let mut components = vec![Hook::AttentionOut, Hook::MlpOut];
    if stack == Stack::Decoder {
        components.push(Hook::CrossAttentionOut);
    }
    for layer in 0..layers {
        for &component in &components {
            let out = find(layer, component);
            assert!(out.iter().any(|&value| value != 0.0));
            sum.iter_mut().zip(out).for_each(|(sum, value)| *sum += value);
        }
    }
    for (at, (sum, expected)) in sum.iter().zip(find(layers - 1, Hook::ResidualPost)).enumerate() {
        let difference = (sum - expected).abs();
        assert!(difference <= 1e-5, "{stack}: value {at} is {expected}, the sum {sum}");
    }
}

#[test]
fn embedding_and_component_outputs_add_up_to_the_residual_stream() {
    for gated in [false, true] {
        let t5 = small_models::model(gated, true, &Device::flex());
        let visits = record(&t5, TARGET);
        assert_adds_up(&visits, Stack::Encoder, Hook::Embed, ENCODER_LAYERS);
        assert_adds_up(&visits, Stack::Decoder, Hook::Embed, DECODER_LAYERS);
    }
}

#[test]
fn component_outputs_are_seen_after_dropout() {
    let t5 = small_models::model(true, true, &Device::flex());
    let mut recorder = Recorder::new(everything);
    run(&t5, TARGET, &mut Pass::train(&mut recorder, Dropout { probability: 0.2, key: 5 }));
    // The embedding itself is seen before dropout, the first layer's input after it.
    assert_adds_up(&recorder.visits, Stack::Encoder, Hook::ResidualPre, ENCODER_LAYERS);
    assert_adds_up(&recorder.visits, Stack::Decoder, Hook::ResidualPre, DECODER_LAYERS);
}

/// Puts zeros in place of every component's output, and counts the sites that are passed.
#[derive(Default)]
struct NoComponents {
    passed: Vec<String>,
}

impl Tap for NoComponents {
    fn wants(&self, _site: Site) -> bool {
        true
    }

    fn replace_output(&mut self, _site: Site, shape: [usize; 3]) -> Option<Tensor<3>> {
        Some(Tensor::zeros(shape, &Device::flex()))
    }

    fn stream(&mut self, site: Site, value: Tensor<3>) -> Tensor<3> {
        self.passed.push(site.to_string());
        value
    }

    fn heads(&mut self, site: Site, value: Tensor<4>) -> Tensor<4> {
        self.passed.push(site.to_string());
        value
    }
}

#[test]
fn a_component_that_something_stands_in_for_is_not_computed() {
    let t5 = small_models::model(true, true, &Device::flex());
    let mut tap = NoComponents::default();
    let output = evaluate(&t5, TARGET, &mut tap);
    let inside = |name: &&String| !name.contains("resid") && !name.contains("embed");
    let inside: Vec<&String> = tap.passed.iter().filter(inside).collect();
    assert_eq!(inside, ["encoder_final_ln.hook_normalized", "decoder_final_ln.hook_normalized"]);
    // What is left is the embedding, which the final norm reads.
    let mut visits = Recorder::new(|site| site.hook == Hook::Embed && site.stack == Stack::Decoder);
    evaluate(&t5, TARGET, &mut visits);
    let last = Site { stack: Stack::Decoder, layer: DECODER_LAYERS - 1, hook: Hook::ResidualPost };
    let mut patch = Patch { site: last, values: &visits.visits[0].values, done: 0 };
    assert_eq!(output, evaluate(&t5, TARGET, &mut patch));
}
