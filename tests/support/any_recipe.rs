//! Strategies for recipes and the words in them.

use std::path::PathBuf;

use genir::component::Stages;
use genir::corpus::{Layout, LeaveOut, OnProblem, Split};
use genir::docid::RowInit;
use genir::prefix::Element;
use genir::probe::{Probe, Variant};
use genir::recipe::{
    DenoisingKeys, Every, Init, OptimizerSettings, Recipe, ScheduleName, Span, StagesSetting,
    StopSection,
};
use genir::retrieval::CandidateSet;
use genir::task::Task;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::small_recipe;

/// Any text, often of characters that a file format treats in its own way.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ \\t\\n\\r\"'\\\\#=\\[\\]{}.,~\\-0-9a-z\u{0}\u{1b}\u{7f}\u{85}é🦀]{0,12}"
    ]
}

/// A path as a recipe may name it.
fn path() -> impl Strategy<Value = String> {
    text().prop_filter("no path", |text| !text.trim().is_empty() && !text.starts_with('~'))
}

/// A selector, and the layers of 24 whose MLP in the decoder it matches, where that is written here.
pub fn selector() -> impl Strategy<Value = (String, Option<Vec<usize>>)> {
    let fixed = select(vec![
        "full",
        "restricted",
        "matched",
        "random-matched(seed=3)",
        "random-matched( seed = 18446744073709551615 )",
        "norms",
        "encoder",
        "decoder",
        "encoder.*",
        "decoder.*",
        "docids",
        "words",
        "head",
        "encoder.final_norm",
        "decoder.final_norm",
        "encoder.relative_bias",
        "decoder.relative_bias",
        "encoder.self_attention",
        "encoder.mlp",
        "encoder.layers",
    ]);
    let fixed = fixed.prop_map(|word| (word.to_owned(), None));
    let layers = prop_oneof![
        (0_usize..24).prop_map(|layer| (layer.to_string(), (layer..layer + 1))),
        (0_usize..24, 1_usize..9).prop_map(|(start, more)| {
            (format!("{start}..{}", start + more), start..start + more)
        }),
        (0_usize..24, 0_usize..9).prop_map(|(start, more)| {
            (format!(" {start} - {} ", start + more), start..start + more + 1)
        }),
        Just(("I".to_owned(), 0..7)),
        Just((" II".to_owned(), 7..18)),
        Just(("III ".to_owned(), 18..24)),
    ];
    let layers = prop::collection::vec(layers, 1..4);
    let layered = (select(vec!["mlp", "layers"]), layers).prop_map(|(word, layers)| {
        let (texts, ranges): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
        let named = (0..24).filter(|layer| ranges.iter().any(|range| range.contains(layer)));
        (format!("decoder.{word}[{}]", texts.join(",")), Some(named.collect()))
    });
    let sign = select(vec!["", "-", "!"]);
    let white = select(vec!["", " ", "\t"]);
    (prop_oneof![fixed, layered], sign, white)
        .prop_map(|((word, layers), sign, white)| (format!("{white}{sign}{word}{white}"), layers))
}

/// Finite numbers above 0.
fn positive() -> impl Strategy<Value = f64> {
    prop_oneof![prop::num::f64::POSITIVE, 1e-9_f64..10.0]
        .prop_filter("not finite", |number| number.is_finite() && *number > 0.0)
}

fn span() -> impl Strategy<Value = Span> {
    prop_oneof![(1..=i64::MAX as u64).prop_map(Span::Steps), positive().prop_map(Span::Epochs)]
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![1_usize..100, 1..=i64::MAX as usize]
}

