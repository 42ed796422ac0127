//! Logits, loss, encoder states and gradients equal what `transformers` computes from the same checkpoints.
//!
//! The fixtures are made by `tests/python/make_parity_fixtures.py` and `make_denoising_fixtures.py`; see `tests/fixtures/README.md`. They are checked on
//! the CPU, or on the device that `GENIR_TEST_DEVICE` names (`cuda+f32`, `cuda`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use genir::device::{ComputeDevice, Precision, device, is_host};
use genir::t5::weights::{self, StoredTensors};
use genir::t5::{Dropout, GenirModel, NoTap, Pass, T5, T5Config, Tokens, bucket};
use genir::train::{StepOptions, TextBatch, forward_backward_text, text_loss};
use safetensors::SafeTensors;
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity")
}

/// The tensors of one `expected.safetensors`.
struct Expected(Vec<u8>);

impl Expected {
    fn read(model: &str) -> Self {
        Self(std::fs::read(fixtures().join(model).join("expected.safetensors")).unwrap())
    }

    /// Of a batch with labels.
    fn of_denoising(model: &str) -> Self {
        let directory = fixtures().with_file_name("denoising");
        Self(std::fs::read(directory.join(format!("{model}.safetensors"))).unwrap())
    }

    /// Gradients by their names.
    fn gradients(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let names = file.names().into_iter();
        names.filter_map(|name| name.strip_prefix("grad.")).map(str::to_owned).collect()
    }

    fn view<T>(&self, key: &str, convert: impl Fn(&[u8]) -> Vec<T>) -> (Vec<T>, Vec<usize>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(key).unwrap_or_else(|_| panic!("no {key}"));
        (convert(tensor.data()), tensor.shape().to_vec())
    }

    fn floats(&self, key: &str) -> (Vec<f32>, Vec<usize>) {
        self.view(key, |bytes| {
            bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
        })
    }

    fn ids(&self, key: &str) -> (Vec<i32>, Vec<usize>) {
        self.view(key, |bytes| {
            bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as i32).collect()
        })
    }

    /// Tokens under `<key>`, with lengths from the mask under `<mask>` if there is one.
    fn tokens(&self, key: &str, mask: Option<&str>, device: &Device) -> Tokens {
        let (ids, shape) = self.ids(key);
        let lengths: Vec<u32> = match mask {
            Some(mask) => self
                .ids(mask)
                .0
                .chunks(shape[1])
                .map(|row| row.iter().sum::<i32>() as u32)
                .collect(),
            None => vec![shape[1] as u32; shape[0]],
        };
        Tokens::new(&ids, &lengths, device)
    }
}

/// Where the models compute, with autodiff, and the factor on tolerances there.
fn test_device() -> (ComputeDevice, f32) {
    let name = std::env::var("GENIR_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    let ComputeDevice { device, precision } = device(&name).unwrap();
    let factor = match (is_host(&device), precision) {
        (true, _) => 1.0,
        // Products may round their factors to TF32's 11 bits.
        (false, Precision::F32) => 50.0,
        // bf16 has 8 bits.
        (false, Precision::Bf16) => 500.0,
    };
    (ComputeDevice { device: device.autodiff(), precision }, factor)
}

fn load(model: &str, device: &ComputeDevice) -> T5 {
    let directory = fixtures().join(model);
    let config = T5Config::read(&directory).unwrap();
    let tensors = StoredTensors::open(&directory).unwrap();
    weights::load(&tensors, &config, config.vocab_size, device).unwrap()
}

fn assert_close(found: &Tensor<2>, expected: &[f32], tolerance: f32, what: &str) {
    let found: Vec<f32> = found.clone().inner().into_data().try_to_vec().unwrap();
    assert_eq!(found.len(), expected.len(), "{what}: sizes");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what}: differs by {worst}, allowed {tolerance}");
}

