//! Criterion benches of the parts of a training step that are our own, each beside what it replaces.
//!
//!     cargo bench --bench parts
//!
//! `benches/parts_in_pytorch.py` times the same parts in PyTorch.

use std::hint::black_box;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{AdamWConfig, Optimizer as _};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use genir::corpus::atlas::atlas;
use genir::device::Precision;
use genir::docid::TextTokenizer;
use genir::ops::{cross_entropy, cross_entropy_of_logits};
use genir::t5::{
    Attention, EncoderStates, Head, Hook, NoTap, Pass, Site, T5, T5Config, Tap, Tokens, weights,
};
use genir::task::{Epochs, Examples, Mixture, Sampler, TaskOptions, collate};
use genir::train::AdamW;

// The allocator that the binary has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 32;
const WORDS: usize = 32_128;
const DOCUMENTS: usize = 1_000;

/// From the decoder's output to the loss and the output's gradient, over 33,128 frozen rows: ours in one operation,
/// ours from logits as on other devices, and Burn's.
fn loss(criterion: &mut Criterion) {
    let device = Device::flex().autodiff();
    let matrix = |rows| {
        let shape = [rows, 512];
        Tensor::<2>::random(shape, Distribution::Normal(0.0, 0.05), &device)
    };
    let head = Head {
        rows: matrix(BATCH).require_grad(),
        text: matrix(WORDS),
        docids: matrix(DOCUMENTS),
        precision: Precision::F32,
    };
    let rows: Vec<i32> = (0..BATCH as i32).collect();
    let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [BATCH]), &device);
    let mut group = criterion.benchmark_group("loss from the output, 32 x 33,128, with gradient");
    group.bench_function("genir", |bencher| {
        bencher.iter(|| {
            let loss = cross_entropy(head.clone(), rows.clone(), 0.0, 1.0);
            black_box(loss.root.backward());
        });
    });
    group.bench_function("genir, from logits", |bencher| {
        bencher.iter(|| {
            let loss = cross_entropy_of_logits(head.clone().logits(), rows.clone(), 0.0, 1.0);
            black_box(loss.root.backward());
        });
    });
    group.bench_function("Burn", |bencher| {
        let loss = CrossEntropyLossConfig::new().init(&device);
        bencher.iter(|| {
            let Head { rows: output, text: words, docids, .. } = head.clone();
            let words = output.clone().matmul(words.transpose());
            let logits = Tensor::cat(vec![words, output.matmul(docids.transpose())], 1);
            let targets = rows.clone() + WORDS as i32;
            black_box(loss.forward(logits, targets).backward());
        });
    });
    group.finish();
}

/// One update of a 32,128 x 512 matrix: ours in one pass, and Burn's.
fn adamw(criterion: &mut Criterion) {
    let device = Device::flex();
    let matrix = || Tensor::<2>::random([WORDS, 512], Distribution::Normal(0.0, 1.0), &device);
    let ours = AdamW {
        beta_1: 0.9,
        beta_2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        gradient_scale: 1.0,
    };
    let burns = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.01).build();
    let mut group = criterion.benchmark_group("AdamW, 32,128 x 512");
    group.sample_size(20);
    group.bench_function("genir", |bencher| {
        let mut state = Some(ours.step(1e-3, matrix(), matrix(), None));
        let gradient = matrix();
        bencher.iter_batched(
            || gradient.clone() + 0.0,
            |gradient| {
                let (parameter, moments) = state.take().unwrap_or_else(|| unreachable!("put back"));
                state = Some(ours.step(1e-3, parameter, gradient, moments));
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function("Burn", |bencher| {
        let mut state = Some(burns.step(1e-3, matrix(), matrix(), None));
        let gradient = matrix();
        bencher.iter_batched(
            || gradient.clone() + 0.0,
            |gradient| {
                let (parameter, moments) = state.take().unwrap_or_else(|| unreachable!("put back"));
                state = Some(burns.step(1e-3, parameter, gradient, moments));
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// A T5 of one layer a stack with next to no MLP: attention and little else.
fn attention_only(device: &Device) -> T5 {
    let config = r#"{"d_model": 512, "d_kv": 64, "d_ff": 8, "num_heads": 8, "num_layers": 1, "vocab_size": 100}"#;
    let config = T5Config::from_json("config.json".as_ref(), config);
    weights::initialise(&config.unwrap_or_else(|error| panic!("{error}")), 1, device)
}

fn tokens(length: usize, device: &Device) -> Tokens {
    let ids: Vec<i32> = (0..(BATCH * length) as i32).map(|at| at * 7 % 100).collect();
    Tokens::new(&ids, &[length as u32; BATCH], device)
}

/// Wants keys, which absorbed cross-attention does not have.
struct Keys;

impl Tap for Keys {
    fn wants(&self, site: Site) -> bool {
        site.hook == Hook::Key(Attention::CrossAttention)
    }
}

/// Attention of an encoder layer and of one decoder token, with the gradients of all matrices. Cross-attention at
/// several source lengths, absorbed and with keys and values.
fn attention(criterion: &mut Criterion) {
    let device = Device::flex().autodiff();
    let t5 = attention_only(&device);
    let mut group = criterion.benchmark_group("self-attention of 32 x 32 tokens, with gradients");
    let source = tokens(32, &device);
    group.bench_function("genir", |bencher| {
        bencher.iter(|| {
            let states = t5.encode(&source, &mut Pass::evaluate(&mut NoTap));
            black_box(states.rows.sum().backward());
        });
    });
    group.finish();
    for length in [4, 32, 256] {
        let name = format!("cross-attention of one token to 32 x {length}, with gradients");
        let mut group = criterion.benchmark_group(name);
        let states = t5.encode(&tokens(length, &device), &mut Pass::evaluate(&mut NoTap));
        let states = EncoderStates { rows: states.rows.detach(), ..states };
        let mut time = |name, tap: &mut dyn Tap| {
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    let output = t5.decode_start(&states, &mut Pass::evaluate(tap));
                    black_box(output.sum().backward());
                });
            });
        };
        time("absorbed", &mut NoTap);
        time("with keys and values", &mut Keys);
        group.finish();
    }
}

/// A batch from a position: why no thread makes batches ahead of time.
fn batch(criterion: &mut Criterion) {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/checkpoints/atlas-base");
    let loaded = TextTokenizer::load(base.as_ref()).unwrap_or_else(|error| panic!("{error}"));
    let options = TaskOptions { ratio: Some(1.0), ..TaskOptions::default() };
    let examples = Examples::build(&atlas(), &loaded.tokenizer, &options, &Default::default())
        .unwrap_or_else(|error| panic!("{error}"));
    let mixture = Mixture::new(&examples, &options).unwrap_or_else(|error| panic!("{error}"));
    let epochs = Epochs::new(mixture.per_epoch(), 128, 1).unwrap_or_else(|error| panic!("{error}"));
    let mut sampler = Sampler::new(&examples, &mixture, epochs, 1);
    let mut position = 0;
    criterion.bench_function("batch of 128 from its position", |bencher| {
        bencher.iter(|| {
            position = (position + 1) % epochs.updates();
            let indices = sampler.update(position);
            black_box(collate(&examples, indices, loaded.tokenizer.pad_id(), 1))
        });
    });
}

criterion_group!(benches, loss, adamw, attention, batch);
criterion_main!(benches);