/// Recipes: each strategy changes some sections of a small one, field by field, so that new fields keep their defaults.
pub fn recipe() -> impl Strategy<Value = Recipe> {
    let base = Just(small_recipe::small(&[]));
    let of_run =
        (path(), 0..=i64::MAX as u64, select(vec!["auto", "cpu", "cuda", "cuda:3", "cuda:1+f32"]));
    let base = (base, of_run).prop_map(|(mut recipe, (directory, seed, device))| {
        recipe.run.directory = PathBuf::from(directory);
        (recipe.run.seed, recipe.run.device) = (seed, device.to_owned());
        recipe
    });
    let of_model = (
        text(),
        prop::option::of(text()),
        prop::option::of(0.0_f64..1.0),
        any::<[bool; 2]>(),
        3_usize..99,
    );
    let base = (base, of_model, stages()).prop_map(|(mut recipe, model, stages)| {
        let (base, revision, dropout, [scratch, sized], depth) = model;
        (recipe.model.base, recipe.model.revision, recipe.model.dropout) =
            (base, revision, dropout);
        recipe.stages = stages.clone().map(StagesSetting::Given);
        if scratch {
            recipe.model.init = Init::Scratch;
            recipe.model.config.d_model = sized.then_some(depth * 2);
            let depth = stages.as_ref().map_or(depth, Stages::depth);
            recipe.model.config.num_decoder_layers = (sized && depth <= 1000).then_some(depth);
        } else if sized && recipe.stages.is_none() {
            recipe.stages = Some(StagesSetting::Detect);
        }
        recipe
    });
    let leave_out = prop_oneof![
        Just(LeaveOut::None),
        prop::collection::vec(text(), 0..4).prop_map(LeaveOut::Ids),
        (size(), 0..=i64::MAX as u64).prop_map(|(count, seed)| LeaveOut::Count { count, seed }),
    ];
    let of_data = (
        path(),
        select(Layout::ALL),
        prop::option::of(path()),
        any::<bool>(),
        leave_out,
        select(RowInit::ALL),
        (1..=i64::MAX as u64, prop::option::of(1..=i64::MAX as u64)),
    );
    let base = (base, of_data).prop_map(|(mut recipe, data)| {
        let (path, layout, generated, skip, leave_out, rows, limits) = data;
        (recipe.corpus.path, recipe.corpus.layout) = (path, layout);
        recipe.corpus.generated_queries = generated.map(PathBuf::from);
        recipe.corpus.on_problem = if skip { OnProblem::Skip } else { OnProblem::Refuse };
        recipe.corpus.leave_out = leave_out;
        (recipe.corpus.max_record, recipe.corpus.max_unpacked) = limits;
        recipe.docids.rows = rows;
        recipe
    });
    let tokens = 2..=i64::MAX as usize;
    let of_task = (
        subsequence(Task::OF_DOCIDS.to_vec(), 1..=2),
        prop::option::of(positive()),
        tokens,
        [text(), text()],
        any::<bool>(),
    );
    let base =
        (base, of_task).prop_map(|(mut recipe, (tasks, ratio, tokens, prefixes, lowercase))| {
            if !tasks.contains(&Task::Retrieval) {
                recipe.corpus.generated_queries = None;
            }
            recipe.task.ratio = ratio.filter(|_| tasks.len() == 2);
            recipe.task.tasks = tasks;
            (recipe.task.max_tokens, recipe.task.query_tokens) = (tokens, tokens / 2 + 2);
            [recipe.task.indexing_prefix, recipe.task.retrieval_prefix] = prefixes;
            recipe.task.lowercase = lowercase;
            recipe
        });
    let noise = (0.01_f64..0.99, 1.0_f64..9.0, prop::option::of(positive()), 0.0_f64..1.0);
    let of_denoising = prop::option::of((3..=i64::MAX as usize, noise));
    let base = (base, of_denoising).prop_map(|(mut recipe, denoising)| {
        if let Some((tokens, (density, mean, ratio, held_out))) = denoising {
            recipe.task.tasks.push(Task::Denoising);
            recipe.task.denoising = Some(DenoisingKeys {
                denoising_tokens: tokens,
                noise_density: density,
                mean_noise_span_length: mean,
                denoising_ratio: ratio,
                denoising_held_out: held_out,
            });
            recipe.evaluate.denoising = held_out > 0.0;
        }
        recipe
    });
    let selectors = prop::collection::vec(selector().prop_map(|(text, _)| text), 1..4);
    let of_training = (
        selectors,
        optimizer(),
        positive(),
        prop::option::of(positive()),
        span(),
        [size(), size()],
    );
    let base =
        (base, of_training, schedule()).prop_map(|(mut recipe, training, (name, warmup))| {
            let (select, optimizer, rate, clip, length, [batch, accumulate]) = training;
            recipe.trainable.select = select;
            (recipe.optimizer.optimizer, recipe.optimizer.learning_rate) = (optimizer, rate);
            (recipe.optimizer.clip_norm, recipe.train.length) = (clip, length);
            (recipe.train.batch_size, recipe.train.accumulate) = (batch, accumulate);
            let steps = if let Span::Steps(steps) = length { steps } else { u64::MAX };
            (recipe.schedule.name, recipe.schedule.warmup_steps) = (name, warmup.min(steps));
            recipe
        });
    let of_cache =
        (any::<bool>(), prop::option::of(path()), 0..=i64::MAX as u64, select(Element::ALL));
    let of_evaluation = (
        prop::option::of(span()),
        subsequence(Split::ALL, 1..=3),
        size(),
        select(CandidateSet::ALL),
        any::<bool>(),
    );
    let of_stop = prop::option::of((1..=i64::MAX as u64, prop_oneof![Just(0.0), positive()]));
    (base, of_cache, of_evaluation, of_stop, probes()).prop_map(
        |(mut recipe, cache, evaluation, stop, probes)| {
            (recipe.cache.enabled, recipe.cache.memory) = (cache.0, cache.2);
            (recipe.cache.directory, recipe.cache.element) = (cache.1.map(PathBuf::from), cache.3);
            let (every, splits, size, vocabulary, at_start) = evaluation;
            (recipe.evaluate.every, recipe.evaluate.splits) = (every, splits);
            (recipe.evaluate.queries, recipe.evaluate.batch_size) =
                (at_start.then_some(size), size);
            (recipe.evaluate.vocabulary, recipe.evaluate.at_start) = (vocabulary, at_start);
            recipe.evaluate.unmasked_padding = at_start.then_some(size % 4096 + 1);
            let metrics = recipe.evaluate.metrics();
            recipe.save.best_metric = metrics[size % metrics.len()].clone();
            recipe.save.keep_last = size;
            if every.is_some() {
                recipe.stop = stop.map(|(patience, min_delta)| StopSection {
                    metric: metrics[0].clone(),
                    patience,
                    min_delta,
                });
            }
            if let Some((run, interval, strings, share)) = probes {
                let mut section = small_recipe::small(&["probes={}"]).probes.expect("it is given");
                section.every = interval.filter(|every| {
                    recipe.evaluate.every.is_some() || !matches!(every, Every::Evaluations(_))
                });
                if run.contains(&Probe::StagePatching) {
                    section.patches = strings;
                }
                (section.run, section.max_share, section.variant) = (run, share, Variant::Exact);
                section.base = at_start.then(|| "a base".to_owned());
                recipe.probes = Some(section);
            }
            recipe
        },
    )
}

