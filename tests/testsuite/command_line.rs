//! The command line: a run from an included recipe to ranked documents, and the errors of bad input.

use std::fs;
use std::path::Path;

use genir::retrieval::run_files::{read_correct_queries, read_qrels, read_run};
use serde_json::Value;
use tempfile::TempDir;

use crate::command::{assert_says, genir_with_bytes, genir_with_input, is_refused, succeeds, text};
use crate::everything::everything;
use crate::tiny_corpus;
use crate::tiny_recipe::tiny_recipe;

/// A run of one step on the tiny corpus.
fn tiny_run() -> (TempDir, String) {
    let home = TempDir::new().unwrap();
    succeeds(&["train", &tiny_recipe(&home), "train.steps=1"]);
    let run = text(home.path().join("run"));
    (home, run)
}

#[test]
fn a_copied_recipe_is_trained_evaluated_and_searched() {
    let home = TempDir::new().unwrap();
    let at = |name: &str| text(home.path().join(name));
    let (recipe, run) = (at("mine.toml"), at("run"));
    let copied = succeeds(&["recipes", "copy", "quickstart", &recipe]);
    assert_says(&copied.stdout, &["mine.toml", "genir train"]);
    is_refused(&["recipes", "copy", "quickstart", &recipe], &["mine.toml already exists"]);

    let directory = format!("run.directory={run}");
    let tiny = [
        "model.config={ d_model = 16, d_ff = 32, d_kv = 8, num_heads = 2, num_layers = 1 }",
        "run.device=cpu",
        "task.max_tokens=16",
        "~train.epochs",
        "train.steps=6",
        "train.batch_size=16",
        "schedule.warmup_steps=2",
        "~evaluate.every_epochs",
        "evaluate.every_steps=3",
        "evaluate.queries=40",
        "evaluate.memorisation=20",
    ];
    let trained = succeeds(&[&["train", &recipe, &directory], &tiny[..]].concat());
    assert_eq!(trained.stdout, "", "messages go to standard error");
    assert!(!trained.stderr.contains(['\u{1b}', '\r']), "no terminal: {:?}", trained.stderr);
    assert_says(
        &trained.stderr,
        &[
            "bundled:atlas",
            "seed 1, device cpu",
            "decoder Stage III mlp",
            "about ",
            "step 3: validation",
            "step 6: memorisation/indexing",
            "step 6/6",
            "genir search",
        ],
    );

    let files = [at("test.run"), at("test.qrels"), at("correct.json")];
    let evaluated = succeeds(&[
        "eval",
        &run,
        "--split",
        "test",
        "--queries",
        "50",
        "--depth",
        "7",
        "--run",
        &files[0],
        "--qrels",
        &files[1],
        "--correct",
        &files[2],
        "--format",
        "json",
    ]);
    let metrics: Value = serde_json::from_str(&evaluated.stdout).unwrap();
    assert_eq!(metrics["all"]["queries"], 50);
    let ranked = read_run(Path::new(&files[0])).unwrap();
    let judged = read_qrels(Path::new(&files[1])).unwrap();
    let correct = read_correct_queries(Path::new(&files[2])).unwrap();
    assert_eq!((ranked.len(), judged.len()), (350, 50));
    let first: Vec<&str> = judged
        .iter()
        .filter(|j| {
            ranked.iter().any(|l| (l.rank, &l.query, &l.document) == (1, &j.query, &j.document))
        })
        .map(|j| j.query.as_str())
        .collect();
    assert!(correct.iter().map(|(_, query)| query.as_str()).eq(first.iter().copied()));
    let hits = metrics["all"]["hits@1"].as_f64().unwrap();
    assert!((hits - first.len() as f64 / 50.0).abs() < 1e-9);

    let table = succeeds(&["eval", &run, "--queries", "20", "--vocabulary", "all"]).stdout;
    assert_says(
        &table,
        &["| queries ", "hits@1", "hits@100", "ndcg@10", "| all ", "| 20 ", "unseen"],
    );

    let query = "Which element has the symbol Fe?";
    let found = succeeds(&["search", &run, query, "--top", "3"]).stdout;
    let ranks: Vec<&str> = found.lines().filter_map(|line| line.get(..3)).collect();
    assert_eq!(ranks, ["  1", "   ", "  2", "   ", "  3", "   "], "each with its text:\n{found}");
}

