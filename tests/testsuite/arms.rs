//! The arms of a comparison: controls with as many parameters as `restricted`, the norms, and what each arm costs, as
//! `genir check --arms` shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::Device;
use genir::component::{
    CONTROL_TOLERANCE, Component, ParameterPlace, Stack, Stage, Stages, Weight, trainable_set,
};
use genir::t5::{GenirModel, T5Config};
use genir::train::{ArmCosts, MemoryEstimate};
use serde_json::json;
use tempfile::TempDir;

use crate::command::{assert_says, is_refused, succeeds, text};
use crate::parameter_bits::{assert_same, bits};
use crate::tiny_recipe::tiny_recipe;
use crate::tiny_run;
use crate::tiny_run::{logged, plan, train};

/// The parameters of a T5 of these sizes: width, heads (64 wide each), MLP, layers; gated as in v1.1.
fn sizes(d_model: usize, heads: usize, d_ff: usize, layers: usize, gated: bool) -> Sizes {
    let config = json!({
        "d_model": d_model, "d_kv": 64, "d_ff": d_ff, "num_heads": heads,
        "num_layers": layers, "num_decoder_layers": layers, "vocab_size": 32100,
        "feed_forward_proj": if gated { "gated-gelu" } else { "relu" },
    });
    let config = T5Config::from_json(Path::new("config.json"), &config.to_string()).unwrap();
    Sizes(GenirModel::parameter_sizes(&config, !gated, 1000), layers)
}

struct Sizes(Vec<(String, usize)>, usize);

impl Sizes {
    fn select(&self, selector: &str, stages: &Stages) -> Result<BTreeSet<String>, String> {
        let parameters = self.0.iter().map(|(name, size)| (name.as_str(), *size));
        let found = trainable_set(&[selector.to_owned()], Some(stages), parameters);
        found.map_err(|error| error.to_string())
    }

    fn scaled(&self, selector: &str) -> BTreeSet<String> {
        let stages = Stages::scaled(self.1).unwrap();
        self.select(selector, &stages).unwrap_or_else(|error| panic!("{error}"))
    }

    fn count(&self, names: &BTreeSet<String>) -> usize {
        self.0.iter().filter(|(name, _)| names.contains(name)).map(|(_, size)| size).sum()
    }

    #[track_caller]
    fn assert_is_matched(&self, control: &BTreeSet<String>) {
        let [found, wanted] = [control, &self.scaled("restricted")].map(|set| self.count(set));
        let misses = found.abs_diff(wanted) as f64 / wanted as f64;
        assert!(misses <= CONTROL_TOLERANCE, "{found} for {wanted}");
    }
}

/// t5-small, t5-base, t5-large, and v1.1-small, -base and -large.
fn released() -> [Sizes; 6] {
    [
        sizes(512, 8, 2048, 6, false),
        sizes(768, 12, 3072, 12, false),
        sizes(1024, 16, 4096, 24, false),
        sizes(512, 6, 1024, 8, true),
        sizes(768, 12, 2048, 12, true),
        sizes(1024, 16, 2816, 24, true),
    ]
}

fn places(names: &BTreeSet<String>) -> impl Iterator<Item = (usize, Component, Weight)> {
    names.iter().map(|name| match ParameterPlace::of(name) {
        Some(ParameterPlace::Layer { stack: Stack::Decoder, layer, component, weight }) => {
            (layer, component, weight)
        }
        _ => panic!("{name} is not of a decoder layer"),
    })
}

#[test]
fn matched_has_as_many_parameters_as_restricted_in_what_the_paper_finds_unimportant() {
    for model in released() {
        let stages = Stages::scaled(model.1).unwrap();
        let matched = model.scaled("matched");
        model.assert_is_matched(&matched);
        assert_eq!(matched, model.scaled("matched"));
        assert!(matched.is_disjoint(&model.scaled("restricted")));
        for (layer, component, weight) in places(&matched) {
            let stage = stages.of(layer);
            let is_dead = matches!(weight, Weight::Query | Weight::Key);
            match component {
                Component::SelfAttention => assert!(!is_dead, "gets no gradient"),
                Component::Mlp => assert_ne!(stage, Stage::Third),
                Component::CrossAttention => assert_eq!(stage, Stage::First),
            }
        }
        // What comes first in the order is there as a whole.
        assert!(model.scaled("decoder.mlp[I]").is_subset(&matched));
        // Of a kind that is there in part, the last layers are. A single matrix or norm may fill what is left.
        for (stage, component) in
            Stage::ALL.into_iter().flat_map(|stage| Component::ALL.map(|part| (stage, part)))
        {
            let in_layer = |layer: usize| {
                places(&matched).filter(|place| (place.0, place.1) == (layer, component)).count()
            };
            let counts: Vec<usize> = stages.layers(stage).clone().map(in_layer).collect();
            assert!(counts.is_sorted(), "{component:?} of stage {stage}: {counts:?}");
        }
    }
}

