//! Update rules, clipping, the loss and the schedules have the values of PyTorch and `transformers`.
//!
//! The fixtures are made by `tests/python/make_optimizer_fixtures.py`; see `tests/fixtures/README.md`.

use std::path::{Path, PathBuf};

use burn::module::{Module, Param};
use burn::optim::{GradientsParams, Optimizer as _};
use burn::tensor::{Device, Int, Tensor, TensorData};
use genir::ops::{Logits, cross_entropy_of_logits};
use genir::recipe::{self, OptimizerSection, ScheduleName};
use genir::train::{AdamW, Optimizer, Schedule};
use safetensors::SafeTensors;
use serde_json::Value;

const STEPS: [usize; 4] = [1, 2, 10, 100];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/optimizer")
}

fn cases() -> Value {
    let text = std::fs::read_to_string(directory().join("cases.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The values that Python found.
struct Expected(Vec<u8>);

impl Expected {
    fn read() -> Self {
        Self(std::fs::read(directory().join("values.safetensors")).unwrap())
    }

    fn get(&self, key: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(key).unwrap_or_else(|_| panic!("no {key}"));
        let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
        tensor.data().chunks(4).map(number).collect()
    }
}

/// The fixtures' formula for numbers in [-1, 1).
fn number(tensor: u64, step: usize, index: usize) -> f32 {
    let z =
        ((tensor << 40) | ((step as u64) << 20) | index as u64).wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 23) - 1.0) as f32
}

/// Name, number in the formula, rows and columns.
const PARAMETERS: [(&str, u64, usize, usize); 3] =
    [("matrix", 0, 7, 5), ("tall", 1, 40, 16), ("vector", 2, 1, 9)];

fn initial(tensor: u64) -> Vec<f32> {
    let (_, _, rows, columns) = PARAMETERS[tensor as usize];
    (0..rows * columns).map(|index| number(tensor, 0, index)).collect()
}

fn gradient(tensor: u64, step: usize) -> Vec<f32> {
    let (name, _, rows, columns) = PARAMETERS[tensor as usize];
    let value = |index: usize| {
        let row = index / columns;
        if name == "tall" && (row == 5 || (row + step).is_multiple_of(4)) {
            return 0.0;
        }
        number(tensor, step, index) * 0.5_f32.powi((step % 4) as i32)
    };
    (0..rows * columns).map(value).collect()
}

/// The fixtures' three parameters as a module.
#[derive(Module, Debug)]
struct Parameters {
    matrix: Param<Tensor<2>>,
    tall: Param<Tensor<2>>,
    vector: Param<Tensor<1>>,
}

impl Parameters {
    fn new(values: impl Fn(u64) -> Vec<f32>) -> Self {
        let device = Device::flex().autodiff();
        let matrix = |tensor: u64| {
            let (_, _, rows, columns) = PARAMETERS[tensor as usize];
            let data = TensorData::new(values(tensor), [rows, columns]);
            Param::from_tensor(Tensor::<2>::from_data(data, &device))
        };
        let vector = Tensor::<1>::from_data(TensorData::new(values(2), [9]), &device);
        Self { matrix: matrix(0), tall: matrix(1), vector: Param::from_tensor(vector) }
    }

    fn gradients(&self, values: impl Fn(u64) -> Vec<f32>) -> GradientsParams {
        let device = Device::flex();
        let mut gradients = GradientsParams::new();
        let data = |tensor: u64, shape: &[usize]| TensorData::new(values(tensor), shape);
        let [matrix, tall] = [(0, [7, 5]), (1, [40, 16])]
            .map(|(tensor, shape)| Tensor::<2>::from_data(data(tensor, &shape), &device));
        let vector = Tensor::<1>::from_data(data(2, &[9]), &device);
        gradients.register(self.matrix.id, matrix);
        gradients.register(self.tall.id, tall);
        gradients.register(self.vector.id, vector);
        gradients
    }

    /// In the order of [`PARAMETERS`].
    fn values(&self) -> [Vec<f32>; 3] {
        [values(self.matrix.val()), values(self.tall.val()), values(self.vector.val())]
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

/// Every value within 1e-6 plus 1e-6 of the expected one.
fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: sizes");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let (found, expected) = (f64::from(*found), f64::from(*expected));
        let allowed = 1e-6 + 1e-6 * expected.abs();
        let difference = (found - expected).abs();
        assert!(difference <= allowed, "{what}: value {at} is {found}, expected {expected}");
    }
}

/// The recipe section for an optimizer of `cases.json`; `clip_norm` none.
fn section(name: &str) -> OptimizerSection {
    let cases = cases();
    let all = cases["optimizers"].as_array().unwrap();
    let options = &all.iter().find(|case| case["name"] == name).expect(name)["options"];
    let real = |key: &str| options[key].as_f64().unwrap_or_else(|| panic!("{name}: {key}"));
    let pair = |key: &str| [0, 1].map(|at| options[key][at].as_f64().unwrap());
    let optimizer = if name.starts_with("adamw") {
        recipe::OptimizerSettings::AdamW {
            betas: pair("betas"),
            eps: real("eps"),
            weight_decay: real("weight_decay"),
        }
    } else {
        recipe::OptimizerSettings::Adafactor {
            eps: pair("eps"),
            clip_threshold: real("clip_threshold"),
            decay_rate: real("decay_rate"),
            weight_decay: real("weight_decay"),
            scale_parameter: options["scale_parameter"].as_bool().unwrap(),
        }
    };
    OptimizerSection { optimizer, learning_rate: real("lr"), clip_norm: None }
}

#[test]
fn the_formula_gives_the_fixtures_inputs() {
    let expected = Expected::read();
    for (name, tensor, ..) in PARAMETERS {
        assert_eq!(initial(tensor), expected.get(&format!("initial.{name}")));
    }
    for step in [1, 2] {
        assert_eq!(gradient(1, step), expected.get(&format!("gradient.step{step}.tall")));
    }
}

/// Steps a module with several parameters as the trainer does.
fn check_optimizer(name: &str) {
    let expected = Expected::read();
    let section = section(name);
    let mut optimizer = Optimizer::new(&section);
    let mut module = Parameters::new(initial);
    for step in 1..=100 {
        let gradients = module.gradients(|tensor| gradient(tensor, step));
        let (updated, result) = optimizer.step(module, gradients, section.learning_rate);
        result.expect("finite gradients");
        module = updated;
        if STEPS.contains(&step) {
            for (found, (parameter, ..)) in module.values().iter().zip(PARAMETERS) {
                let key = format!("{name}.step{step}.{parameter}");
                assert_close(found, &expected.get(&key), &key);
            }
        }
    }
    assert_eq!(optimizer.names().collect::<Vec<_>>(), ["matrix", "tall", "vector"]);
}

#[test]
fn adamw_agrees_with_pytorch_at_its_defaults() {
    check_optimizer("adamw");
}

#[test]
fn adamw_agrees_with_pytorch_at_other_settings() {
    check_optimizer("adamw_other");
}

#[test]
fn adafactor_agrees_with_transformers_at_the_settings_for_t5() {
    check_optimizer("adafactor");
}

#[test]
fn adafactor_agrees_with_transformers_when_scaled_by_the_parameter() {
    check_optimizer("adafactor_scale_parameter");
}

#[test]
fn adafactor_agrees_with_transformers_with_weight_decay() {
    check_optimizer("adafactor_weight_decay");
}

#[test]
fn the_adamw_rule_alone_agrees_with_pytorch() {
    let expected = Expected::read();
    let device = Device::flex();
    for name in ["adamw", "adamw_other"] {
        let section = section(name);
        let recipe::OptimizerSettings::AdamW { betas: [beta_1, beta_2], eps, weight_decay } =
            section.optimizer
        else {
            panic!("{name} is AdamW")
        };
        let rule = AdamW { beta_1, beta_2, epsilon: eps, weight_decay, gradient_scale: 1.0 };
        let tensor = |values| Tensor::<2>::from_data(TensorData::new(values, [40, 16]), &device);
        let mut parameter = tensor(initial(1));
        let mut state = None;
        for step in 1..=100 {
            let gradient = tensor(gradient(1, step));
            (parameter, state) = rule.step(section.learning_rate, parameter, gradient, state);
            if STEPS.contains(&step) {
                let key = format!("{name}.step{step}.tall");
                assert_close(&values(parameter.clone()), &expected.get(&key), &key);
            }
        }
    }
}

#[test]
fn the_adamw_rule_leaves_other_owners_of_the_parameter_alone() {
    let device = Device::flex();
    let rule = AdamW {
        beta_1: 0.9,
        beta_2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.01,
        gradient_scale: 1.0,
    };
    let tensor = |values| Tensor::<2>::from_data(TensorData::new(values, [40, 16]), &device);
    let before = tensor(initial(1));
    let (after, state) = rule.step(0.1, before.clone(), tensor(gradient(1, 1)), None);
    let kept = after.clone();
    let kept_values = values(after.clone());
    rule.step(0.1, after, tensor(gradient(1, 2)), state);
    assert_eq!(values(before), initial(1));
    assert_eq!(values(kept), kept_values);
}

#[test]
fn gradients_are_clipped_by_their_global_norm() {
    let expected = Expected::read();
    for case in cases()["clipping"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        // With these settings one update of a parameter at 0 gives -g / (|g| + 1).
        let optimizer =
            recipe::OptimizerSettings::AdamW { betas: [0.0, 0.0], eps: 1.0, weight_decay: 0.0 };
        let clip_norm = case["max_norm"].as_f64();
        let mut optimizer =
            Optimizer::new(&OptimizerSection { optimizer, learning_rate: 1.0, clip_norm });
        let module = Parameters::new(|tensor| vec![0.0; initial(tensor).len()]);
        let gradients = module.gradients(|tensor| gradient(tensor, 1));
        let (module, updated) = optimizer.step(module, gradients, 1.0);
        let norm = case["norm"].as_f64().unwrap();
        let found = updated.expect("finite gradients").gradient_norm;
        assert!((found - norm).abs() <= 1e-6 * norm, "{name}: norm {found}, expected {norm}");
        for (found, (parameter, ..)) in module.values().iter().zip(PARAMETERS) {
            let key = format!("clip.{name}.{parameter}");
            let clipped = expected.get(&key);
            let expected: Vec<f32> = clipped.iter().map(|g| -g / (g.abs() + 1.0)).collect();
            assert_close(found, &expected, &key);
        }
    }
}

#[test]
fn both_optimizers_update_by_the_clipped_gradients() {
    for name in ["adamw", "adafactor"] {
        let open = section(name);
        let clipped = OptimizerSection { clip_norm: Some(1.0), ..open.clone() };
        let [mut by_hand, mut by_optimizer] = [Optimizer::new(&open), Optimizer::new(&clipped)];
        let [mut one, mut other] = [Parameters::new(initial), Parameters::new(initial)];
        // The gradients' norm shrinks from step to step: both rules see more than their direction.
        for step in 1..=3 {
            let norm: f64 = (0..3)
                .flat_map(|tensor| gradient(tensor, step))
                .map(|value| f64::from(value).powi(2))
                .sum::<f64>()
                .sqrt();
            let scale = (1.0 / (norm + 1e-6)).min(1.0) as f32;
            let scaled = |tensor| gradient(tensor, step).iter().map(|g| g * scale).collect();
            let gradients = one.gradients(scaled);
            one = by_hand.step(one, gradients, open.learning_rate).0;
            let gradients = other.gradients(|tensor| gradient(tensor, step));
            other = by_optimizer.step(other, gradients, open.learning_rate).0;
        }
        for ((found, expected), (parameter, ..)) in
            other.values().iter().zip(one.values()).zip(PARAMETERS)
        {
            assert_close(found, &expected, &format!("{name} {parameter}"));
        }
    }
}

#[test]
fn a_gradient_norm_that_is_not_finite_changes_nothing() {
    for name in ["adamw", "adafactor"] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let section = section(name);
            let mut optimizer = Optimizer::new(&section);
            let mut module = Parameters::new(initial);
            let broken = |tensor| {
                let mut values = gradient(tensor, 1);
                if tensor == 2 {
                    values[4] = bad;
                }
                values
            };
            let gradients = module.gradients(broken);
            let (unchanged, result) = optimizer.step(module, gradients, section.learning_rate);
            module = unchanged;
            let error = result.expect_err("refused");
            let norm = error.gradient_norm;
            assert_eq!(error.to_string(), format!("the norm of the gradients is {norm}"));
            assert_eq!(norm.is_nan(), bad.is_nan());
            assert!(!norm.is_finite());
            assert_eq!(module.values(), [0, 1, 2].map(initial));
            assert_eq!(optimizer.names().count(), 0);

            // What follows is as if the refused step had not been.
            let gradients = module.gradients(|tensor| gradient(tensor, 1));
            module = optimizer.step(module, gradients, section.learning_rate).0;
            let expected = Expected::read();
            for (found, (parameter, ..)) in module.values().iter().zip(PARAMETERS) {
                let key = format!("{name}.step1.{parameter}");
                assert_close(found, &expected.get(&key), &key);
            }
        }
    }
}

