//! Our parameters' names and Hugging Face's.

/// Where a parameter of ours stands in a Hugging Face checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Name of the tensor.
    pub name: String,
    /// Whether it is stored as `[out, in]`, the transpose of ours.
    pub transposed: bool,
}

/// Hugging Face's tensor for our parameter `t5.<name>`; none for names that are not a T5's.
///
/// `gated` says how the MLP's input matrices are called.
pub fn stored(name: &str, gated: bool) -> Option<Stored> {
    let plain = |name: String| Some(Stored { name, transposed: false });
    let linear = |name: String| Some(Stored { name, transposed: true });
    let mut parts = name.split('.');
    match parts.next()? {
        "shared" | "lm_head" => plain(name.to_owned()),
        stack @ ("encoder" | "decoder") => match parts.next()? {
            "relative_bias" => plain(format!(
                "{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            )),
            "final_norm" => plain(format!("{stack}.final_layer_norm.weight")),
            "layers" => {
                let layer = parts.next()?;
                let component = parts.next()?;
                let (index, module) = match (stack, component) {
                    (_, "self_attention") => (0, "SelfAttention"),
                    ("decoder", "cross_attention") => (1, "EncDecAttention"),
                    ("encoder", "mlp") => (1, "DenseReluDense"),
                    ("decoder", "mlp") => (2, "DenseReluDense"),
                    _ => return None,
                };
                let prefix = format!("{stack}.block.{layer}.layer.{index}");
                let matrix = match (component, parts.next()?) {
                    (_, "norm") => return plain(format!("{prefix}.layer_norm.weight")),
                    ("mlp", "gate") => "wi_0",
                    ("mlp", "input") if gated => "wi_1",
                    ("mlp", "input") => "wi",
                    ("mlp", "output") => "wo",
                    (_, "query") => "q",
                    (_, "key") => "k",
                    (_, "value") => "v",
                    (_, "output") => "o",
                    _ => return None,
                };
                linear(format!("{prefix}.{module}.{matrix}.weight"))
            }
            _ => None,
        },
        _ => None,
    }
}
