//! `genir inspect`: one query, its numbers held against the probes and against transformers, its files and errors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use genir::probe::{
    AblatedCell, ChosenBecause, Inspection, LensSite, Over, PatchedCell, ProbeResult, Record,
    Replacement,
};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::command::{Done, assert_says, genir_with_input, is_refused, succeeds, text};
use crate::interrupted_run::Home;
use crate::tiny_recipe::trained_tiny;

/// Models of the fixtures of probes: ReLU and tied in 3 layers; gated, untied in 8.
const MODELS: [&str; 2] = ["shallow", "deep"];

fn fixture(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/probes").join(model)
}

/// The arguments of a command on a fixture.
fn target(command: &str, model: &str) -> Vec<String> {
    let at = |name: &str| text(fixture(model).join(name));
    [command, &at("checkpoint"), "--corpus", &at("corpus"), "--device", "cpu"]
        .map(str::to_owned)
        .to_vec()
}

fn with<'a>(target: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    target.iter().map(String::as_str).chain(more.iter().copied()).collect()
}

/// Inspects a query of a fixture.
#[track_caller]
fn inspected(model: &str, more: &[&str]) -> (Inspection, Done) {
    let home = TempDir::new().unwrap();
    let file = home.path().join("query.json");
    let path = text(file.clone());
    let done =
        succeeds(&with(&target("inspect", model), &[more, &["--json", path.as_str()]].concat()));
    (Inspection::read(&file).unwrap(), done)
}

/// The validation queries of a fixture: id and text.
fn queries(model: &str) -> Vec<(String, String)> {
    let file = fixture(model).join("corpus/val_queries.json");
    let all: Vec<Value> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let text = |query: &Value, key: &str| query[key].as_str().unwrap().to_owned();
    all.iter().map(|query| (text(query, "id"), text(query, "query"))).collect()
}

#[test]
fn ranks_and_ablations_are_those_of_the_probes() {
    for (model, depth, candidates) in [("shallow", 3, "all"), ("deep", 8, "docids")] {
        let layers = (0..depth).flat_map(|layer| {
            ["self_attention", "cross_attention", "mlp"]
                .map(|component| format!("decoder.{component}[{layer}]"))
        });
        let patches: Vec<String> = layers.flat_map(|name| ["--patch".to_owned(), name]).collect();
        let home = TempDir::new().unwrap();
        let ranks = text(home.path().join("ranks.csv"));
        let mut arguments: Vec<&str> = patches.iter().map(String::as_str).collect();
        arguments.extend(["--probe", "logit_lens,stage_patching", "--over", "all"]);
        arguments.extend(["--vocabulary", candidates, "--format", "json", "--per-query", &ranks]);
        let json = succeeds(&with(&target("probe", model), &arguments)).stdout;
        let records: Vec<Record> = serde_json::from_str(&json).unwrap();
        let [lens, patching] = records.as_slice() else { panic!("two probes") };
        let (ProbeResult::LogitLens(lens), ProbeResult::StagePatching(patching)) =
            (&lens.result, &patching.result)
        else {
            panic!("not the probes")
        };
        let measured = &records[0].measured_on.measured_queries;
        let wrong = measured.iter().position(|query| query.ranks[0] > 1).unwrap();
        let mut cells = 0;
        for place in [0, 5, wrong] {
            let id = &measured[place].query;
            let options = ["--query-id", id, "--over", "all", "--vocabulary", candidates];
            let (found, _) = inspected(model, &options);
            assert_eq!(format!("@DOC_ID_{}@", found.docid.docid), measured[place].docid, "{id}");
            assert_eq!(found.docid.because, ChosenBecause::Relevant);
            assert_eq!(found.docid.rank, measured[place].ranks[0], "{id}");
            assert_eq!(found.lens.len(), 5 * depth);
            for reading in &found.lens {
                let at = |site: &&genir::probe::SiteRank| {
                    (site.layer, site.site) == (reading.layer, reading.site)
                };
                let expected = lens.sites.iter().find(at).unwrap();
                assert_eq!(reading.rank, expected.ranks.ranks[place], "{id}: {reading:?}");
            }
            let ablation = found.ablation.unwrap();
            assert_eq!((ablation.over, ablation.measured), (Over::All, measured.len()));
            assert_eq!(ablation.cells.len(), 9 + 3 * depth);
            for AblatedCell { selector, rank, .. } in &ablation.cells {
                let same = |cell: &&PatchedCell| {
                    cell.selector == *selector && cell.replacement == Replacement::Mean
                };
                let expected = patching.cells.iter().find(same).unwrap();
                assert_eq!(*rank, expected.ranks.ranks[place], "{id}: {selector}");
                cells += usize::from(*rank != found.docid.rank);
            }
        }
        assert!(cells > 3, "ablations change ranks: {cells}");
    }
}

