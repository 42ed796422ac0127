//! Recipes are parsed with defaults and overrides, and serialised again.

use std::path::Path;

use crate::small_recipe::{problem, read, small};
use genir::corpus::{CorpusOptions, Layout, LeaveOut, OnProblem, ReadLimits, Split};
use genir::prefix::Element;
use genir::probe::{Over, Probe};
use genir::recipe::{Every, Init, OptimizerSettings, Span};
use genir::retrieval::CandidateSet;
use genir::task::{Denoising, Encoding, Epochs, Task, TaskOptions};

#[test]
fn defaults_are_filled_in() {
    let recipe = small(&[]);
    assert_eq!(recipe.run.seed, 1);
    assert_eq!(recipe.run.device, "auto");
    assert_eq!(recipe.model.init, Init::Pretrained);
    assert_eq!(recipe.corpus.leave_out, LeaveOut::None);
    assert_eq!(recipe.corpus.on_problem, OnProblem::Refuse);
    assert_eq!(recipe.task.tasks, [Task::Indexing, Task::Retrieval]);
    assert_eq!(recipe.trainable.select, ["full"]);
    assert_eq!(recipe.stages, None);
    let optimizer = OptimizerSettings::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 };
    assert_eq!(recipe.optimizer.optimizer, optimizer);
    assert_eq!(recipe.optimizer.clip_norm, Some(1.0));
    assert_eq!(recipe.evaluate.splits, [Split::Validation]);
    assert_eq!(recipe.evaluate.every, None);
    assert_eq!(recipe.save.best_metric, "validation/hits@1");
    assert_eq!(small(&["evaluate.splits=test"]).save.best_metric, "test/hits@1");
    assert_eq!(recipe.stop, None);
    assert_eq!(recipe.probes, None);
}

#[test]
fn by_default_all_probes_are_measured_at_the_end() {
    let probes = small(&["probes={}"]).probes.unwrap();
    assert_eq!(probes.run, Probe::ALL);
    assert_eq!((probes.every, probes.at_start, probes.at_end), (None, false, true));
    assert_eq!((probes.split, probes.test_split), (Split::Validation, None));
    assert_eq!((probes.over, probes.vocabulary), (Over::Correct, CandidateSet::All));
    // Which steps are probed is not for the clock to say.
    assert_eq!(probes.max_share, None);
    for every in ["every_steps=50", "every_epochs=2", "logit_lens.every_steps=5"] {
        assert_eq!(small(&[&format!("probes.{every}")]).probes.unwrap().max_share, None);
    }
    assert_eq!(small(&["probes.max_share=0.1"]).probes.unwrap().max_share, Some(0.1));

    let probes = small(&[
        "probes.every_steps=50",
        "probes.queries=100",
        "probes.circuit.every_epochs=2",
        "probes.stage_patching.queries=9",
        "evaluate.every_epochs=0.3",
        "probes.logit_lens.every_evaluations=2",
    ]);
    let probes = probes.probes.unwrap();
    let of = |probe| (probes.every(probe), probes.queries(probe));
    assert_eq!(of(Probe::DirectEffect), (Some(Every::Span(Span::Steps(50))), 100));
    assert_eq!(of(Probe::Circuit), (Some(Every::Span(Span::Epochs(2.0))), 100));
    assert_eq!(of(Probe::StagePatching), (Some(Every::Span(Span::Steps(50))), 9));
    assert_eq!(of(Probe::LogitLens), (Some(Every::Evaluations(2)), 100));
    // Evaluations are at whole steps: every second evaluation, regardless of the rounding of 0.6 epochs.
    let steps =
        |every: Every| every.steps(Some(Span::Epochs(0.3)), &Epochs::new(11, 1, 1).unwrap());
    assert_eq!(steps(Every::Evaluations(2)), Some(6));
    assert_eq!(steps(Every::Span(Span::Epochs(0.6))), Some(7));
}

#[test]
fn token_lengths_default_to_max_tokens() {
    let task = small(&["task.max_tokens=64", "task.query_tokens=16"]).task;
    assert_eq!((task.document_tokens, task.query_tokens), (64, 16));
}

