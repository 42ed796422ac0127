//! Recipes: syntax, types, unknown keys, ranges, paths, keys that contradict each other, and what is no recipe at all.

use std::fs;

use serde_json::json;

use crate::harness::{Case, accepted, refused};
use crate::home::Home;

/// The tiny recipe with a line before it.
fn with_line(home: &Home, line: &str) -> Vec<String> {
    let text = format!("{line}\n{}", home.recipe());
    home.check_recipe(text)
}

pub const CASES: &[Case] = &[
    refused(
        "a section that is not closed",
        |home| home.check_recipe("[run\ndirectory = \"x\"\n"),
        &["tiny.toml", "line 1: "],
    ),
    refused(
        "a key without a value, and a key that is given twice",
        |home| home.check_recipe("[run]\nseed =\n[train]\nsteps = 1\nsteps = 2\n"),
        &["2 problems", "line 2: ", "line 5: duplicate key"],
    ),
    refused(
        "an unknown key",
        |home| home.check(&["train.batchsize=3"]),
        &["train.batchsize = 3: unknown key; did you mean `batch_size`?"],
    ),
    refused(
        "an unknown section",
        |home| home.check(&["trian.steps=3"]),
        &["trian: unknown section; did you mean `train`?"],
    ),
    refused(
        "60,000 unknown keys",
        |home| {
            let lines = (0..60_000).map(|at| format!("unknown_{at} = {at}\n"));
            with_line(home, &lines.collect::<String>())
        },
        &["60000 problems", "line 60000: unknown_59999 = 59999: unknown key"],
    ),
    refused(
        "a value of another type",
        |home| home.check(&["train.steps=many", "task.lowercase=1"]),
        &[
            "train.steps = \"many\": expected an integer of at least 1",
            "task.lowercase = 1: expected true or false",
        ],
    ),
    refused(
        "numbers out of range",
        |home| home.check(&["train.batch_size=0", "run.seed=-1", "model.dropout=1"]),
        &[
            "3 problems",
            "train.batch_size = 0: expected an integer of at least 1",
            "run.seed = -1: expected an integer of at least 0",
            "model.dropout = 1: expected a number from 0 to less than 1",
        ],
    ),
    refused(
        "NaN and infinity",
        |home| home.check(&["optimizer.learning_rate=nan", "task.ratio=inf"]),
        &[
            "optimizer.learning_rate = nan: expected a number above 0",
            "task.ratio = inf: expected a number above 0",
        ],
    ),
    refused(
        "an integer of more than 64 bits",
        |home| with_line(home, "save.keep_last = 99999999999999999999"),
        &["tiny.toml", "line 1: "],
    ),
    refused(
        "an empty recipe",
        |home| home.check_recipe(""),
        &["6 problems", "run.directory: missing: expected a string", "train.batch_size: missing"],
    ),
    refused(
        "`steps` beside `epochs`",
        |home| home.check(&["train.epochs=1"]),
        &["train.epochs = 1: ", "found both"],
    ),
    refused(
        "sizes for a model whose weights are read",
        |home| home.check(&["model.init=pretrained"]),
        &[
            "model.config: pretrained weights have the sizes of the base model",
            "init = \"scratch\"",
        ],
    ),
    refused(
        "a metric that no evaluation gives",
        |home| home.check(&["save.best_metric=test/hits@1"]),
        &["save.best_metric = \"test/hits@1\": ", "no evaluation computes"],
    ),
    refused(
        "a selector of no parameter",
        |home| home.check(&["trainable.select=decoder.mpl"]),
        &["trainable.select = \"decoder.mpl\": ", "did you mean `decoder.mlp`?"],
    ),
    refused(
        "sizes that no T5 has",
        |home| {
            let keys = ["d_model", "d_ff", "d_kv", "num_heads"]
                .map(|key| format!("model.config.{key}=9223372036854775807"));
            let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            keys.extend([
                "model.config.num_layers=1000000000",
                "model.config.num_decoder_layers=0",
            ]);
            home.check(&keys)
        },
        &[
            "6 problems",
            "model.config.d_model = 9223372036854775807: expected a whole number from 1 to 131072",
            "model.config.num_layers = 1000000000: expected a whole number from 1 to 1000",
            "model.config.num_decoder_layers = 0: expected an integer of at least 1",
        ],
    ),
    refused(
        "a model that the machine cannot hold",
        |home| home.check(&["model.config.d_model=131072", "model.config.num_layers=500"]),
        &["memory: the run needs about ", "MiB at its peak and can have "],
    ),
    refused(
        "texts of 200,000 tokens",
        |home| {
            let corpus = home.corpus();
            let text = "word ".repeat(200_000);
            let documents = json!([{"id": 7, "text": text}, {"id": "0", "text": "short"}]);
            fs::write(corpus.join("documents.json"), documents.to_string()).unwrap();
            let only = json!([{"id": "q", "query": text, "relevant_docs": [7]}]).to_string();
            for name in ["train", "val", "test"] {
                fs::write(corpus.join(format!("{name}_queries.json")), &only).unwrap();
            }
            home.check(&["task.max_tokens=200000"])
        },
        &["memory: the run needs about ", "MiB at its peak and can have ", "task.max_tokens"],
    ),
    refused(
        "validation queries of 200,000 tokens",
        |home| {
            let corpus = home.corpus();
            let query =
                json!([{"id": "q", "query": "word ".repeat(200_000), "relevant_docs": [7]}]);
            fs::write(corpus.join("val_queries.json"), query.to_string()).unwrap();
            home.check(&["task.query_tokens=200000"])
        },
        &["memory: the run needs about ", "MiB at its peak and can have ", "task.max_tokens"],
    ),
    refused(
        "an override without `=`",
        |home| home.check(&["train.steps"]),
        &["command line: train.steps: an override is key=value, or ~key to remove the key"],
    ),
    refused(
        "an override of 30,000 nested keys",
        |home| home.check(&[&format!("{}x=1", "a.".repeat(30_000))]),
        &["command line: a.a.a"],
    ),
    refused(
        "100,000 nested brackets in a recipe",
        |home| with_line(home, &format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000))),
        &["tiny.toml", "line 1: "],
    ),
    refused(
        "a recipe that does not exist",
        |home| ["check".to_owned(), crate::home::path(&home.at("gone.toml"))].to_vec(),
        &["gone.toml: 1 problem", "cannot be read", "No such file"],
    ),
    refused(
        "a directory in place of a recipe",
        |home| {
            home.directory("tiny.toml");
            home.check(&[])
        },
        &["tiny.toml", "it is a directory; expected a regular file"],
    ),
    refused(
        "a recipe that is not UTF-8",
        |home| home.check_recipe(b"[run]\ndirectory = \"caf\xe9\"\n"),
        &["tiny.toml", "UTF-8"],
    ),
    refused(
        "a recipe of NUL bytes",
        |home| home.check_recipe(vec![0; 5000]),
        &["tiny.toml", "line 1: "],
    ),
    refused(
        "a recipe of 1 TiB",
        |home| {
            home.sparse("tiny.toml", 1 << 40);
            home.check(&[])
        },
        &["tiny.toml", "1048576 MiB", "MiB"],
    ),
    refused(
        "a device in place of a recipe",
        |home| {
            home.link("tiny.toml", "/dev/zero");
            home.check(&[])
        },
        &["tiny.toml", "it is a device; expected a regular file"],
    ),
    refused(
        "a pipe in place of a recipe",
        |home| {
            home.fifo("tiny.toml");
            home.check(&[])
        },
        &["tiny.toml", "it is a named pipe; expected a regular file"],
    ),
    refused(
        "a recipe that is a loop of symbolic links",
        |home| {
            home.link("tiny.toml", "tiny.toml");
            home.check(&[])
        },
        &["tiny.toml", "Too many levels of symbolic links"],
    ),
    accepted(
        "a recipe with a byte order mark and Windows line endings",
        |home| {
            let text = home.recipe().replace('\n', "\r\n");
            home.check_recipe(format!("\u{feff}{text}"))
        },
        &["no problems found"],
    ),
    refused(
        "a corpus, a base and a run directory that cannot be used, all at once",
        |home| {
            let file = home.write("file", "");
            home.check(&[
                "corpus.path=./no/such/corpus",
                "model.base=./no/such/base",
                &format!("run.directory={}", file.display()),
            ])
        },
        &[
            "3 problems",
            "corpus: cannot read",
            "model.base: ",
            "run.directory: ",
            "not a directory",
        ],
    ),
];
