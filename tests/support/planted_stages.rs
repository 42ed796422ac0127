//! Stages that are planted in a checkpoint.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// Of six layers, those in which cross-attention contributes more than the MLP: Stage I is layer 0, Stage II 1 to 3.
pub const CLEAR: [bool; 6] = [false, true, true, true, false, false];

/// Scales what cross-attention and the MLP of each decoder layer write, so that cross-attention contributes more in the
/// layers that are true, and the MLP in the others.
pub fn plant(checkpoint: &Path, is_above: &[bool]) {
    let file = checkpoint.join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let (size, rest) = bytes.split_first_chunk_mut::<8>().unwrap();
    let (header, values) = rest.split_at_mut(u64::from_le_bytes(*size) as usize);
    let header: Value = serde_json::from_slice(header).unwrap();
    for (layer, is_above) in is_above.iter().enumerate() {
        let names = [("1.EncDecAttention.o", *is_above), ("2.DenseReluDense.wo", !is_above)];
        for (name, is_large) in names {
            let name = format!("decoder.block.{layer}.layer.{name}.weight");
            assert_eq!(header[&name]["dtype"], "F32", "{name}");
            let [begin, end] =
                [0, 1].map(|end| header[&name]["data_offsets"][end].as_u64().unwrap() as usize);
            let scale = if is_large { 40.0 } else { 0.01 };
            for bytes in values[begin..end].chunks_mut(4) {
                let value = f32::from_le_bytes(bytes.try_into().unwrap()) * scale;
                bytes.copy_from_slice(&value.to_le_bytes());
            }
        }
    }
    fs::write(file, bytes).unwrap();
    // The change is intended.
    let file = checkpoint.join("genir.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    manifest.as_object_mut().unwrap().remove("files");
    fs::write(file, manifest.to_string()).unwrap();
}