#[test]
fn search_reads_queries_from_standard_input_and_prints_json_lines() {
    let (_home, run) = tiny_run();
    let input = "what is gold\n\n  a river in Africa \nlast without an end";
    let plain = genir_with_input(&["search", &run, "--top", "2"], input);
    assert_eq!(plain.code, 0, "{}", plain.stderr);
    let answers: Vec<Vec<&str>> =
        plain.stdout.split("\n\n").map(|answer| answer.lines().collect()).collect();
    let queries = ["what is gold", "a river in Africa", "last without an end"];
    assert_eq!(answers.len(), 3, "{}", plain.stdout);
    for (answer, query) in answers.iter().zip(queries) {
        assert_eq!(answer[0], format!("query: {query}"));
        assert_eq!(answer.len(), 1 + 2 * 2, "{answer:?}");
    }
    assert_says(&plain.stderr, &["standard input, line 2 is empty"]);

    let asked = genir_with_input(&["search", &run, "--json", "-k", "20"], input);
    let lines: Vec<Value> =
        asked.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3 * 8, "as many as there are documents");
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(line["query"], queries[at / 8]);
        assert_eq!(line["rank"], at % 8 + 1);
        let (_, text) = tiny_corpus::DOCUMENTS.iter().find(|(id, _)| line["docid"] == *id).unwrap();
        assert_eq!(line["text"], *text);
        assert!(at % 8 == 0 || line["score"].as_f64() <= lines[at - 1]["score"].as_f64());
    }
    let once = succeeds(&["search", &run, "what is gold", "--json", "-k", "8"]).stdout;
    assert!(asked.stdout.starts_with(&once), "the same from the command line");
}

#[test]
fn an_empty_query_and_a_line_that_is_not_utf_8_are_errors() {
    let (_home, run) = tiny_run();
    for query in ["", "  ", "\t\n"] {
        is_refused(&["search", &run, query], &["the query is empty"]);
    }
    let input = b"what is gold\r\nZ\xfcrich\nneon\n";
    let done = genir_with_bytes(&["search", &run, "--top", "1"], input);
    assert_eq!(done.code, 1);
    assert_says(&done.stderr, &["standard input, line 2", "Z\u{fffd}rich", "is not valid UTF-8"]);
    assert!(done.stdout.starts_with("query: what is gold\n"), "{}", done.stdout);
    assert!(!done.stdout.contains("neon"), "nothing is answered after it: {}", done.stdout);
}

#[test]
fn search_prints_no_control_character_of_a_corpus() {
    let home = TempDir::new().unwrap();
    let recipe = tiny_recipe(&home);
    let corpus = home.path().join("corpus");
    let documents = fs::read_to_string(corpus.join("documents.json")).unwrap();
    let hostile = "Oxygen\\u001b[31m is\\u009b2J a\\u202e gas\\nthat\\u0007";
    fs::write(corpus.join("documents.json"), documents.replace("Oxygen is a gas that", hostile))
        .unwrap();
    succeeds(&["train", &recipe, "train.steps=1"]);
    let run = text(home.path().join("run"));
    let commands = |letter: char| letter.is_control() || letter == '\u{202e}';
    let plain = genir_with_input(&["search", &run, "--top", "8"], "gas\u{1b}[2J");
    assert_says(
        &plain.stdout,
        &[r"query: gas\u{1b}[2J", r"Oxygen\u{1b}[31m is\u{9b}2J a\u{202e} gas that\u{7} fires"],
    );
    assert!(plain.stdout.lines().all(|line| !line.contains(commands)), "{:?}", plain.stdout);
    let json = succeeds(&["search", &run, "gas", "--top", "8", "--json"]).stdout;
    assert!(json.lines().all(|line| !line.contains(commands)), "{json:?}");
    let texts: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected = "Oxygen\u{1b}[31m is\u{9b}2J a\u{202e} gas\nthat\u{7} fires need, with the atomic number 8.";
    assert!(texts.iter().any(|line| line["text"] == expected), "{json}");
}