#[test]
fn the_lens_after_the_last_layer_is_the_models_output_and_probabilities_sum_to_1() {
    for model in MODELS {
        let id = &queries(model)[1].0;
        let (found, _) = inspected(model, &["--query-id", id]);
        let last = found.lens_at(LensSite::ResidualPost).last().unwrap();
        assert_eq!(last.rank, found.docid.rank);
        assert!((last.logit - found.docid.logit).abs() < 1e-4, "{last:?} {:?}", found.docid);
        assert!((last.probability - found.docid.probability).abs() < 1e-5);
        assert!(found.docid.probability > 0.0 && found.docid.probability < 1.0);

        let all = ["--query-id", id, "--vocabulary", "docids", "-k", "1000"];
        let (found, _) = inspected(model, &all);
        let sum: f64 = found.documents.iter().map(|document| document.probability).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum} over {} documents", found.documents.len());
        assert!(found.documents.is_sorted_by(|one, next| one.logit >= next.logit));
        let searched = succeeds(&with(&target("search", model), &[&found.query.text, "--json"]));
        for (line, document) in searched.stdout.lines().zip(&found.documents) {
            let hit: Value = serde_json::from_str(line).unwrap();
            assert_eq!(hit["docid"], document.docid.as_str());
            assert!((hit["score"].as_f64().unwrap() - document.logit).abs() < 1e-6);
        }
    }
}

#[test]
fn weights_of_every_head_sum_to_1_over_the_tokens_of_the_query() {
    for model in MODELS {
        let (found, _) = inspected(model, &["--query-id", "val-0"]);
        assert_eq!(found.query.tokens.last().unwrap(), "</s>");
        assert!(found.query.tokens.len() > 5);
        for weights in found.attention.iter().flatten() {
            assert_eq!(weights.len(), found.query.tokens.len());
            let sum: f32 = weights.iter().sum();
            assert!((sum - 1.0).abs() < 1e-5 && weights.iter().all(|weight| *weight >= 0.0));
        }
    }
}

#[test]
fn replacing_an_output_by_that_of_the_query_itself_changes_nothing() {
    // The mean over one query is its own output.
    let home = TempDir::new().unwrap();
    let corpus = home.path().join("corpus");
    fs::create_dir(&corpus).unwrap();
    for entry in fs::read_dir(fixture("deep").join("corpus")).unwrap() {
        let file = entry.unwrap().path();
        fs::copy(&file, corpus.join(file.file_name().unwrap())).unwrap();
    }
    let (id, query) = queries("deep").remove(1);
    let only = json!([{ "id": id, "query": query, "relevant_docs": [19] }]);
    fs::write(corpus.join("val_queries.json"), only.to_string()).unwrap();
    let (checkpoint, corpus) = (text(fixture("deep").join("checkpoint")), text(corpus));
    let file = home.path().join("query.json");
    let to = text(file.clone());
    succeeds(&[
        "inspect",
        &checkpoint,
        "--corpus",
        &corpus,
        &query,
        "--over",
        "all",
        "--json",
        &to,
    ]);
    let found = Inspection::read(&file).unwrap();
    let ablation = found.ablation.unwrap();
    assert_eq!(ablation.measured, 1);
    for cell in ablation.cells {
        assert!(cell.change.abs() < 1e-4 && cell.rank == found.docid.rank, "{cell:?}");
    }
    let (of_many, _) = inspected("deep", &["--query-id", &id, "--over", "all"]);
    assert!(of_many.ablation.unwrap().cells.iter().any(|cell| cell.change.abs() > 0.1));
}

