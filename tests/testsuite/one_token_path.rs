//! One target token takes a short path through the decoder, and the CPU takes attention as one operation where no
//! tap looks inside. Outputs and gradients are those of the general path, without dropout and with it.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use genir::component::{VisitParameter, visit_parameters};
use genir::t5::{Attention, Dropout, Hook, Pass, Site, Stack, T5, Tap, Tokens};

use crate::small_models;
use crate::small_models::{DECODER_LAYERS, ENCODER_LAYERS};

const BATCH: usize = 3;
const LENGTHS: [u32; BATCH] = [5, 2, 4];
const MODELS: [(bool, bool); 4] = [(false, true), (false, false), (true, true), (true, false)];

/// Wants hooks of a stack that exist on the general path only, which forces it: scores of self-attention, keys
/// and values of cross-attention. Or wants none.
struct Wants<'a> {
    stack: Stack,
    hooks: &'a [Hook],
    calls: usize,
}

impl Tap for Wants<'_> {
    fn wants(&self, site: Site) -> bool {
        site.stack == self.stack && self.hooks.contains(&site.hook)
    }

    fn heads(&mut self, _site: Site, value: Tensor<4>) -> Tensor<4> {
        self.calls += 1;
        value
    }
}

/// How the decoder's output for one token is asked for.
#[derive(Debug, Clone, Copy)]
enum Way {
    Together,
    Start,
    Tokens,
    /// Three tokens with padding.
    Several,
}

struct Result {
    output: Vec<f32>,
    /// By the parameter's name; none where Burn gives no gradient.
    gradients: BTreeMap<String, Option<Vec<f32>>>,
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("values in f32")
}

/// [`run_with`] a tap that wants to see `hooks` of the decoder.
fn run(t5: &T5, way: Way, hooks: &[Hook], dropout: Option<Dropout>) -> Result {
    run_with(t5, way, Stack::Decoder, hooks, dropout)
}

/// Runs forward and backward; `hooks` are what a tap wants to see of the stack.
fn run_with(t5: &T5, way: Way, stack: Stack, hooks: &[Hook], dropout: Option<Dropout>) -> Result {
    let device = Device::flex().autodiff();
    let ids: Vec<i32> = (0..BATCH as i32 * 5).map(|at| (at * 7 + 3) % 22 + 1).collect();
    let source = Tokens::new(&ids, &LENGTHS, &device);
    let mut tap = Wants { stack, hooks, calls: 0 };
    let mut pass = match dropout {
        Some(dropout) => Pass::train(&mut tap, dropout),
        None => Pass::evaluate(&mut tap),
    };
    let output = match way {
        Way::Together => together(t5, &source, &mut pass),
        Way::Start => {
            let states = t5.encode(&source, &mut pass);
            t5.decode_start(&states, &mut pass)
        }
        Way::Tokens => {
            let states = t5.encode(&source, &mut pass);
            let start = t5.config().decoder_start_token_id as i32;
            let target = Tokens::new(&[start; BATCH], &[1; BATCH], &device);
            t5.decode(&target, &states, &mut pass)
        }
        Way::Several => {
            let states = t5.encode(&source, &mut pass);
            let ids: Vec<i32> = (0..BATCH as i32 * 3).collect();
            t5.decode(&Tokens::new(&ids, &[3, 1, 2], &device), &states, &mut pass)
        }
    };
    let layers = if stack == Stack::Encoder { ENCODER_LAYERS } else { DECODER_LAYERS };
    assert_eq!(tap.calls, hooks.len() * layers, "{way:?} {hooks:?}");
    let logits = t5.text_logits(output.clone());
    let factors: Vec<f32> = (0..logits.shape().num_elements()).map(|i| (i as f32).sin()).collect();
    let factors = Tensor::<2>::from_data(TensorData::new(factors, logits.dims()), &device);
    let gradients = GradientsParams::from_grads((logits * factors).sum().backward(), t5);
    let mut named = Named { gradients, found: BTreeMap::new() };
    visit_parameters(t5, &mut named);
    Result { output: values(output.inner()), gradients: named.found }
}

/// Both stacks from one lookup.
fn together(t5: &T5, source: &Tokens, pass: &mut Pass) -> Tensor<2> {
    t5.encode_and_decode_start(t5.shared.forward(t5.input_tokens(source)), source, pass)
}

/// Gradients by the parameters' names.
struct Named {
    gradients: GradientsParams,
    found: BTreeMap<String, Option<Vec<f32>>>,
}

impl VisitParameter for Named {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        let gradient = self.gradients.remove::<D>(param.id).map(values);
        self.found.insert(name.to_owned(), gradient);
    }
}

/// Whether the parameter has no effect at one token.
fn is_without_effect(name: &str) -> bool {
    name == "decoder.relative_bias.weight"
        || (name.starts_with("decoder.layers.")
            && ["self_attention.query.weight", "self_attention.key.weight"]
                .iter()
                .any(|end| name.ends_with(end)))
}

/// `tolerance` is relative to the largest value.
fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: sizes");
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance * largest, "{what}: differs by {worst}, largest value {largest}");
}

fn assert_same(found: &Result, expected: &Result, what: &str) {
    assert_close(&found.output, &expected.output, 1e-6, &format!("{what}: output"));
    assert_eq!(
        found.gradients.keys().collect::<Vec<_>>(),
        expected.gradients.keys().collect::<Vec<_>>()
    );
    for (name, gradient) in &found.gradients {
        let what = format!("{what}: gradient of {name}");
        let pair = [gradient, &expected.gradients[name]];
        if is_without_effect(name) {
            for gradient in pair.into_iter().flatten() {
                assert!(gradient.iter().all(|&value| value == 0.0), "{what} is not zero");
            }
            continue;
        }
        let [Some(gradient), Some(expected)] = pair else { panic!("{what} is missing") };
        assert!(expected.iter().any(|&value| value != 0.0), "{what} is zero");
        assert_close(gradient, expected, 1e-5, &what);
    }
}

