//! Denoising: alone, to pre-train on documents without queries, and beside the tasks whose target is a docid.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use genir::corpus::atlas::atlas;
use genir::corpus::{Corpus, Document};
use genir::docid::TextTokenizer;
use genir::task::{
    Denoising, Epochs, Examples, Mixture, PartExamples, Sampler, Sentinels, Task, TaskOptions,
    collate_corrupted,
};
use tempfile::TempDir;

use crate::parameter_bits::{Bits, assert_same, bits};
use crate::sentinels;
use crate::small_recipe::{problem, small};
use crate::tiny_corpus;
use crate::tiny_run::{Trained, logged, plan, train, try_plan};

/// A directory with a base that has `count` sentinels, and the key that names it.
fn home_with_base(count: usize) -> (TempDir, String) {
    let home = TempDir::new().unwrap();
    let base = home.path().join("base");
    sentinels::write_base(&base, count);
    let key = format!("model.base={}", base.display());
    (home, key)
}

const ALONE: [&str; 4] = [
    "task.tasks=[\"denoising\"]",
    "evaluate.memorisation=0",
    "task.denoising_held_out=0.25",
    "model.dropout=0",
];
const BESIDE: [&str; 2] =
    ["task.tasks=[\"indexing\", \"retrieval\", \"denoising\"]", "task.denoising_held_out=0.25"];

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn denoising_alone_needs_no_queries_and_the_loss_of_held_out_documents_selects_the_best() {
    let (home, base) = home_with_base(10);
    let corpus = home.path().join("corpus");
    tiny_corpus::write(&corpus);
    for name in ["train", "val", "test"] {
        fs::remove_file(corpus.join(format!("{name}_queries.json"))).unwrap();
    }
    let more = ["evaluate.at_start=true", "evaluate.every_steps=10", "train.steps=60"];
    let plan = plan(home.path(), &[&ALONE[..], &more, &[&base]].concat());
    assert_eq!((plan.held_out.len(), plan.examples.count(Task::Denoising)), (2, 6));
    assert_eq!(plan.recipe.save.best_metric, "denoising/loss");
    assert_eq!(plan.metrics(), ["denoising/loss"]);
    let Trained { model, outcome, optimized } = train(&plan);
    assert_eq!((model.documents(), outcome.steps), (0, 60), "no docid is a target");
    assert!(optimized.contains("t5.decoder.relative_bias.weight"), "{optimized:?}");

    let losses = logged(home.path(), "denoising/loss");
    let (first, last) = (losses[&0], losses[&60]);
    assert!(last < 0.8 * first, "{losses:?}");
    // The best checkpoint is that of the lowest loss after the start.
    let best =
        losses.iter().filter(|(step, _)| **step > 0).min_by(|one, other| one.1.total_cmp(other.1));
    let link = fs::read_link(home.path().join("run/checkpoints/best")).unwrap();
    assert_eq!(link.to_str().unwrap(), format!("step-{:06}", best.unwrap().0));
    assert!(!read(home.path().join("run/checkpoints/best/tokenizer.json")).contains("@DOC_ID_"));

    // The run is a base to fine-tune.
    let next = TempDir::new().unwrap();
    let base = format!("model.base={}", home.path().join("run").display());
    let overrides = [base.as_str(), "~model.config", "model.init=pretrained", "train.steps=2"];
    let plan = self::plan(next.path(), &overrides);
    assert_eq!(plan.docid_sources().new, 8);
    train(&plan);
}

#[test]
fn held_out_documents_are_the_same_for_every_seed_and_order_and_are_never_trained() {
    let documents = (0..40).map(|number| Document {
        id: format!("d{number}"),
        texts: vec!["a text of some words".to_owned()],
    });
    let corpus = Corpus { documents: documents.collect(), ..Corpus::default() };
    let denoising = Denoising { held_out: 0.1, ..Denoising::default() };
    let ids = |corpus: &Corpus| -> HashSet<String> {
        let rows = denoising.held_out_documents(corpus);
        rows.into_iter().map(|row| corpus.documents[row as usize].id.clone()).collect()
    };
    let held_out = ids(&corpus);
    assert_eq!(held_out.len(), 4);
    let mut turned = corpus.clone();
    turned.documents.reverse();
    assert_eq!(ids(&turned), held_out);

    let (home, _) = home_with_base(10);
    let tokenizer = TextTokenizer::load(&home.path().join("base")).unwrap().tokenizer;
    let options = TaskOptions {
        tasks: vec![Task::Denoising],
        ratio: None,
        denoising,
        ..TaskOptions::default()
    };
    let none = HashSet::new();
    let trained = Examples::build(&corpus, &tokenizer, &options, &none).unwrap();
    let read = Examples::held_out(&corpus, &tokenizer, &options, &none).unwrap();
    assert_eq!((trained.len(), read.len()), (36, 4));
    for (examples, is_held_out) in [(&trained, false), (&read, true)] {
        for index in 0..examples.len() {
            let id = examples.source_id(index);
            let id = id.strip_prefix("doc:").unwrap();
            assert_eq!(held_out.contains(id), is_held_out, "{id}");
        }
    }
}