/// Checks all cases of one model; `tolerance` is absolute, on logits.
fn check(model: &str) {
    let manifest = std::fs::read_to_string(fixtures().join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let models = manifest["models"].as_array().unwrap();
    let entry = models.iter().find(|entry| entry["name"] == model).expect(model);
    let (on, factor) = test_device();
    let t5 = load(model, &on);
    let device = on.device;
    let expected = Expected::read(model);
    for case in entry["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let what = format!("{model} {name}");
        let source = format!("{name}.input_ids");
        let mask = format!("{name}.attention_mask");
        let source = expected.tokens(&source, Some(&mask), &device);
        let target = expected.tokens(&format!("{name}.decoder_input_ids"), None, &device);
        let mut tap = NoTap;
        let mut pass = Pass::evaluate(&mut tap);
        let states = t5.encode(&source, &mut pass);
        let output = t5.decode(&target, &states, &mut pass);
        let logits = t5.text_logits(output);
        assert_close(&logits, &expected.floats(&format!("{name}.logits")).0, factor * 1e-4, &what);
        if case["encoder_last_hidden_state"] == true {
            let (states_expected, _) =
                expected.floats(&format!("{name}.encoder_last_hidden_state"));
            assert_close(&states.rows, &states_expected, factor * 1e-4, &format!("{what} states"));
        }
        if target.length == 1 {
            // The start token alone, with one lookup for both stacks, is the same computation.
            let embeddings = t5.shared.forward(t5.input_tokens(&source));
            let output = t5.encode_and_decode_start(embeddings, &source, &mut pass);
            let (logits_expected, _) = expected.floats(&format!("{name}.logits"));
            assert_close(
                &t5.text_logits(output),
                &logits_expected,
                factor * 1e-4,
                &format!("{what} merged"),
            );
        }
        let (labels, _) = expected.ids(&format!("{name}.labels"));
        let count = labels.len();
        let labels = TensorData::new(labels, [count, 1]);
        let labels = Tensor::<2, Int>::from_data(labels, &device);
        let loss = log_softmax(logits, 1).gather(1, labels).mean().neg();
        let loss_expected = expected.floats(&format!("{name}.loss")).0[0];
        assert_close(
            &loss.clone().reshape([1, 1]),
            &[loss_expected],
            factor * 1e-5,
            &format!("{what} loss"),
        );
        let gradients = loss.backward();
        let found = all_gradients(&t5, &gradients);
        let named = case["gradients"].as_array().unwrap();
        for stored in named.iter().map(|name| name.as_str().unwrap()) {
            let expected = expected.floats(&format!("{name}.grad.{stored}"));
            check_gradient(&found, stored, expected, factor, &what);
        }
    }
}

/// Checks the gradient of the weight of this name, whose `expected` values and shape are PyTorch's.
fn check_gradient(
    found: &HashMap<String, Tensor<2>>,
    stored: &str,
    (values, shape): (Vec<f32>, Vec<usize>),
    factor: f32,
    what: &str,
) {
    // Where a weight has no effect, Burn gives no gradient and PyTorch zeros.
    let Some(gradient) = found.get(stored) else {
        assert!(values.iter().all(|&g| g == 0.0), "{what}: no gradient of {stored}");
        return;
    };
    let transposed = shape.len() == 2 && stored.contains(".layer.") && !stored.contains("bias");
    let gradient = if transposed { gradient.clone().transpose() } else { gradient.clone() };
    assert_close(&gradient, &values, factor * 2e-5, &format!("{what} gradient of {stored}"));
}

/// Checks the step of denoising on a batch whose labels have padding.
fn check_denoising(name: &str) {
    let (on, factor) = test_device();
    let t5 = load(name, &on);
    let docids = weights::docids_from(Vec::new(), t5.config().d_model, &on.device);
    let model = GenirModel { t5, docids };
    let expected = Expected::of_denoising(name);
    let source = expected.tokens("input_ids", Some("attention_mask"), &on.device);
    let (labels, _) = expected.ids("labels");
    let batch = TextBatch::new(source, &labels, model.t5.config(), &on.device);
    let options = StepOptions {
        dropout: Dropout { probability: 0.0, key: 0 },
        label_smoothing: 0.0,
        weight: 1.0,
    };
    let (loss, gradients) = forward_backward_text(&model, &batch, options);
    let loss_expected = f64::from(expected.floats("loss").0[0]);
    let near = (loss - loss_expected).abs() <= f64::from(factor) * 1e-5;
    assert!(near, "{name}: loss {loss}, expected {loss_expected}");
    let found = all_gradients(&model.t5, &gradients);
    let named = expected.gradients();
    assert!(named.len() >= 19, "{name}: {} gradients", named.len());
    for stored in named {
        let values = expected.floats(&format!("grad.{stored}"));
        check_gradient(&found, &stored, values, factor, name);
    }
    // The loss of an evaluation is the same one.
    let device = on.device.inner();
    let source = expected.tokens("input_ids", Some("attention_mask"), &device);
    let batch = TextBatch::new(source, &labels, model.t5.config(), &device);
    let (evaluated, count) = text_loss(&model.t5.valid(), &batch);
    assert!((evaluated - loss).abs() <= f64::from(factor) * 1e-5, "{name}: {evaluated}");
    assert_eq!(count, labels.iter().filter(|&&label| label != -100).count());
}

/// The gradient of a parameter.
trait GradientOf {
    fn of<const D: usize>(&self, param: &Param<Tensor<D>>) -> Option<Tensor<D>>;
}

impl GradientOf for Gradients {
    fn of<const D: usize>(&self, param: &Param<Tensor<D>>) -> Option<Tensor<D>> {
        param.val().grad(self)
    }
}

impl GradientOf for GradientsParams {
    fn of<const D: usize>(&self, param: &Param<Tensor<D>>) -> Option<Tensor<D>> {
        self.get(param.id)
    }
}

/// Gradients by Hugging Face's names, written out by hand: an independent statement of the mapping.
fn all_gradients(t5: &T5, gradients: &impl GradientOf) -> HashMap<String, Tensor<2>> {
    let mut found = HashMap::new();
    let mut put = |name: String, gradient: Option<Tensor<2>>| {
        if let Some(gradient) = gradient {
            found.insert(name, gradient);
        }
    };
    let matrix = |param: &Param<Tensor<2>>| gradients.of(param);
    let vector = |param: &Param<Tensor<1>>| gradients.of(param).map(|g| g.unsqueeze::<2>());
    put("shared.weight".into(), matrix(&t5.shared.weight));
    if let Some(head) = &t5.lm_head {
        put("lm_head.weight".into(), matrix(&head.weight));
    }
    let bias = "block.0.layer.0.SelfAttention.relative_attention_bias.weight";
    put(format!("encoder.{bias}"), matrix(&t5.encoder.relative_bias.weight));
    put(format!("decoder.{bias}"), matrix(&t5.decoder.relative_bias.weight));
    put("encoder.final_layer_norm.weight".into(), vector(&t5.encoder.final_norm.weight));
    put("decoder.final_layer_norm.weight".into(), vector(&t5.decoder.final_norm.weight));
    let mut components = Vec::new();
    for (i, layer) in t5.encoder.layers.iter().enumerate() {
        let prefix = format!("encoder.block.{i}.layer");
        components.push((
            format!("{prefix}.0"),
            "SelfAttention",
            Some(&layer.self_attention),
            None,
        ));
        components.push((format!("{prefix}.1"), "DenseReluDense", None, Some(&layer.mlp)));
    }
    for (i, layer) in t5.decoder.layers.iter().enumerate() {
        let prefix = format!("decoder.block.{i}.layer");
        components.push((
            format!("{prefix}.0"),
            "SelfAttention",
            Some(&layer.self_attention),
            None,
        ));
        components.push((
            format!("{prefix}.1"),
            "EncDecAttention",
            Some(&layer.cross_attention),
            None,
        ));
        components.push((format!("{prefix}.2"), "DenseReluDense", None, Some(&layer.mlp)));
    }
    for (prefix, module, attention, mlp) in components {
        if let Some(block) = attention {
            put(format!("{prefix}.layer_norm.weight"), vector(&block.norm.weight));
            for (letter, linear) in
                [("q", &block.query), ("k", &block.key), ("v", &block.value), ("o", &block.output)]
            {
                put(format!("{prefix}.{module}.{letter}.weight"), matrix(&linear.weight));
            }
        }
        if let Some(mlp) = mlp {
            put(format!("{prefix}.layer_norm.weight"), vector(&mlp.norm.weight));
            put(format!("{prefix}.{module}.wo.weight"), matrix(&mlp.output.weight));
            let input = if mlp.gate.is_some() { "wi_1" } else { "wi" };
            put(format!("{prefix}.{module}.{input}.weight"), matrix(&mlp.input.weight));
            if let Some(gate) = &mlp.gate {
                put(format!("{prefix}.{module}.wi_0.weight"), matrix(&gate.weight));
            }
        }
    }
    found
}

#[test]
fn v1_0_with_tied_embeddings_agrees() {
    check("v1_0_tied");
}

#[test]
fn v1_0_with_an_untied_head_agrees() {
    check("v1_0_untied");
}

#[test]
fn v1_1_with_tied_embeddings_agrees() {
    check("v1_1_tied");
}

#[test]
fn v1_1_with_an_untied_head_agrees() {
    check("v1_1_untied");
}

#[test]
fn an_untied_head_with_a_scaled_decoder_agrees() {
    check("scaled_untied");
}

#[test]
fn mt5_agrees() {
    check("mt5");
}

#[test]
fn a_sharded_checkpoint_agrees() {
    check("sharded");
}

#[test]
fn f16_weights_agree() {
    check("f16");
}

#[test]
fn bf16_weights_agree() {
    check("bf16");
}

#[test]
fn denoising_with_labels_agrees_for_tied_and_untied_heads_with_relu_and_gated_gelu() {
    for name in ["v1_0_tied", "v1_0_untied", "v1_1_tied", "v1_1_untied"] {
        check_denoising(name);
    }
}

#[test]
fn relative_position_buckets_agree() {
    let table = std::fs::read_to_string(fixtures().join("position_buckets.json")).unwrap();
    let table: Value = serde_json::from_str(&table).unwrap();
    let first = table["first_distance"].as_i64().unwrap();
    for (key, bidirectional) in [("bidirectional", true), ("causal", false)] {
        for (at, expected) in table[key].as_array().unwrap().iter().enumerate() {
            let distance = first + at as i64;
            let found = bucket(distance, bidirectional, 32, 128);
            assert_eq!(Some(found), expected.as_i64(), "{key} distance {distance}");
        }
    }
}