/// The short path by every way that leads to it, against the general path.
fn check(dropout: Option<Dropout>) {
    const SELF: Attention = Attention::SelfAttention;
    const CROSS: Attention = Attention::CrossAttention;
    let device = Device::flex().autodiff();
    for (gated, tied) in MODELS {
        let t5 = small_models::model(gated, tied, &device);
        let general = run(&t5, Way::Tokens, &[Hook::Pattern(SELF), Hook::Key(CROSS)], dropout);
        for way in [Way::Together, Way::Start, Way::Tokens] {
            // The first three force the general path; the last two the one made of tensor operations.
            let one_by_one = [
                Hook::Scores(SELF),
                Hook::Query(SELF),
                Hook::Value(CROSS),
                Hook::WeightedValues(CROSS),
                Hook::Query(CROSS),
                Hook::Pattern(CROSS),
            ];
            for hooks in [&[][..]].into_iter().chain(one_by_one.chunks(1)) {
                let what = format!("gated {gated}, tied {tied}, {way:?}, tap {hooks:?}");
                assert_same(&run(&t5, way, hooks, dropout), &general, &what);
            }
        }
    }
}

#[test]
fn the_short_path_equals_the_general_one() {
    check(None);
}

#[test]
fn the_short_path_equals_the_general_one_under_dropout() {
    check(Some(Dropout { probability: 0.3, key: 11 }));
}

#[test]
fn self_attention_of_many_positions_is_that_of_its_parts() {
    const SELF: Attention = Attention::SelfAttention;
    let device = Device::flex().autodiff();
    for (gated, tied) in MODELS {
        let t5 = small_models::model(gated, tied, &device);
        for dropout in [None, Some(Dropout { probability: 0.3, key: 11 })] {
            let whole = run(&t5, Way::Several, &[], dropout);
            for stack in [Stack::Encoder, Stack::Decoder] {
                for hook in [Hook::Value(SELF), Hook::Scores(SELF), Hook::WeightedValues(SELF)] {
                    let parts = run_with(&t5, Way::Several, stack, &[hook], dropout);
                    let what = format!("gated {gated}, tied {tied}, {dropout:?}, {stack} {hook:?}");
                    assert_close(&whole.output, &parts.output, 1e-6, &what);
                    for (name, found) in &whole.gradients {
                        let what = format!("{what}: gradient of {name}");
                        let [Some(found), Some(expected)] = [found, &parts.gradients[name]] else {
                            panic!("{what} is missing")
                        };
                        assert!(expected.iter().any(|&value| value != 0.0), "{what} is zero");
                        assert_close(found, expected, 1e-5, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn dropout_acts_and_follows_from_its_key_on_both_paths() {
    let t5 = small_models::model(false, true, &Device::flex().autodiff());
    for hooks in [&[][..], &[Hook::Pattern(Attention::SelfAttention)]] {
        let output = |dropout| run(&t5, Way::Together, hooks, dropout).output;
        let drop = |key| Some(Dropout { probability: 0.3, key });
        assert_eq!(output(drop(11)), output(drop(11)));
        assert_ne!(output(drop(11)), output(drop(12)));
        assert_ne!(output(drop(11)), output(None));
    }
}

#[test]
fn dropping_the_only_attention_weight_drops_the_head() {
    // Seen where the weighted values go by, without forcing the general path.
    struct Mixed(Vec<Vec<f32>>);
    impl Tap for Mixed {
        fn wants(&self, site: Site) -> bool {
            site.stack == Stack::Decoder
                && site.hook == Hook::WeightedValues(Attention::SelfAttention)
        }
        fn heads(&mut self, _site: Site, value: Tensor<4>) -> Tensor<4> {
            self.0.push(values(value.clone()));
            value
        }
    }
    let device = Device::flex();
    let t5 = small_models::model(false, true, &device);
    let mut tap = Mixed(Vec::new());
    let mut pass = Pass::train(&mut tap, Dropout { probability: 0.5, key: 1 });
    together(&t5, &Tokens::new(&[4; 40], &[5; 8], &device), &mut pass);
    assert_eq!(tap.0.len(), DECODER_LAYERS);
    let heads: Vec<&[f32]> = tap.0.iter().flat_map(|layer| layer.chunks(6)).collect();
    let dropped = heads.iter().filter(|head| head.iter().all(|&value| value == 0.0)).count();
    let whole = heads.iter().filter(|head| head.iter().all(|&value| value != 0.0)).count();
    assert_eq!(dropped + whole, heads.len(), "a head is dropped whole or not at all");
    // 96 heads, each dropped with probability 1/2.
    assert!((25..72).contains(&dropped), "{dropped} of {} heads dropped", heads.len());
}

#[test]
fn a_model_off_the_autodiff_graph_stays_off_it() {
    let device = Device::flex();
    let t5 = small_models::model(false, true, &device);
    for dropout in [None, Some(Dropout { probability: 0.3, key: 11 })] {
        let mut tap = Wants { stack: Stack::Decoder, hooks: &[], calls: 0 };
        let mut pass = match dropout {
            Some(dropout) => Pass::train(&mut tap, dropout),
            None => Pass::evaluate(&mut tap),
        };
        let source = Tokens::new(&[4; 15], &LENGTHS, &device);
        assert!(!together(&t5, &source, &mut pass).is_autodiff(), "{dropout:?}");
    }
}