/// Fails where a parameter is further apart than rounding explains.
#[track_caller]
fn assert_near(found: &Bits, expected: &Bits) {
    for (name, (_, expected)) in expected {
        let worst = expected
            .iter()
            .zip(&found[name].1)
            .map(|(one, other)| (f32::from_bits(*one) - f32::from_bits(*other)).abs())
            .fold(0.0, f32::max);
        assert!(worst < 2e-4, "{name}: {worst}");
    }
}

#[test]
fn three_tasks_train_together_and_the_division_into_batches_changes_rounding_only() {
    let weights = |batches: &[&str]| {
        let (home, base) = home_with_base(10);
        let more = ["model.dropout=0", "train.steps=6", "optimizer.clip_norm=0"];
        let plan = plan(home.path(), &[&BESIDE[..], &more, batches, &[&base]].concat());
        let counts = Task::ALL.iter().map(|&task| plan.examples.count(task)).collect::<Vec<_>>();
        assert_eq!(counts, [8, 14, 6]);
        let trained = train(&plan);
        assert!(logged(home.path(), "denoising/loss").contains_key(&6));
        assert!(logged(home.path(), "validation/hits@1").contains_key(&6));
        bits(&trained.model)
    };
    let whole = weights(&["train.batch_size=12"]);
    assert_same(&weights(&["train.batch_size=12"]), &whole, "the same seed");
    let divided = weights(&["train.batch_size=4", "train.accumulate=3"]);
    assert_near(&divided, &whole);
}

#[test]
fn a_frozen_prefix_is_stored_for_docids_and_computed_for_corrupted_texts() {
    let weights = |enabled: &str| {
        let (home, base) = home_with_base(10);
        let more = ["trainable.select=[\"restricted\", \"docids\"]", enabled, "train.steps=12"];
        let plan = plan(home.path(), &[&BESIDE[..], &more, &[&base]].concat());
        let trained = train(&plan);
        let log = read(home.path().join("run/log.txt"));
        assert!(!log.contains("are released"), "corrupted texts need the encoder: {log}");
        assert_eq!(log.contains("frozen prefix of training"), enabled.ends_with("true"), "{log}");
        bits(&trained.model)
    };
    let stored = weights("cache.enabled=true");
    assert_same(&stored, &weights("cache.enabled=true"), "the same seed");
    // Batches of other lengths are rounded in other places.
    assert_near(&weights("cache.enabled=false"), &stored);
}

#[test]
fn a_mixture_has_the_asked_for_share_of_denoising_and_draws_others_in_each_epoch() {
    let (home, base) = home_with_base(10);
    let of = |ratio: &str| plan(home.path(), &[&BESIDE[..], &[ratio, &base]].concat());
    // 8 documents and 14 queries; 6 pieces.
    let count = |ratio: &str| of(ratio).mixture.share(Task::Denoising).per_epoch;
    assert_eq!((count("task.denoising_ratio=0.1"), count("task.denoising_ratio=2")), (2, 44));
    assert_eq!(of("model.dropout=0").mixture.share(Task::Denoising).per_epoch, 6);
    let plan = of("task.denoising_ratio=0.1");
    let text = plan.mixture.to_string();
    assert!(text.contains("2 denoising (each of 6: 0x or 1x)"), "{text}");
    assert!(text.ends_with("; denoising ratio 0.1"), "{text}");
    let mut sampler = Sampler::new(&plan.examples, &plan.mixture, plan.epochs, 1);
    let mut seen = HashSet::new();
    let mut positions = HashSet::new();
    for update in 0..60 * plan.epochs.updates() {
        for part in sampler.parts(update) {
            if let PartExamples::Denoising(chosen) = part.examples {
                seen.extend(chosen.iter().map(|(example, _)| *example));
                assert!(chosen.iter().all(|(_, position)| positions.insert(*position)));
            }
        }
    }
    assert_eq!(seen.len(), 6, "every piece in some epoch");
}