#[test]
fn a_random_control_is_of_whole_decoder_components_that_its_seed_draws() {
    for model in released() {
        let mut all = BTreeSet::new();
        for seed in 0..20 {
            let drawn = model.scaled(&format!("random-matched(seed={seed})"));
            model.assert_is_matched(&drawn);
            assert_eq!(drawn, model.scaled(&format!("random-matched( seed = {seed} )")));
            assert_ne!(drawn, model.scaled("restricted"));
            let whole: BTreeSet<(usize, Component)> =
                places(&drawn).map(|(layer, component, _)| (layer, component)).collect();
            for (layer, component) in whole {
                let part = model.scaled(&format!("decoder.{}[{layer}]", component.name()));
                assert!(part.is_subset(&drawn), "{component:?} of layer {layer} is whole");
            }
            all.insert(drawn);
        }
        assert!(all.len() > 15, "seeds draw different components");
    }
}

#[test]
fn norms_are_all_rms_norms_and_nothing_else() {
    for model in released() {
        let norms = model.scaled("norms");
        let expected = |name: &&String| name.ends_with("norm.weight");
        let names = model.0.iter().map(|(name, _)| name);
        assert!(norms.iter().eq(names.filter(expected).collect::<BTreeSet<_>>()));
        // Two a layer of the encoder, three a layer of the decoder, and one at the end of each.
        assert_eq!(norms.len(), 5 * model.1 + 2);
    }
}

