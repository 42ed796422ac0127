//! Times genir's training step when told to, for `benches/side_by_side/run.py` (the protocol is in
//! `benches/README.md`).
//!
//!     cargo run --release --example step_server -- full t5-small

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};
use genir::component::{Stages, freeze_all_but, trainable_set};
use genir::recipe;
use genir::t5::{Dropout, GenirModel, T5Config, Tokens, weights};
use genir::train::{Optimizer, StepInput, StepOptions, forward_backward};
use rand::RngExt;

// The allocator that the binary has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const WORDS: usize = 32_128;
const DOCUMENTS: usize = 1_000;
const BATCH: usize = 32;
const LENGTH: usize = 32;
const WARM_UP: usize = 3;

fn main() -> anyhow::Result<()> {
    genir::allocator::keep_freed_memory();
    // As the binary does it: see genir::cli::main.
    rayon::scope(|_| serve())
}

fn serve() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, shape] = arguments.as_slice() else {
        anyhow::bail!("usage: step_server full|restricted t5-small|t5-base");
    };
    let (d_model, d_ff, heads, layers) = match shape.as_str() {
        "t5-small" => (512, 2048, 8, 6),
        "t5-base" => (768, 3072, 12, 12),
        other => anyhow::bail!("shape `{other}`: expected t5-small or t5-base"),
    };
    let config = format!(
        r#"{{"d_model": {d_model}, "d_ff": {d_ff}, "d_kv": 64, "num_heads": {heads},
            "num_layers": {layers}, "vocab_size": {WORDS}}}"#
    );
    let config = T5Config::from_json(Path::new("config.json"), &config)?;
    let device = Device::flex().autodiff();
    let docids = weights::random_rows(&config, DOCUMENTS, 1);
    let mut model = GenirModel {
        t5: weights::initialise(&config, 1, &device),
        docids: weights::docids_from(docids, d_model, &device),
    };
    let parameters = GenirModel::parameter_sizes(&config, true, DOCUMENTS);
    let names = parameters.iter().map(|(name, _)| name.as_str());
    let select = [mode.clone()];
    let trained: BTreeSet<String> = trainable_set(&select, &Stages::scaled(layers)?, names)?;
    model = freeze_all_but(model, &trained);
    let count: usize =
        parameters.iter().filter(|(name, _)| trained.contains(name)).map(|(_, size)| size).sum();

    let mut generator = genir::random::generator(1, 0, "tokens");
    let ids: Vec<i32> = (0..BATCH * LENGTH).map(|_| generator.random_range(2..32_000)).collect();
    let targets: Vec<i32> =
        (0..BATCH).map(|_| generator.random_range(0..DOCUMENTS as i32)).collect();
    let source = Tokens::new(&ids, &[LENGTH as u32; BATCH], &device);
    let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [BATCH]), &device);
    let mut optimizer = Optimizer::new(&recipe::OptimizerSection {
        optimizer: recipe::Optimizer::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 },
        learning_rate: 1e-4,
        clip_norm: None,
    });
    let options = StepOptions {
        dropout: Dropout { probability: 0.0, key: 0 },
        label_smoothing: 0.0,
        weight: 1.0,
    };
    let mut step = |model: GenirModel| -> anyhow::Result<(GenirModel, f64)> {
        let (loss, gradients) =
            forward_backward(&model, StepInput::Tokens(source.clone()), targets.clone(), options);
        let (model, updated) = optimizer.step(model, gradients, 1e-4);
        updated.map_err(|norm| anyhow::anyhow!("the gradient norm is {norm}"))?;
        Ok((model, loss))
    };

    for _ in 0..WARM_UP {
        (model, _) = step(model)?;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "READY {count}")?;
    for line in std::io::stdin().lock().lines() {
        match line?.trim() {
            "step" => {
                let begun = Instant::now();
                let loss;
                (model, loss) = step(model)?;
                writeln!(out, "T {:.6} {loss}", begun.elapsed().as_secs_f64())?;
            }
            "quit" => break,
            other => anyhow::bail!("`{other}`: expected step or quit"),
        }
        out.flush()?;
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 =
        peak.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or_default();
    writeln!(out, "HWM {}", kib / 1024)?;
    Ok(())
}
