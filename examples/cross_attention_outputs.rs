//! A tap that records what each decoder layer's cross-attention adds to the residual stream, for one query:
//!
//!     cargo run --release --example cross_attention_outputs -- runs/quickstart/checkpoints/best "Which element is Fe?"

use std::path::Path;

use anyhow::Context;
use burn::tensor::Tensor;
use genir::checkpoint::Checkpoint;
use genir::device::device;
use genir::t5::{Hook, Pass, Site, Tap, Tokens};

/// Cross-attention outputs by layer, each `[batch, 1, d_model]`.
#[derive(Default)]
struct CrossAttentionOutputs(Vec<(Site, Tensor<3>)>);

impl Tap for CrossAttentionOutputs {
    fn wants(&self, site: Site) -> bool {
        site.hook == Hook::CrossAttentionOut
    }

    fn stream(&mut self, site: Site, value: Tensor<3>) -> Tensor<3> {
        self.0.push((site, value.clone()));
        value // another tensor of this shape would go on in its place
    }
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: cross_attention_outputs CHECKPOINT QUERY";
    let directory = arguments.next().context(usage)?;
    let query = arguments.next().context(usage)?;

    let device = device("cpu")?;
    let checkpoint = Checkpoint::open(Path::new(&directory), &device)?;
    let encoding = checkpoint.encoding().queries();
    let tokens = checkpoint.tokenizer.encode_batch(&[query.as_str()], &encoding)?.concat();
    let ids: Vec<i32> = tokens.iter().map(|&id| id as i32).collect();
    let source = Tokens::new(&ids, &[ids.len() as u32], &device.device);

    let mut tap = CrossAttentionOutputs::default();
    let mut pass = Pass::evaluate(&mut tap);
    let t5 = &checkpoint.model.t5;
    let states = t5.encode(&source, &mut pass);
    let output = t5.decode_start(&states, &mut pass); // [1, d_model]
    let logits = checkpoint.model.docid_logits(output); // [1, documents]
    let best: Vec<i64> = logits.argmax(1).into_data().iter::<i64>().collect();

    for (site, value) in &tap.0 {
        let norm = value.clone().square().sum().sqrt().into_scalar::<f32>();
        println!("{site}: norm {norm:.3}"); // decoder.0.hook_cross_attn_out: norm ...
    }
    println!("answer: {}", checkpoint.docids.id(best[0] as u32));
    Ok(())
}