fn stages() -> impl Strategy<Value = Option<Stages>> {
    prop::option::of([1_usize..1 << 40, 1..1 << 40, 1..1 << 40]).prop_map(|lengths| {
        let [first, second, third] = lengths?;
        let (second, third) = (first + second, first + second + third);
        Stages::consecutive(0..first, first..second, second..third).ok()
    })
}

fn optimizer() -> impl Strategy<Value = OptimizerSettings> {
    prop_oneof![
        ([0.0_f64..1.0, 0.0..1.0], positive(), positive()).prop_map(
            |(betas, eps, weight_decay)| OptimizerSettings::AdamW { betas, eps, weight_decay }
        ),
        ([positive(), positive()], positive(), positive(), any::<bool>()).prop_map(
            |(eps, number, decay, scale_parameter)| OptimizerSettings::Adafactor {
                eps,
                clip_threshold: number,
                decay_rate: -decay,
                weight_decay: number,
                scale_parameter,
            }
        ),
    ]
}

fn schedule() -> impl Strategy<Value = (ScheduleName, u64)> {
    (select(ScheduleName::ALL), 0..=i64::MAX as u64)
}

type Probes = (Vec<Probe>, Option<Every>, Vec<String>, Option<f64>);

fn probes() -> impl Strategy<Value = Option<Probes>> {
    let every = prop_oneof![
        span().prop_map(Every::Span),
        (1..=i64::MAX as u64).prop_map(Every::Evaluations)
    ];
    let run = subsequence(Probe::ALL, 1..=Probe::ALL.len());
    let strings = prop::collection::vec(text(), 0..3);
    prop::option::of((run, prop::option::of(every), strings, prop::option::of(positive())))
}