#[test]
fn means_are_over_the_correct_queries_where_there_are_any() {
    // Trained until it answers some of its validation queries, and not all.
    let home = trained_tiny(&[
        "train.steps=120",
        "optimizer.learning_rate=1e-2",
        "model.dropout=0",
        "model.config.num_decoder_layers=3",
    ]);
    let run = text(home.path().join("run"));
    let file = home.path().join("query.json");
    let path = text(file.clone());
    let ablation = |more: &[&str]| {
        let query = ["inspect", &run, "--query-id", "val-0", "--json", &path];
        succeeds(&[&query[..], more].concat());
        Inspection::read(&file).unwrap().ablation.unwrap()
    };
    let probe = ["probe", &run, "--probe", "residual_contribution", "--format", "json"];
    let records: Vec<Record> = serde_json::from_str(&succeeds(&probe).stdout).unwrap();
    let measured = &records[0].measured_on;
    let correct = measured.correct;
    assert!(correct > 0 && correct < measured.ranked, "{measured:?}");
    let found = ablation(&[]);
    assert_eq!((found.over, found.measured), (Over::Correct, correct));
    let all = ablation(&["--over", "all"]);
    assert_eq!((all.over, all.measured, all.ranked), (Over::All, found.ranked, found.ranked));
}

#[test]
fn activations_are_named_tensors_that_add_up() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("query.safetensors");
    let (found, _) =
        inspected("deep", &["--query-id", "val-2", "--activations", &text(file.clone())]);
    let bytes = fs::read(&file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let about = header.metadata().as_ref().unwrap();
    let tokens = found.query.tokens.len();
    assert_eq!(about["query"], found.query.text);
    assert_eq!(about["docid"], found.docid.docid);
    assert_eq!(about["tokens"], json!(found.query.tokens).to_string());
    assert_eq!(about["token_ids"], json!(found.query.token_ids).to_string());
    assert_says(&about["model"], &["deep/checkpoint"]);
    let values = |name: &str, shape: &[usize]| -> Vec<f32> {
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!(tensor.shape(), shape, "{name}");
        tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    values("encoder.last_hidden_state", &[tokens, 20]);
    values("decoder.last_hidden_state", &[1, 20]);
    let weights: Vec<f32> = found.attention.iter().flatten().flatten().copied().collect();
    assert_eq!(values("decoder.cross_attention_weights", &[8, 4, tokens]), weights);
    let of = |name: &str| values(&format!("decoder.{name}"), &[8, 20]);
    let (mid, mid_cross, post) =
        (of("residual_mid"), of("residual_mid_cross"), of("residual_post"));
    let [attention, cross, mlp] = ["self_attention_out", "cross_attention_out", "mlp_out"].map(of);
    let start = values("decoder.embedding", &[1, 20]);
    for at in 0..8 * 20 {
        let before = if at < 20 { start[at] } else { post[at - 20] };
        let near = |sum: f32, value: f32| (sum - value).abs() <= 1e-5 * value.abs().max(1.0);
        assert!(near(before + attention[at], mid[at]));
        assert!(near(mid[at] + cross[at], mid_cross[at]));
        assert!(near(mid_cross[at] + mlp[at], post[at]));
    }
    assert_eq!(tensors.len(), 10, "no others");

    let again = home.path().join("again.safetensors");
    inspected("deep", &["--query-id", "val-2", "--activations", &text(again.clone())]);
    assert!(bytes == fs::read(again).unwrap(), "the same bytes");
}

#[test]
fn transformers_computes_the_same_activations_lens_and_ablations() {
    let Some(python) = std::env::var_os("GENIR_PYTHON") else {
        eprintln!("skipped: GENIR_PYTHON names no Python with tests/python/requirements.txt");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/check_inspect.py");
    for model in MODELS {
        let home = TempDir::new().unwrap();
        let [json, tensors] =
            ["query.json", "query.safetensors"].map(|name| home.path().join(name));
        let files = ["--json", &text(json.clone()), "--activations", &text(tensors.clone())]
            .map(str::to_owned);
        for (query, _) in queries(model).iter().take(2) {
            let options = ["--query-id", query, "--over", "all"];
            let files: Vec<&str> = files.iter().map(String::as_str).collect();
            succeeds(&with(&target("inspect", model), &[&options[..], &files].concat()));
            let output = Command::new(&python)
                .arg(&script)
                .arg(fixture(model).join("checkpoint"))
                .arg(fixture(model).join("corpus/val_queries.json"))
                .args([&json, &tensors])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{model} {query}: {said}{error}");
            assert!(said.matches("OK ").count() > 20, "{said}");
        }
    }
}

#[test]
fn a_query_of_the_corpus_is_known_by_its_text_and_by_its_id() {
    let (by_id, done) = inspected("deep", &["--query-id", "val-0"]);
    assert_says(&done.stdout, &["query (validation query val-0): fenu", "| relevant |", "docid "]);
    assert_eq!(by_id.query.relevant, ["28", "2"]);
    assert_eq!(by_id.documents.iter().filter(|document| document.is_relevant).count(), 2);
    let text = format!("  {} ", by_id.query.text);
    let (by_text, _) = inspected("deep", &[&text]);
    assert_eq!(by_text.query.id.as_deref(), Some("val-0"));
    assert_eq!(by_text.docid, by_id.docid);

    let (unknown, done) = inspected("deep", &["fenu fenu pusiki"]);
    assert_eq!((unknown.query.id, unknown.query.split), (None, None));
    assert_eq!(unknown.docid.because, ChosenBecause::Top);
    assert_eq!(unknown.docid.docid, unknown.documents[0].docid);
    assert!(unknown.documents[0].text.is_some());
    assert_says(
        &done.stdout,
        &["the one ranked first", "Mean ablation", "Cross-attention", "Logit lens"],
    );

    // A document far down is listed with its rank.
    let (last, _) = inspected("deep", &["fenu fenu pusiki", "-k", "1000"]);
    let last = &last.documents.last().unwrap().docid;
    let (given, done) = inspected("deep", &["fenu fenu pusiki", "--docid", last, "-k", "2"]);
    assert_eq!((given.docid.because, &given.docid.docid), (ChosenBecause::Given, last));
    assert_eq!(given.documents.len(), 3);
    assert!(given.documents[2].rank > 20);
    assert_says(&done.stdout, &[&format!("docid {last}, as given: rank ")]);
}

#[test]
fn what_cannot_be_inspected_is_an_error_and_nothing_is_written() {
    let deep = target("inspect", "deep");
    let home = TempDir::new().unwrap();
    let json = text(home.path().join("query.json"));
    let refused = |more: &[&str], parts: &[&str]| {
        is_refused(&with(&deep, &[more, &["--json", json.as_str()]].concat()), parts);
        assert!(!Path::new(&json).exists(), "{more:?}");
    };
    refused(&[], &["no query", "--query-id"]);
    refused(&[" "], &["the query is empty"]);
    refused(&["--jsno"], &["`--jsno` is not an option of `genir inspect`"]);
    refused(
        &["--query-id", "val-00"],
        &["--query-id val-00", "no such query", "did you mean `val-0`?"],
    );
    refused(&["dopi", "--docid", "281"], &["--docid 281", "not one of the 40 docids"]);
    refused(&["dopi", "--stages", "0..1,1..2,2..9"], &["stages: ", "last layer is 7"]);
    refused(
        &["dopi", "--html", "no/such/place/query.html"],
        &["--html no/such/place/query.html: cannot be written"],
    );
    refused(&["dopi", "--activations", &json], &["--json is the same file"]);
    let own = text(fixture("deep").join("corpus/val_queries.json"));
    refused(&["dopi", "--html", &own], &["an input file of --corpus"]);
    let base = "checkpoints/atlas-base";
    let corpus = text(fixture("deep").join("corpus"));
    is_refused(&["inspect", base, "--corpus", &corpus, "dopi"], &["no docids", "genir train"]);
    let done = genir_with_input(&with(&deep, &["dopi", "--query-id", "val-0"]), "");
    assert_eq!(done.code, 2, "{}", done.stderr);
}

#[test]
fn a_query_of_which_the_tokenizer_leaves_nothing_is_refused() {
    let home = TempDir::new().unwrap();
    let of_run = Home::new(home.path(), &["train.steps=1"]);
    of_run.train();
    let run = text(of_run.run());
    // T5's normaliser removes zero-width spaces.
    is_refused(&["inspect", &run, "\u{200b}"], &["the query", "has no tokens"]);
    succeeds(&["inspect", &run, "x"]);
}

#[test]
fn an_id_of_two_queries_is_refused_and_a_corpus_without_queries_has_no_ablation() {
    let home = TempDir::new().unwrap();
    let checkpoint = text(fixture("shallow").join("checkpoint"));
    let documents = fixture("shallow").join("corpus/documents.json");
    fs::copy(documents, home.path().join("documents.json")).unwrap();
    for name in ["train", "val", "test"] {
        let queries = json!([{ "id": "1", "query": format!("pene {name}"), "relevant_docs": [0] }]);
        fs::write(home.path().join(format!("{name}_queries.json")), queries.to_string()).unwrap();
    }
    let corpus = text(home.path().to_path_buf());
    let at = ["inspect", checkpoint.as_str(), "--corpus", &corpus];
    let both = ["validation query \"pene val\"", "test query \"pene test\"", "give the text"];
    is_refused(&[&at[..], &["--query-id", "1"]].concat(), &both);
    let (text, json) = (["pene test"], ["--json", "-"]);
    let done = succeeds(&[&at[..], &text, &json].concat());
    let found: Inspection = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(found.query.id.as_deref(), Some("1"));
    assert_says(&done.stderr, &["query (test query 1): pene test", "Ranked documents"]);

    let bare = TempDir::new().unwrap();
    let documents = home.path().join("documents.json");
    fs::copy(documents, bare.path().join("documents.json")).unwrap();
    let corpus = bare.path().to_str().unwrap();
    let done = succeeds(&["inspect", &checkpoint, "--corpus", corpus, "pene fuse"]);
    assert_says(&done.stderr, &["skipped: mean ablation"]);
    assert!(!done.stdout.contains("Mean ablation"));
}

#[test]
fn the_page_shows_the_figures_and_loads_nothing() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("query.html");
    let hostile = "pusiki <script>alert(1)</script> \u{202e}\"'&";
    inspected("deep", &[hostile, "--html", &text(file.clone())]);
    let page = fs::read_to_string(&file).unwrap();
    for name in
        ["attention_over_layers", "attention_over_heads", "inspected_lens", "inspected_ablation"]
    {
        assert_eq!(page.matches(&format!("data-figure=\"{name}\"")).count(), 1, "{name}");
    }
    let heads = page.matches("panel-title\">Decoder layer ").count();
    assert_eq!(heads, 8);
    assert_says(&page, &["&lt;script&gt;alert(1)", "Ranked documents", "default-src 'none'"]);
    assert_eq!(page.matches("<script>").count(), 1, "the page's own");
    for loads in ["http://", "https://", "src=\"", "@import", "url(", "\u{202e}"] {
        assert!(!page.contains(loads), "{loads}");
    }
}