#[test]
fn sections_are_converted_to_options() {
    let recipe = small(&[
        "corpus.path=data/mine",
        "corpus.layout=beir",
        "corpus.generated_queries=more.jsonl",
        "corpus.on_problem=skip",
        "corpus.max_record=3",
        "corpus.max_unpacked=5",
        "corpus.leave_out.count=10",
        "task.ratio=8",
        "task.document_tokens=48",
        "task.query_tokens=16",
        "task.indexing_prefix=index: ",
        "task.retrieval_prefix=\"retrieve: \"",
        "task.lowercase=true",
        "model.init=scratch",
        "model.config={d_kv=8, num_decoder_layers=5}",
    ]);
    let corpus = CorpusOptions {
        path: "data/mine".to_owned(),
        layout: Layout::Beir,
        generated_queries: Some("more.jsonl".into()),
        on_problem: OnProblem::Skip,
        leave_out: LeaveOut::Count { count: 10, seed: 1 },
        limits: ReadLimits { record: 3 << 20, unpacked: Some(5 << 20) },
    };
    assert_eq!(recipe.corpus.options(), corpus);
    let task = TaskOptions {
        tasks: vec![Task::Indexing, Task::Retrieval],
        ratio: Some(8.0),
        encoding: Encoding {
            document_tokens: 48,
            query_tokens: 16,
            indexing_prefix: "index:".to_owned(),
            retrieval_prefix: "retrieve: ".to_owned(),
            lowercase: true,
        },
        denoising: Denoising::default(),
    };
    assert_eq!(recipe.task.options(), task);
    assert_eq!(recipe.model.config.sizes(), [("d_kv", 8), ("num_decoder_layers", 5)]);
    let all = "model.config={d_model=1, d_ff=2, d_kv=3, num_heads=4, num_layers=5, \
               num_decoder_layers=6}";
    let sizes = [
        ("d_model", 1),
        ("d_ff", 2),
        ("d_kv", 3),
        ("num_heads", 4),
        ("num_layers", 5),
        ("num_decoder_layers", 6),
    ];
    assert_eq!(small(&["model.init=scratch", all]).model.config.sizes(), sizes);
}

#[test]
fn any_metric_of_an_evaluation_can_select_checkpoints_and_stop_training() {
    let evaluate = small(&["evaluate.splits=[\"validation\", \"test\"]"]).evaluate;
    let splits =
        ["validation", "validation/seen", "validation/unseen", "test", "test/seen", "test/unseen"];
    assert_eq!(evaluate.rankings(), splits);
    let evaluate = small(&["evaluate.splits=test", "evaluate.memorisation=9"]).evaluate;
    let memorised = ["memorisation/indexing", "memorisation/retrieval"];
    assert_eq!(evaluate.rankings()[3..], memorised);
    for metric in ["validation/seen/hits@1", "validation/unseen/ndcg@10", "validation/recall@5"] {
        let recipe = small(&[
            &format!("save.best_metric={metric}"),
            "evaluate.every_steps=5",
            "stop.patience=1",
        ]);
        assert_eq!(recipe.save.best_metric, metric);
        assert_eq!(recipe.stop.unwrap().metric, metric);
    }
    let unlike = problem(&["save.best_metric=xyz"]);
    assert!(unlike.contains("mrr@10, ndcg@10 of validation, validation/seen, "), "{unlike}");
}

#[test]
fn overrides_set_values_of_every_kind() {
    let recipe = small(&[
        "train.steps=7",
        "optimizer.learning_rate=2",
        "optimizer.clip_norm=none",
        "run.directory=runs/a=b",
        "corpus.path=2024",
        "task.lowercase=true",
        "trainable.select=decoder.cross_attention[II,III]",
        "corpus.leave_out={ids=[3, \"x\"]}",
        "stages={I=\"0..1\", II=\"1-2\", III=\"3\"}",
    ]);
    assert_eq!(recipe.train.length, Span::Steps(7));
    assert_eq!(recipe.optimizer.learning_rate, 2.0);
    assert_eq!(recipe.optimizer.clip_norm, None);
    assert_eq!(recipe.run.directory, Path::new("runs/a=b"));
    assert_eq!(recipe.corpus.path, "2024");
    assert!(recipe.task.lowercase);
    assert_eq!(recipe.trainable.select, ["decoder.cross_attention[II,III]"]);
    let ids = vec!["3".to_owned(), "x".to_owned()];
    assert_eq!(recipe.corpus.leave_out, LeaveOut::Ids(ids));
    assert_eq!(recipe.stages.unwrap().given().unwrap().to_string(), "I 0, II 1-2, III 3");
}