#[test]
fn no_control_character_of_a_recipe_or_an_argument_is_printed() {
    let home = TempDir::new().unwrap();
    let recipe = tiny_recipe(&home);
    let run = text(home.path().join("run\u{1b}[2J\u{9b}1m"));
    let shown = r"run\u{1b}[2J\u{9b}1m";
    let is_printed = |output: &str| {
        assert_says(output, &[shown]);
        let commands = |letter: char| letter.is_control() && letter != '\n';
        assert!(!output.contains(commands), "{output:?}");
    };
    let key = format!("run.directory={run}");
    is_printed(&succeeds(&["check", &recipe, &key]).stdout);
    is_printed(&succeeds(&["train", &recipe, &key, "train.steps=1"]).stderr);
    is_printed(&fs::read_to_string(Path::new(&run).join("log.txt")).unwrap());
    let best = format!("{run}/checkpoints/best");
    is_printed(&succeeds(&["eval", &run, &best]).stdout);
    is_printed(&succeeds(&["probe", &run, "--probe", "direct_effect", "--over", "all"]).stdout);
    is_printed(&genir_with_input(&["train", &recipe, &key], "").stderr);
    let copy = text(home.path().join("copy\u{1b}[2J.toml"));
    let copied = succeeds(&["recipes", "copy", "quickstart", &copy]).stdout;
    assert!(!copied.contains('\u{1b}') && copied.contains(r"\u{1b}[2J"), "{copied:?}");
}

#[test]
fn search_works_without_the_corpus_and_eval_names_what_is_missing() {
    let (home, run) = tiny_run();
    fs::rename(home.path().join("corpus"), home.path().join("moved")).unwrap();
    let found = genir_with_input(&["search", &run, "what is gold"], "");
    assert_eq!(found.code, 0, "{}", found.stderr);
    assert_eq!(found.stdout.lines().count(), 5, "docids alone: {}", found.stdout);
    assert_says(&found.stderr, &["without their text", "corpus"]);
    is_refused(&["eval", &run], &["cannot read", "corpus"]);

    let moved = text(home.path().join("moved"));
    let checkpoint = text(home.path().join("run/checkpoints/step-000001"));
    for target in [&run, &checkpoint] {
        let table = succeeds(&["eval", target, "--corpus", &moved]).stdout;
        assert_says(&table, &["| all ", "| seen ", "| unseen "]);
    }
    is_refused(
        &["eval", &run, "--corpus", "bundled:atlas"],
        &["trained on another corpus", "8 docids"],
    );
}

#[test]
fn a_path_that_is_not_a_checkpoint_is_refused() {
    let (home, run) = tiny_run();
    let checkpoints = home.path().join("run/checkpoints");
    for link in ["best", "latest"] {
        fs::remove_file(checkpoints.join(link)).unwrap();
    }
    // An unfinished checkpoint of a killed process does not count.
    fs::rename(checkpoints.join("step-000001"), checkpoints.join(".unfinished-step-000001"))
        .unwrap();
    is_refused(&["eval", &run], &["neither a checkpoint", "nor a run with one"]);
    is_refused(&["search", "no/such/run", "query"], &["no/such/run", "neither a checkpoint"]);
    is_refused(&["search", "checkpoints/atlas-base", "query"], &["atlas-base", "genir train"]);
}

#[test]
fn check_reports_five_mistakes_at_once() {
    let home = TempDir::new().unwrap();
    let recipe = tiny_recipe(&home);
    let mut wrong = fs::read_to_string(&recipe).unwrap();
    wrong = wrong.replace("batch_size = 8", "batch_size = 8, acumulate = 2");
    wrong = wrong.replace("learning_rate = 3e-3", "learning_rate = -1.0");
    wrong = wrong.replace("init = \"scratch\"", "init = \"scrach\"");
    wrong = wrong.replace("dropout = 0.1", "dropout = \"some\"");
    wrong += "[save]\nbest_metric = \"validation/hits@2\"\n";
    fs::write(&recipe, wrong).unwrap();
    is_refused(
        &["check", &recipe],
        &[
            "tiny.toml: 5 problems",
            "train.acumulate",
            "did you mean `accumulate`?",
            "optimizer.learning_rate = -1",
            "model.init = \"scrach\"",
            "model.dropout = \"some\"",
            "save.best_metric = \"validation/hits@2\"",
            "line 3: ",
        ],
    );
    assert!(!home.path().join("run").exists());
}

