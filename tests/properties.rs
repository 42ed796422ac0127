//! What must hold of every value: round trips of all that genir writes and reads again, the positions of the sampler,
//! the stages of any decoder.
//!
//! The cases are the same in every run; `PROPTEST_RNG_SEED=7 PROPTEST_CASES=10000 cargo test --release --test
//! properties` tries others.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use genir::component::{Selector, Stage, Stages, parse_layers};
use genir::corpus::{Corpus, Document, Judgement, Layout, LeaveOut, OnProblem, Query, Split};
use genir::docid::{RowInit, TextTokenizer};
use genir::prefix::Element;
use genir::probe::{Probe, Variant};
use genir::recipe::{Every, Init, Optimizer, Recipe, ScheduleName, Span, StopSection};
use genir::retrieval::CandidateSet;
use genir::retrieval::run_files::{RunWriter, read_qrels, read_run, write_qrels};
use genir::t5::T5Config;
use genir::task::{Epochs, Examples, Mixture, Sampler, Task, TaskOptions};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::RngSeed;
use serde_json::json;

#[path = "support/parameter_bits.rs"]
mod parameter_bits;
#[path = "support/small_checkpoint.rs"]
mod small_checkpoint;
#[path = "support/small_recipe.rs"]
mod small_recipe;
#[path = "support/small_tokenizer.rs"]
mod small_tokenizer;
#[path = "support/tiny_model.rs"]
mod tiny_model;