#[test]
fn padding_wastes_less_than_a_tenth_of_sources_and_targets() {
    let (home, _) = home_with_base(60);
    let tokenizer = TextTokenizer::load(&home.path().join("base")).unwrap().tokenizer;
    let mut corpus = atlas();
    // Texts of all lengths: the bundled ones are short, and alike.
    for (number, document) in corpus.documents.iter_mut().enumerate() {
        let text = document.texts.join(" ");
        document.texts = vec![text.repeat(number * number % 23 + 1)];
    }
    for tokens in [64, 128] {
        let denoising = Denoising { tokens, ..Denoising::default() };
        let options = TaskOptions {
            tasks: vec![Task::Denoising],
            ratio: None,
            denoising: denoising.clone(),
            ..TaskOptions::default()
        };
        let sentinels = Sentinels::of(&tokenizer, &denoising).unwrap();
        let examples = Examples::build(&corpus, &tokenizer, &options, &HashSet::new()).unwrap();
        let mixture = Mixture::new(&examples, &options).unwrap();
        let epochs = Epochs::new(mixture.per_epoch(), 32, 1).unwrap();
        let mut sampler = Sampler::new(&examples, &mixture, epochs, 1);
        let [mut source, mut target] = [(0, 0); 2];
        for update in 0..epochs.updates() {
            for part in sampler.parts(update) {
                let PartExamples::Denoising(chosen) = part.examples else { panic!("{part:?}") };
                let how = (&denoising, &sentinels);
                let batch = collate_corrupted(&examples, &chosen, how, 1, 0, 1);
                let used = |lengths: &[u32]| lengths.iter().sum::<u32>() as usize;
                source = (source.0 + used(&batch.lengths), source.1 + batch.ids.len());
                target = (target.0 + used(&batch.target_lengths), target.1 + batch.labels.len());
                assert!(batch.length <= tokens);
            }
        }
        let waste = |(used, all): (usize, usize)| 1.0 - used as f64 / all as f64;
        let (source, target) = (waste(source), waste(target));
        assert!(source < 0.1 && target < 0.1, "{tokens} tokens: {source:.3} and {target:.3}");
    }
}

#[test]
fn a_tokenizer_with_too_few_sentinels_and_a_set_that_trains_nothing_are_refused_in_words() {
    let refused = |home: &Path, overrides: &[&str]| {
        let overrides = [&ALONE[..], overrides].concat();
        match try_plan(home, &overrides) {
            Ok(_) => panic!("{overrides:?}: planned"),
            Err(problems) => problems,
        }
    };
    let home = TempDir::new().unwrap();
    let problems = refused(home.path(), &[]);
    for part in ["`<extra_id_0>`", "has 0 sentinels", "has 7 spans", "genir tokenizer train"] {
        assert!(problems.contains(part), "{part:?} is not in: {problems}");
    }
    let (home, base) = home_with_base(5);
    let problems = refused(home.path(), &[&base]);
    for part in ["has 7 spans", "has 5 sentinels (no `<extra_id_5>`)", "task.denoising_tokens"] {
        assert!(problems.contains(part), "{part:?} is not in: {problems}");
    }
    // Shorter texts have fewer spans.
    plan(home.path(), &[&ALONE[..], &["task.denoising_tokens=64", &base]].concat());

    let beside =
        [&BESIDE[..], &["task.denoising_tokens=64", &base, "trainable.select=[\"docids\"]"]];
    let problems = try_plan(home.path(), &beside.concat()).err().expect("refused");
    assert!(problems.contains("denoising trains no parameter"), "{problems}");
}

#[test]
fn keys_of_denoising_out_of_range_or_without_the_task_are_refused() {
    let denoising = "task.tasks=[\"denoising\"]";
    for (key, parts) in [
        ("task.noise_density=1.0", "noise_density = 1.0: expected a number above 0 and below 1"),
        ("task.noise_density=0", "noise_density = 0: expected a number above 0 and below 1"),
        ("task.mean_noise_span_length=0.9", "expected a number of at least 1"),
        ("task.denoising_tokens=2", "expected an integer of at least 3"),
        ("task.denoising_held_out=1.0", "expected a number from 0 to less than 1"),
        ("task.denoising_held_out=0", "expected a number above 0: with denoising alone"),
        ("task.denoising_ratio=1", "`tasks` has denoising only"),
        ("task.ratio=1", "`tasks` does not have both"),
        ("evaluate.splits=[\"test\"]", "docids cannot be ranked: task.tasks has denoising only"),
        ("evaluate.memorisation=5", "docids cannot be ranked: task.tasks has denoising only"),
        ("probes={}", "task.tasks has denoising only"),
        ("save.best_metric=\"validation/hits@1\"", "known is denoising/loss"),
    ] {
        let problem = problem(&[denoising, key]);
        assert!(problem.contains(parts), "{key}: {problem}");
    }
    let without = problem(&["task.denoising_tokens=64"]);
    assert!(without.contains("`tasks` does not include denoising"), "{without}");
    let recipe =
        small(&["task.tasks=[\"retrieval\", \"denoising\"]", "save.best_metric=denoising/loss"]);
    assert_eq!(recipe.task.options().denoising, Denoising::default());
    assert!(recipe.evaluate.metrics().contains(&"denoising/loss".to_owned()));
}