#[test]
fn a_later_override_wins_and_a_tilde_removes() {
    let recipe = small(&["train.batch_size=3", "train.batch_size=5"]);
    assert_eq!(recipe.train.batch_size, 5);
    let recipe = small(&["~train.steps", "train.epochs=0.5"]);
    assert_eq!(recipe.train.length, Span::Epochs(0.5));
    let steps = |examples| recipe.train.length.steps(&Epochs::new(examples, 1, 1).unwrap());
    assert_eq!((steps(11), steps(1)), (6, 1));
}

#[test]
fn a_serialised_recipe_parses_to_the_same_recipe() {
    let all = [
        "model.init=scratch",
        "model.revision=abc",
        "model.dropout=0.25",
        "model.config.d_model=64",
        "model.config.num_decoder_layers=5",
        "stages={I=\"0..2\", II=\"2..4\", III=\"4\"}",
        "corpus.generated_queries=more.jsonl",
        "corpus.leave_out={count=10, seed=3}",
        "task.ratio=32",
        "task.document_tokens=48",
        "optimizer.name=adafactor",
        "optimizer.decay_rate=-0.7",
        "optimizer.clip_norm=0",
        "schedule.name=inverse_sqrt",
        "~train.steps",
        "train.epochs=2",
        "evaluate.every_epochs=0.5",
        "evaluate.queries=100",
        "evaluate.memorisation=9",
        "save.every_steps=40",
        "save.best_metric=validation/unseen/mrr@10",
        "stop.metric=memorisation/indexing/hits@1",
        "stop.patience=3",
        "probes.run=[\"circuit\", \"stage_patching\"]",
        "probes.every_epochs=0.5",
        "probes.at_start=true",
        "probes.test_split=train",
        "probes.variant=exact",
        "probes.average_first=queries",
        "probes.encoder_norm=own",
        "probes.per_query=true",
        "probes.base=none",
        "probes.patches=[\"decoder.layers[3]\"]",
        "probes.circuit_patches=decoder.mlp[I,II]=mean",
        "cache.enabled=false",
        "cache.directory=there",
        "cache.memory=5",
        "cache.disk=6",
        "cache.type=f16",
        "probes.max_share=none",
        "probes.circuit.every_steps=40",
        "probes.stage_patching={queries=7, every_evaluations=4}",
    ];
    let off = [
        "optimizer.clip_norm=none",
        "evaluate.every_steps=3",
        "corpus.leave_out.ids=[1]",
        "probes={}",
    ];
    for overrides in [&all[..], &off[..], &[]] {
        let recipe = small(overrides);
        let text = recipe.to_toml().unwrap();
        assert_eq!(read(&text, &[]).as_ref(), Ok(&recipe), "{text}");
    }
}

#[test]
fn the_cache_section_has_defaults_and_limits() {
    let cache = small(&[]).cache;
    assert_eq!((cache.enabled, cache.memory, cache.disk), (true, 2048, 51_200));
    assert_eq!((cache.element, cache.directory), (Element::F32, None));
    let settings =
        small(&["cache.directory=there", "cache.memory=1", "cache.type=bf16"]).cache.settings();
    assert_eq!((settings.directory.as_path(), settings.memory), (Path::new("there"), 1 << 20));
    assert_eq!(settings.element, Element::Bf16);
    for (wrong, part) in [
        ("cache.type=f64", r#"expected one of "f32", "bf16", "f16""#),
        ("cache.memory=-1", "expected an integer of at least 0"),
        ("cache.disc=5", "unknown key; did you mean `disk`?"),
        ("cahce.disk=5", "unknown section; did you mean `cache`?"),
    ] {
        let problem = problem(&[wrong]);
        assert!(problem.contains(part), "{problem}");
    }
}