#[test]
fn a_parameter_without_a_gradient_stays_and_has_no_state() {
    for name in ["adamw", "adafactor"] {
        let section = section(name);
        let mut optimizer = Optimizer::new(&section);
        let module = Parameters::new(initial);
        let mut gradients = module.gradients(|tensor| gradient(tensor, 1));
        gradients.remove::<2>(module.tall.id);
        let (module, result) = optimizer.step(module, gradients, section.learning_rate);
        result.expect("finite gradients");
        let [matrix, tall, vector] = module.values();
        assert_eq!(tall, initial(1));
        assert!(matrix != initial(0) && vector != initial(2));
        assert_eq!(optimizer.names().collect::<Vec<_>>(), ["matrix", "vector"]);
    }
}

#[test]
fn the_loss_agrees_with_pytorch_wherever_the_vocabulary_is_split() {
    let expected = Expected::read();
    let device = Device::flex().autodiff();
    let (rows, classes) = (6, 11);
    let logits = expected.get("cross_entropy.logits");
    let cases = cases();
    let labels: Vec<usize> = cases["cross_entropy"]["labels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|label| label.as_u64().unwrap() as usize)
        .collect();
    // Columns taken for words: any that no label names.
    for words in [vec![1], vec![2, 4, 9], vec![1, 2, 4, 6, 8, 9]] {
        let docids: Vec<usize> = (0..classes).filter(|column| !words.contains(column)).collect();
        let part = |columns: &[usize]| {
            let picked: Vec<f32> = (0..rows)
                .flat_map(|row| columns.iter().map(move |column| row * classes + column))
                .map(|index| logits[index])
                .collect();
            let data = TensorData::new(picked, [rows, columns.len()]);
            Tensor::<2>::from_data(data, &device).require_grad()
        };
        let targets: Vec<i32> = labels
            .iter()
            .map(|label| docids.iter().position(|column| column == label).unwrap() as i32)
            .collect();
        for case in cases["cross_entropy"]["cases"].as_array().unwrap() {
            let name = case["name"].as_str().unwrap();
            let smoothing = case["label_smoothing"].as_f64().unwrap();
            let gradient = expected.get(&format!("cross_entropy.{name}.gradient"));
            for weight in [1.0, 0.25] {
                let what = format!("{name}, words {words:?}, weight {weight}");
                let logits = Logits { text: part(&words), docids: part(&docids) };
                let targets = TensorData::new(targets.clone(), [rows]);
                let targets = Tensor::<1, Int>::from_data(targets, &device);
                let loss = cross_entropy_of_logits(logits.clone(), targets, smoothing, weight);
                let value = case["loss"].as_f64().unwrap() as f32;
                assert_close(&values(loss.value), &[value], &what);
                let gradients = loss.root.backward();
                for (part, columns) in [(logits.text, &words), (logits.docids, &docids)] {
                    let found = values(part.grad(&gradients).expect("a gradient"));
                    let expected: Vec<f32> = (0..rows)
                        .flat_map(|row| columns.iter().map(move |column| row * classes + column))
                        .map(|index| gradient[index] * weight as f32)
                        .collect();
                    assert_close(&found, &expected, &what);
                }
            }
        }
    }
}

#[test]
fn the_loss_of_logits_far_from_zero_is_finite() {
    let device = Device::flex().autodiff();
    let logits = |values: [f32; 2]| {
        Tensor::<2>::from_data(TensorData::new(values.to_vec(), [1, 2]), &device).require_grad()
    };
    let target = || Tensor::<1, Int>::from_data(TensorData::new(vec![1_i32], [1]), &device);
    for (words, docids, expected) in
        [([1e4, -1e4], [0.0, 1e4], 2.0_f32.ln()), ([-1e4, -1e4], [-1e4, -1e4], 4.0_f32.ln())]
    {
        let logits = Logits { text: logits(words), docids: logits(docids) };
        let loss = cross_entropy_of_logits(logits, target(), 0.0, 1.0);
        // One unit of 1e4 in f32 is 1e-3.
        assert!((values(loss.value)[0] - expected).abs() < 2e-3);
    }
}

fn schedule(name: ScheduleName, warmup_steps: u64) -> Schedule {
    Schedule { name, learning_rate: 1.0, warmup_steps, total_steps: 100 }
}

#[test]
fn schedules_have_the_factors_of_transformers() {
    let mut checked = 0;
    for case in cases()["schedules"].as_array().unwrap() {
        let warmup = case["warm_up_steps"].as_u64().unwrap();
        let name = match case["name"].as_str().unwrap() {
            // transformers' `constant` passes over the warm-up, ours does not.
            "constant" if warmup > 0 => continue,
            "constant" | "constant_with_warmup" => ScheduleName::Constant,
            "linear" => ScheduleName::Linear,
            "inverse_sqrt" => ScheduleName::InverseSqrt,
            "cosine" => ScheduleName::Cosine,
            other => panic!("unknown schedule {other}"),
        };
        let schedule = Schedule { learning_rate: 0.5, ..schedule(name, warmup) };
        let steps = case["steps"].as_array().unwrap();
        for (step, factor) in steps.iter().zip(case["factors"].as_array().unwrap()) {
            let (step, factor) = (step.as_u64().unwrap(), factor.as_f64().unwrap());
            let found = schedule.at(step);
            let right = (found - 0.5 * factor).abs() < 1e-12;
            assert!(right, "{name} step {step}: {found}, expected {}", 0.5 * factor);
            checked += 1;
        }
    }
    assert_eq!(checked, 9 * 11);
}

#[test]
fn linear_and_cosine_stay_at_zero_after_the_end() {
    for name in [ScheduleName::Linear, ScheduleName::Cosine] {
        for warmup in [0, 10, 100, 200] {
            let schedule = schedule(name, warmup);
            // A warm-up that is longer than the run is not cut short.
            let end = if warmup < 100 { 100 } else { warmup + 1 };
            for done in [end, end + 1, end + 50, end + 100, 1_000_000] {
                assert_eq!(schedule.at(done), 0.0, "{name} warm-up {warmup}, step {done}");
            }
        }
    }
}