#[test]
fn a_control_that_cannot_be_matched_says_by_how_much_it_misses() {
    // MLPs are nearly all of it, and four of six are in Stage III.
    let model = sizes(64, 1, 65_536, 6, false);
    let stages = Stages::explicit(0..1, 1..2, 2..6, 6).unwrap();
    let error = model.select("matched", &stages).unwrap_err();
    for part in ["`matched`", "as many parameters as `restricted`", "49.9% fewer", "within 1%"] {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    // What is not `restricted` is too large, so that no other components have its number.
    let Sizes(names, depth) = sizes(64, 1, 97, 3, false);
    let restricted = Sizes(names.clone(), depth).scaled("restricted");
    let large = |(name, _): (String, usize)| {
        let size = if restricted.contains(&name) { 10 } else { 1000 };
        (name, size)
    };
    let model = Sizes(names.into_iter().map(large).collect(), depth);
    let stages = Stages::scaled(3).unwrap();
    let error = model.select("random-matched(seed=1)", &stages).unwrap_err();
    for part in ["`random-matched(seed=1)`", "(130, within 1%)", "the closest has 0, 100.0% fewer"]
    {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn a_random_control_without_a_seed_is_refused() {
    let model = sizes(64, 1, 128, 3, false);
    let stages = Stages::scaled(3).unwrap();
    for text in
        ["random-matched", "random-matched()", "random-matched(1)", "random-matched(seed=-1)"]
    {
        let error = model.select(text, &stages).unwrap_err();
        assert!(error.contains("needs a seed"), "{text}: {error}");
    }
    assert!(model.select("matched[I]", &stages).unwrap_err().contains("has no layers"));
    assert!(model.select("matchd", &stages).unwrap_err().contains("did you mean `matched`?"));
    let parameters = model.0.iter().map(|(name, size)| (name.as_str(), *size));
    let shallow = trainable_set(&["matched".to_owned()], None, parameters).unwrap_err();
    assert!(shallow.to_string().contains("three stages"), "{shallow}");
}

#[test]
fn every_control_trains_its_parameters_from_the_stored_prefix() {
    // Of the norms, those of the decoder's keep the encoder frozen.
    let arms = BTreeMap::from([
        ("[\"matched\"]", true),
        ("[\"matched\",\"docids\"]", true),
        ("[\"random-matched(seed=2)\"]", true),
        ("[\"norms\"]", false),
        ("[\"norms\",\"-encoder\"]", true),
        ("[\"decoder\"]", true),
        ("[\"docids\"]", true),
    ]);
    for (arm, has_prefix) in arms {
        let trained = |cache: &str| {
            let home = TempDir::new().unwrap();
            let select = format!("trainable.select={arm}");
            let plan = plan(home.path(), &[&select, cache, "train.steps=3", "model.dropout=0.0"]);
            assert_eq!(plan.frozen_prefix().is_some(), has_prefix, "{arm}");
            let before = bits(&plan.model(&Device::flex()).unwrap());
            let trained = train(&plan);
            let after = bits(&trained.model);
            assert_eq!(trained.outcome.steps, 3);
            assert_eq!(logged(home.path(), "loss/train").len(), 3, "{arm}");
            let mut learnt = BTreeSet::new();
            for (name, before) in &before {
                let has_changed = before != &after[name];
                // With one target token, queries, keys and the bias of the decoder's self-attention get no gradient.
                let place = ParameterPlace::of(name).unwrap();
                let is_dead = matches!(place, ParameterPlace::RelativeBias(Stack::Decoder))
                    || matches!(
                        place,
                        ParameterPlace::Layer {
                            stack: Stack::Decoder,
                            component: Component::SelfAttention,
                            weight: Weight::Query | Weight::Key,
                            ..
                        }
                    );
                let expected = plan.trained.contains(name) && !is_dead;
                assert_eq!(has_changed, expected, "{arm}: {name}");
                learnt.extend(expected.then(|| name.clone()));
            }
            assert_eq!(trained.optimized, learnt, "{arm}: states of the optimizer");
            after
        };
        assert_same(&trained("cache.enabled=true"), &trained("cache.enabled=false"), arm);
    }
}

#[test]
fn check_shows_what_an_update_costs_and_what_other_trainable_sets_would() {
    let home = TempDir::new().unwrap();
    let recipe = tiny_recipe(&home);
    let select = "trainable.select=[\"restricted\",\"docids\"]";
    let plain = succeeds(&["check", &recipe, select]).stdout;
    assert_says(
        &plain,
        &["update    ", "of optimizer state", "what several processes would exchange"],
    );
    assert!(!plain.contains("trainable set"), "{plain}");
    let shown = succeeds(&["check", &recipe, select, "--arms"]).stdout;
    let rows: Vec<Vec<&str>> = shown
        .lines()
        .skip_while(|line| !line.starts_with("| trainable set"))
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let names: Vec<&str> =
        rows.iter().map(|row| row[1]).filter(|name| !name.contains("---")).collect();
    let arms = [
        "full",
        "decoder, docids",
        "restricted, docids",
        "lora(restricted, rank=8, alpha=16), docids",
        "matched, docids",
        "norms, docids",
        "docids",
    ];
    assert_eq!(names, [&["trainable set", "this recipe"], &arms[..]].concat());
    let row = |name: &str| rows.iter().find(|row| row[1] == name).unwrap();
    // The estimate of memory begins with that of the process, which grows.
    let without_memory = |name| [&row(name)[2..5], &row(name)[6..]].concat();
    assert_eq!(without_memory("this recipe"), without_memory("restricted, docids"));
    assert_eq!(row("full")[6..8], ["1.00", "none"]);
    assert!(row("docids")[7].starts_with("encoder and all decoder layers, "), "{shown}");
    assert_says(&shown, &["estimated from the floating-point", "reading memory is not counted"]);

    // Each arm costs what a recipe that trains it costs, and the recipe is left as it was.
    let mut plan = plan(home.path(), &[select]);
    let (trained, table) = (plan.trained.clone(), plan.table.clone());
    let costs: Vec<ArmCosts> = plan.arms().into_iter().map(Result::unwrap).collect();
    assert_eq!((&plan.trained, &plan.table), (&trained, &table));
    assert_eq!(plan.recipe.trainable.select, ["restricted", "docids"]);
    for arm in &costs {
        let own = tiny_run::plan(home.path(), &[&format!("trainable.select={:?}", arm.select)]);
        let of_own = own.costs(&MemoryEstimate::of(&own));
        // The memory of the process grows from plan to plan.
        assert_eq!(ArmCosts { memory: 0, ..of_own }, ArmCosts { memory: 0, ..arm.clone() });
        assert_eq!(arm.gradients, 4 * own.table.total.trained);
        assert_eq!(arm.trained, own.table.total.trained);
    }
    let [full, decoder, restricted, lora, matched, norms, docids] = &costs[..] else {
        panic!("seven")
    };
    assert_eq!(full.relative_time(), 1.0);
    for (less, more) in
        [(docids, restricted), (restricted, decoder), (decoder, norms), (norms, full)]
    {
        assert!(less.operations < more.operations, "{less:?} {more:?}");
    }
    assert!(lora.trained < restricted.trained && lora.prefix == restricted.prefix);
    assert!(matched.trained.abs_diff(restricted.trained) * 50 < restricted.trained);

    // A decoder without stages has no restricted set, and the others are shown.
    let shallow = "model.config.num_decoder_layers=2";
    let shown = succeeds(&["check", &recipe, shallow, "--arms"]).stdout;
    assert_says(
        &shown,
        &["| docids ", "not on this model: selector `matched` needs the decoder's three stages"],
    );
    let directory = format!("run.directory={}", text(home.path().join("other")));
    is_refused(
        &["check", &recipe, &directory, "trainable.select=matchd", "--arms"],
        &["trainable.select", "did you mean `matched`?"],
    );
}