#[test]
fn check_prints_what_would_be_trained_and_writes_nothing() {
    let home = TempDir::new().unwrap();
    let recipe = tiny_recipe(&home);
    let before = everything(home.path());
    let shown = succeeds(&["check", &recipe, "trainable.select=restricted"]).stdout;
    assert_says(
        &shown,
        &[
            "8 documents",
            "decoder Stage II cross-attention",
            "| all ",
            "MiB",
            "probes    none",
            "prefix    encoder and decoder layer 0 are frozen: computed without dropout, once for 22 training texts",
            "no problems found",
        ],
    );
    let sometimes = "probes={every_epochs=2, at_start=true, logit_lens={every_steps=5, queries=3}}";
    let shown = succeeds(&["check", &recipe, sometimes]).stdout;
    assert_says(
        &shown,
        &[
            "probes    residual_contribution, direct_effect, ",
            "attention_writes before the first step, every 2 epochs, after the last step, on at most 200 validation",
            " queries; logit_lens before the first step, every 5 steps, after the last step, on at most 3 ",
        ],
    );
    let one = ["check", &recipe, "probes={run=[\"circuit\"], every_steps=1, at_end=false}"];
    assert_says(&succeeds(&one).stdout, &["probes    circuit every step, on at most"]);
    assert!(everything(home.path()) == before);
    is_refused(
        &["check", &recipe, "corpus.path=no/corpus", "model.base=./no/base"],
        &["2 problems", "corpus: ", "model.base: "],
    );
}

#[test]
fn an_existing_run_is_refused_and_untouched() {
    let (home, run) = tiny_run();
    let recipe = text(home.path().join("tiny.toml"));
    let before = everything(Path::new(&run));
    is_refused(&["train", &recipe, "train.steps=2"], &[&run, "already holds a run", "--overwrite"]);
    assert!(everything(Path::new(&run)) == before);

    succeeds(&["train", &recipe, "train.steps=2", "--overwrite"]);
    assert!(Path::new(&run).join("checkpoints/step-000002").is_dir());
    assert!(!Path::new(&run).join("checkpoints/step-000001").exists());

    let foreign = home.path().join("corpus");
    let before = everything(&foreign);
    let directory = format!("run.directory={}", foreign.display());
    is_refused(&["train", &recipe, &directory, "--overwrite"], &["not a run directory of genir"]);
    assert!(everything(&foreign) == before);
}

#[test]
fn a_broken_line_of_a_corpus_is_refused_with_its_number() {
    let home = TempDir::new().unwrap();
    let recipe = tiny_recipe(&home);
    let corpus = home.path().join("broken.jsonl");
    let line =
        |number: u32| format!("{{\"text_id\": {number}, \"text\": \"Document: text {number}\"}}\n");
    let mut lines: Vec<String> = (0..2000).map(line).collect();
    lines[1233] = "{\"text_id\": 1233, \"text\": \"Document: cut off\n".to_owned();
    fs::write(&corpus, lines.concat()).unwrap();
    let path = format!("corpus.path={}", corpus.display());
    for verb in ["check", "train"] {
        is_refused(&[verb, &recipe, &path], &["corpus: ", "broken.jsonl", "line 1234"]);
    }
    assert!(!home.path().join("run").exists());
}

