//! What must hold of every value: round trips of all that genir writes and reads again, the positions of the sampler,
//! the stages of any decoder.
//!
//! The cases are the same in every run; `PROPTEST_RNG_SEED=7 PROPTEST_CASES=10000 cargo test --release --test
//! properties` tries others.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use crate::any_recipe::{recipe, selector};
use crate::parameter_bits;
use crate::small_checkpoint;
use crate::small_tokenizer;
use crate::tiny_model;
use genir::checkpoint::Manifest;
use genir::component::{Component, Selector, Stack, Stage, Stages, parse_layers};
use genir::corpus::{Corpus, Document, Judgement, Query};
use genir::docid::TextTokenizer;
use genir::recipe::Recipe;
use genir::retrieval::NamedMeasure;
use genir::retrieval::run_files::{RunWriter, read_qrels, read_run, write_qrels};
use genir::t5::T5Config;
use genir::task::{Epochs, Examples, Mixture, Sampler, TaskOptions};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::json;

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
    fn a_recipe_is_read_as_it_was_written(recipe in recipe()) {
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
                let stages = Some(&stages);
                selector.matches_component(Stack::Decoder, layer, Component::Mlp, stages)
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
        let _ = text.parse::<NamedMeasure>();
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
        let expected = tiny_model::manifest();
        let manifest = opened.manifest.map(|found| Manifest { files: Default::default(), ..found });
        prop_assert_eq!(manifest, Some(expected));
    }
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