fn cases(cases: u32) -> ProptestConfig {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(13);
    }
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    config
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_recipe_is_read_as_it_was_written(change in changes()) {
        let recipe = change;
        let text = recipe.to_toml().expect("every recipe can be written");
        let again = Recipe::from_text("written.toml", &text, &[]);
        prop_assert_eq!(again.as_ref(), Ok(&recipe), "{}", text);
    }

    #[test]
    fn a_selector_is_printed_as_it_is_read((text, layers) in selector()) {
        let selector: Selector = text.parse().expect("a selector");
        prop_assert_eq!(selector.to_string(), text.trim());
        prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector.clone()));
        prop_assert_eq!(selector.excludes, text.trim().starts_with(['-', '!']));
        // It matches the layers that it names, and no other.
        let Some(layers) = layers else { return Ok(()) };
        let stages = Stages::scaled(24).expect("stages");
        let matched: Vec<usize> = (0..24)
            .filter(|&layer| {
                let component = genir::component::Component::Mlp;
                let stack = genir::component::Stack::Decoder;
                selector.matches_component(stack, layer, component, Some(&stages))
            })
            .collect();
        prop_assert_eq!(matched, layers);
    }

    #[test]
    fn a_run_is_read_as_it_was_written(run in rankings(), tag in trec_id()) {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("a.run");
        let mut writer = RunWriter::create(&path, &tag).expect("a file");
        for (query, ranking) in &run {
            let ranking = ranking.iter().map(|(docid, score)| (docid.as_str(), *score));
            writer.write(query, ranking).expect("written");
        }
        writer.finish().expect("written");
        let lines = read_run(&path).expect("read");
        let expected = run.iter().flat_map(|(query, ranking)| {
            (1..).zip(ranking).map(move |(rank, (docid, score))| (query, docid, rank, *score))
        });
        let found = lines.iter().map(|line| {
            (&line.query, &line.document, line.rank, line.score as f32)
        });
        prop_assert!(found.eq(expected), "{lines:?}");
        prop_assert!(lines.iter().all(|line| line.tag == tag));
    }

    #[test]
    fn qrels_are_read_as_they_were_written(
        judgements in prop::collection::vec((trec_id(), trec_id(), 0..=i32::MAX as u32), 0..6)
    ) {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("a.qrels");
        let written = judgements.iter().map(|(query, docid, grade)| (&**query, &**docid, *grade));
        write_qrels(&path, written.clone()).expect("written");
        let lines = read_qrels(&path).expect("read");
        let found = lines.iter().map(|line| (&*line.query, &*line.document, line.grade as u32));
        prop_assert!(found.eq(written), "{lines:?}");
    }

    #[test]
    fn stages_cover_every_decoder_once(depth in 3_usize..3000, first in 0_usize..30, second in 0_usize..30) {
        let scaled = Stages::scaled(depth).expect("three layers or more");
        prop_assert_eq!(scaled.check_depth(depth), Ok(()));
        for layer in 0..depth {
            let holds = |stage: &Stage| scaled.layers(*stage).contains(&layer);
            prop_assert_eq!(Stage::ALL.iter().filter(|stage| holds(stage)).count(), 1);
        }
        let text = serde_json::to_string(&scaled).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<Stages>(&text).ok(), Some(scaled));

        let given = Stages::explicit(0..first, first..second, second..depth, depth);
        prop_assert_eq!(given.is_ok(), 0 < first && first < second && second < depth);
        if let Ok(given) = given {
            let parsed = Stage::ALL.map(|stage| {
                parse_layers(&format!("{:?}", given.layers(stage))).expect("layers")
            });
            prop_assert_eq!(&parsed, &[given.first, given.second, given.third]);
        }
    }

    #[test]
    fn no_text_makes_a_parser_of_words_panic(text in any::<String>()) {
        let _ = text.parse::<Selector>();
        let _ = parse_layers(&text);
        let _ = text.parse::<genir::retrieval::NamedMeasure>();
        let _ = genir::device::is_valid_name(&text);
        let overrides = [text.clone()];
        let _ = Recipe::from_text("recipe.toml", "", &overrides);
        let _ = Recipe::from_text("recipe.toml", &text, &[]);
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn the_examples_of_an_update_depend_on_seed_and_position_alone(
        (documents, queries) in (1_usize..60, 1_usize..40),
        (batch, accumulate, seed) in (1_usize..12, 1_usize..5, any::<u64>()),
        ratio in prop::option::of(0.05_f64..20.0),
        start in 0_u64..40,
    ) {
        let options = TaskOptions { ratio, ..TaskOptions::default() };
        let examples = examples(documents, queries, &options);
        let mixture = Mixture::new(&examples, &options).expect("a mixture");
        let epochs = Epochs::new(mixture.per_epoch(), batch, accumulate).expect("epochs");
        let sampler = || Sampler::new(&examples, &mixture, epochs, seed);

        // From the start, and from any position on.
        let mut from_start = sampler();
        let read: Vec<Vec<u32>> = (0..start + 5).map(|at| from_start.update(at).to_vec()).collect();
        let mut resumed = sampler();
        for at in start..start + 5 {
            prop_assert_eq!(resumed.update(at), &*read[at as usize]);
        }
        // Backwards, and cut into batches.
        for at in (0..start + 5).rev() {
            let batches: Vec<u32> = from_start.batches(at).flatten().copied().collect();
            prop_assert_eq!(&batches, &read[at as usize]);
        }
        // An epoch is the mixture.
        let mut seen: BTreeMap<u32, u64> = BTreeMap::new();
        for at in 0..epochs.updates() {
            from_start.update(at).iter().for_each(|example| *seen.entry(*example).or_default() += 1);
        }
        for (example, times) in seen {
            let share = mixture.share(examples.task(example as usize));
            let least = share.per_epoch / share.examples;
            prop_assert!(times == least || times == least + 1, "{times} times");
        }
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn a_checkpoint_of_any_sizes_is_read_bit_for_bit(
        (d_model, d_kv, d_ff, heads) in (1_usize..9, 1_usize..5, 1_usize..9, 1_usize..4),
        (encoder, decoder) in (1_usize..4, 1_usize..5),
        (gated, tied, mt5) in any::<(bool, bool, bool)>(),
    ) {
        let sizes = json!({
            "model_type": if mt5 { "mt5" } else { "t5" }, "d_model": d_model, "d_kv": d_kv,
            "d_ff": d_ff, "num_heads": heads, "num_layers": encoder, "num_decoder_layers": decoder,
            "vocab_size": small_checkpoint::WORDS, "tie_word_embeddings": tied,
            "feed_forward_proj": if gated { "gated-gelu" } else { "relu" },
        });
        let config = T5Config::from_json(Path::new("config.json"), &sizes.to_string());
        let model = tiny_model::model(&config.expect("a configuration"));
        let home = tempfile::tempdir().expect("a directory");
        let written = small_checkpoint::write_model(home.path(), "step-1", &model);
        let opened = small_checkpoint::open(&written.expect("written")).expect("opened");
        prop_assert_eq!(opened.model.t5.is_tied(), tied);
        parameter_bits::assert_same(
            &parameter_bits::bits(&opened.model),
            &parameter_bits::bits(&model),
            "a checkpoint",
        );
        prop_assert_eq!(opened.docids, tiny_model::docids());
        prop_assert_eq!(opened.manifest, Some(tiny_model::manifest()));
    }
}

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

/// An id that a TREC file can hold.
fn trec_id() -> impl Strategy<Value = String> {
    let id = |letter: &char| !letter.is_whitespace() && !letter.is_control();
    any::<String>()
        .prop_map(move |text| text.chars().filter(id).collect::<String>())
        .prop_filter("an empty id", |id| !id.is_empty())
}

/// Queries with rankings: scores are finite and never rise.
fn rankings() -> impl Strategy<Value = Vec<(String, Vec<(String, f32)>)>> {
    let score = any::<f32>().prop_filter("not finite", |score| score.is_finite());
    let ranking = prop::collection::vec((trec_id(), score), 0..6).prop_map(|mut ranking| {
        ranking.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        ranking
    });
    prop::collection::vec((trec_id(), ranking), 0..4)
}

/// A selector, and the layers of 24 whose MLP in the decoder it matches, where that is written here.
fn selector() -> impl Strategy<Value = (String, Option<Vec<usize>>)> {
    let fixed = select(vec![
        "full",
        "restricted",
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

/// Examples of so many documents and queries.
fn examples(documents: usize, queries: usize, options: &TaskOptions) -> Examples {
    thread_local! {
        static TOKENIZER: TextTokenizer = small_checkpoint::tokenizer();
    }
    let words = |count: usize| small_tokenizer::WORDS[..5].iter().cycle().take(count).copied();
    let text = |count: usize| words(count).collect::<Vec<_>>().join(" ");
    let corpus = Corpus {
        documents: (0..documents)
            .map(|at| Document { id: format!("d{at}"), texts: vec![text(at * 7 % 23 + 1)] })
            .collect(),
        train: (0..queries)
            .map(|at| Query {
                id: format!("q{at}"),
                text: text(at * 5 % 9 + 1),
                relevant: vec![Judgement { document: (at % documents) as u32, grade: 1 }],
            })
            .collect(),
        ..Corpus::default()
    };
    TOKENIZER.with(|tokenizer| {
        Examples::build(&corpus, tokenizer, options, &HashSet::new()).expect("examples")
    })
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
fn changes() -> impl Strategy<Value = Recipe> {
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
        recipe.stages = stages;
        if scratch {
            recipe.model.init = Init::Scratch;
            recipe.model.config.d_model = sized.then_some(depth * 2);
            let depth = recipe.stages.as_ref().map_or(depth, Stages::depth);
            recipe.model.config.num_decoder_layers = (sized && depth <= 1000).then_some(depth);
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
        any::<bool>(),
    );
    let base = (base, of_data).prop_map(|(mut recipe, data)| {
        let (path, layout, generated, skip, leave_out, by_text) = data;
        (recipe.corpus.path, recipe.corpus.layout) = (path, layout);
        recipe.corpus.generated_queries = generated.map(PathBuf::from);
        recipe.corpus.on_problem = if skip { OnProblem::Skip } else { OnProblem::Refuse };
        recipe.corpus.leave_out = leave_out;
        recipe.docids.rows = if by_text { RowInit::Text } else { RowInit::Random };
        recipe
    });
    let tokens = 2..=i64::MAX as usize;
    let of_task = (
        subsequence(Task::ALL, 1..=2),
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

fn optimizer() -> impl Strategy<Value = Optimizer> {
    prop_oneof![
        ([0.0_f64..1.0, 0.0..1.0], positive(), positive())
            .prop_map(|(betas, eps, weight_decay)| Optimizer::AdamW { betas, eps, weight_decay }),
        ([positive(), positive()], positive(), positive(), any::<bool>()).prop_map(
            |(eps, number, decay, scale_parameter)| Optimizer::Adafactor {
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