#[test]
#[cfg(not(feature = "cuda"))]
fn a_gpu_is_an_error_in_a_build_without_cuda() {
    let (home, run) = tiny_run();
    let recipe = text(home.path().join("tiny.toml"));
    for device in ["cuda", "cuda:1"] {
        let words = [&format!("device `{device}`"), "this build of genir has no CUDA", "`cpu`"];
        let key = format!("run.device={device}");
        is_refused(&["train", &recipe, "--overwrite", &key], &words);
        is_refused(&["eval", &run, "--device", device], &words);
        is_refused(&["search", &run, "query", "--device", device], &words);
    }
    is_refused(&["search", &run, "query", "--device", "gpu"], &["device `gpu`", "auto, cpu, cuda"]);
    assert!(
        Path::new(&run).join("checkpoints/best/config.json").exists(),
        "the run is still there"
    );
}

#[test]
fn quiet_prints_nothing_and_logs_everything() {
    let home = TempDir::new().unwrap();
    let recipe = tiny_recipe(&home);
    let done = succeeds(&["train", &recipe, "train.steps=2", "--quiet"]);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", ""));
    let log = fs::read_to_string(home.path().join("run/log.txt")).unwrap();
    assert_says(&log, &["8 documents", "step 2: validation", "done in"]);
    let error = genir_with_input(&["--quiet", "train", &recipe], "").stderr;
    assert_says(&error, &["error: ", "already holds a run"]);
}

#[test]
fn the_device_option_overrides_the_recipe() {
    let home = TempDir::new().unwrap();
    let recipe = tiny_recipe(&home);
    for verb in ["check", "train"] {
        is_refused(
            &[verb, &recipe, "--device", "tpu"],
            &["run.device = \"tpu\": expected one of \"auto\", \"cpu\", \"cuda\""],
        );
    }
    let given = ["check", &recipe, "run.device=tpu", "--device", "cpu"];
    assert_says(&succeeds(&given).stdout, &["device cpu"]);
}

#[test]
fn a_closed_pipe_ends_a_command_without_a_message() {
    let (home, run) = tiny_run();
    let correct = text(home.path().join("correct.json"));
    for arguments in [
        vec!["recipes", "list"],
        vec!["recipes", "show", "quickstart"],
        vec!["check", "recipes/quickstart.toml", "--overwrite"],
        vec!["search", &run, "find a"],
        vec!["eval", &run],
        vec![
            "probe",
            &run,
            "--over",
            "all",
            "--probe",
            "direct_effect",
            "--write-correct",
            &correct,
        ],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_genir"));
        command.args(&arguments).current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("RUST_LOG");
        let output = command.stdout(writer).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{arguments:?}: {said}");
    }
    // Output files are still written.
    assert!(Path::new(&correct).exists());
}

#[test]
fn a_query_may_start_with_a_minus_and_mistyped_options_are_refused() {
    let (_home, run) = tiny_run();
    for query in ["-17 degrees", "-17", "- gold -", "--what is gold", " -x"] {
        let done = succeeds(&["search", &run, query, "-k", "2", "--json"]);
        assert_eq!(done.stdout.lines().count(), 2, "{query}: {}", done.stdout);
        let done = succeeds(&["search", &run, "--json", "--top=1", query]);
        assert_eq!(done.stdout.lines().count(), 1, "{query}: {}", done.stdout);
    }
    is_refused(
        &["search", &run, "--jsno"],
        &["`--jsno` is not an option of `genir search`", "--help"],
    );
    is_refused(&["search", &run, "-x"], &["`-x` is not an option"]);
}

#[test]
fn a_panic_says_what_to_report_and_ends_with_exit_code_101() {
    for backtrace in ["0", "1"] {
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_genir"))
            .args(["check", "quickstart", "run.seed=\u{1b}[2J"])
            .env("GENIR_TEST_PANIC", "1")
            .env("RUST_BACKTRACE", backtrace)
            .output()
            .unwrap();
        assert_eq!(done.status.code(), Some(101));
        let message = String::from_utf8(done.stderr).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        assert_says(
            &message,
            &[
                "error: genir has panicked: asked for by GENIR_TEST_PANIC",
                "src/cli/panic.rs:",
                &format!("version   {version} "),
                "genir check quickstart run.seed=",
                "This is a bug in genir",
                "report it with this message and the recipe",
                if backtrace == "0" { "RUST_BACKTRACE=1" } else { "genir::cli::main" },
            ],
        );
        assert!(!message.contains('\u{1b}'), "{message:?}");
    }
}
