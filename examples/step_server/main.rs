//! Times genir's training step when told to, for the scripts in `benches/` (the protocol is in `benches/README.md`).
//!
//!     cargo run --release --example step_server -- full t5-small
//!
//! It trains on one batch, from random weights, without dropout.

mod products;
mod shape;
mod training;

use std::io::{BufRead, Write};
use std::time::Instant;

use clap::Parser;

use products::Products;
use shape::Shape;
use training::{Mode, Training};

// The allocator that the binary has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The steps to time.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// full, restricted, cached (restricted, with all that is frozen computed once before the first step), lora or
    /// cached-lora (the same with LoRA of rank 8 in place of training the matrices); with `+docids`, docid rows are
    /// trained as well. denoising: full, with labels of several text tokens, without docids.
    mode: Mode,

    /// t5-small, t5-base, t5-large or numbers: d_model,d_ff,heads,layers (encoder and decoder alike; heads of 64).
    shape: Shape,

    /// cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: String,

    /// Examples of the batch.
    #[arg(long, default_value_t = 32)]
    batch: usize,

    /// Tokens of each source; none is padding.
    #[arg(long, default_value_t = 32)]
    length: usize,

    /// Labels of each source, of denoising; none is padding.
    #[arg(long, default_value_t = 32)]
    target: usize,

    /// Word rows.
    #[arg(long, default_value_t = 32_128)]
    words: usize,

    /// Docid rows.
    #[arg(long, default_value_t = 1_000)]
    documents: usize,

    /// Steps before READY, not timed.
    #[arg(long, default_value_t = 3)]
    warm_up: usize,
}

fn main() -> anyhow::Result<()> {
    genir::allocator::retain_freed_memory();
    let arguments = Arguments::parse();
    // As the binary does it: see genir::cli::main.
    rayon::scope(|_| serve(&arguments))
}

fn serve(arguments: &Arguments) -> anyhow::Result<()> {
    let mut training = Training::new(arguments)?;
    for _ in 0..arguments.warm_up {
        training.step()?;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "READY {}", training.trained_parameters())?;
    out.flush()?;
    let mut products = None;
    for line in std::io::stdin().lock().lines() {
        match line?.trim() {
            "step" => {
                let begun = Instant::now();
                let loss = training.step()?;
                writeln!(out, "T {:.6} {loss}", begun.elapsed().as_secs_f64())?;
            }
            "products" if arguments.mode.denoising => {
                anyhow::bail!("products: not known of denoising")
            }
            "products" => {
                let products = products.get_or_insert_with(|| Products::of(arguments));
                writeln!(out, "P {:.6} {:.6}", products.seconds()?, products.gigaflop())?;
            }
            "quit" => break,
            other => anyhow::bail!("`{other}`: expected step, products or quit"),
        }
        out.flush()?;
    }
    writeln!(out, "HWM {}", peak_mib()?)?;
    Ok(())
}

/// The most memory that this process has held, in MiB.
fn peak_mib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 =
        peak.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or_default();
    Ok(kib / 1024)
}
