//! Corpora: files that cannot be read as they are, and records that are not what they should be.

use std::fs;

use serde_json::json;

use crate::harness::{Case, accepted, refused};
use crate::home::{Home, gzip, gzip_many, path};

const DOCUMENTS: &[u8] = br#"[{"id": 7, "text": "seven"}, {"id": "b", "text": "letter b"}]"#;
const BEIR_CORPUS: &[u8] = b"{\"_id\": \"7\", \"title\": \"Seven\", \"text\": \"a number\"}\n";
const BEIR_QUERIES: &[u8] = b"{\"_id\": \"q1\", \"text\": \"one?\"}\n";
const MIB: usize = 1 << 20;

/// A corpus in BEIR's layout with these judgements.
fn judged(home: &Home, judgements: &[u8]) -> Vec<String> {
    home.check_corpus(&[
        ("corpus.jsonl", BEIR_CORPUS),
        ("queries.jsonl", BEIR_QUERIES),
        ("qrels/train.tsv", judgements),
    ])
}

/// A corpus in the paper's layout with these training queries.
fn queried(home: &Home, queries: &[u8]) -> Vec<String> {
    home.check_corpus(&[("documents.json", DOCUMENTS), ("train_queries.json", queries)])
}

/// A file in DSI's layout.
fn dsi(home: &Home, lines: &[u8]) -> Vec<String> {
    home.check_corpus(&[("documents.jsonl", lines)])
}

fn documents(home: &Home, content: &[u8]) -> Vec<String> {
    home.check_corpus(&[("documents.json", content)])
}

fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

/// Files that cannot be read.
pub const FILES: &[Case] = &[
    refused(
        "a corpus that does not exist",
        |home| home.check_file(&home.at("gone")),
        &["corpus: cannot read", "gone", "No such file"],
    ),
    refused(
        "a directory without files of a corpus",
        |home| home.check_corpus(&[("notes.txt", b"")]),
        &[
            "found no corpus at",
            "documents.json",
            "corpus.jsonl with queries.jsonl",
            "*train*.jsonl",
        ],
    ),
    refused(
        "files of two layouts in one directory",
        |home| {
            home.check_corpus(&[
                ("documents.json", DOCUMENTS),
                ("corpus.jsonl", BEIR_CORPUS),
                ("queries.jsonl", BEIR_QUERIES),
            ])
        },
        &["more than one way", "layout paper", "layout beir", "set the layout"],
    ),
    refused(
        "a layout with a missing file",
        |home| {
            home.check_corpus(&[("queries.jsonl", BEIR_QUERIES), ("qrels/train.tsv", b"q\td\ts\n")])
        },
        &["has no corpus.jsonl, which the layout beir needs"],
    ),
    refused(
        "an empty file of documents (JSON)",
        |home| documents(home, b""),
        &["documents.json", "the file is empty"],
    ),
    refused(
        "an empty file of documents (JSON lines)",
        |home| dsi(home, b""),
        &["documents.jsonl has no documents"],
    ),
    refused(
        "an array without documents",
        |home| documents(home, b"[]"),
        &["documents.json has no documents"],
    ),
    refused(
        "a directory in place of a file of documents",
        |home| {
            home.directory("corpus/documents.json");
            home.check(&[])
        },
        &["documents.json"],
    ),
    refused(
        "a device in place of a corpus",
        |home| home.check_file("/dev/zero".as_ref()),
        &["/dev/zero", "it is a device; expected a regular file"],
    ),
    refused(
        "a device in place of a file of a corpus",
        |home| {
            home.corpus();
            home.link("corpus/train_queries.json", "/dev/zero");
            home.check(&[])
        },
        &["train_queries.json", "it is a device; expected a regular file"],
    ),
    refused(
        "a pipe in place of a corpus",
        |home| home.check_file(&home.fifo("pipe.jsonl")),
        &["pipe.jsonl", "it is a named pipe; expected a regular file"],
    ),
    refused(
        "a pipe in place of a file of a corpus",
        |home| {
            home.corpus();
            home.fifo("corpus/documents.json");
            home.check(&[])
        },
        &["documents.json", "it is a named pipe; expected a regular file"],
    ),
    refused(
        "a pipe in place of generated queries",
        |home| {
            let file = home.fifo("generated.jsonl");
            home.check(&[&format!("corpus.generated_queries={}", file.display())])
        },
        &["generated.jsonl", "it is a named pipe; expected a regular file"],
    ),
    refused(
        "a loop of symbolic links in place of a file of documents",
        |home| {
            home.corpus();
            home.link("corpus/documents.json", "documents.json");
            home.check(&[])
        },
        &["documents.json", "Too many levels of symbolic links"],
    ),
    refused(
        "a Git LFS pointer",
        |home| {
            documents(home, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
        },
        &["documents.json is a Git LFS pointer", "git lfs pull"],
    ),
    refused(
        "truncated gzip (JSON)",
        |home| home.check_corpus(&[("documents.json.gz", &gzip(DOCUMENTS)[..30])]),
        &["cannot read", "documents.json.gz"],
    ),
    refused(
        "truncated gzip (JSON lines)",
        |home| {
            let lines: String = (0..500)
                .map(|id| {
                    json!({"text_id": id, "text": format!("text {}", id * 7919 % 1013)}).to_string()
                        + "\n"
                })
                .collect();
            let packed = gzip(lines.as_bytes());
            home.check_corpus(&[("documents.jsonl.gz", &packed[..packed.len() / 2])])
        },
        &["cannot read", "documents.jsonl.gz"],
    ),
    refused(
        "truncated gzip (judgements)",
        |home| {
            let packed = gzip(b"query-id\tcorpus-id\tscore\nq1\t7\t1\n");
            home.check_corpus(&[
                ("corpus.jsonl", BEIR_CORPUS),
                ("queries.jsonl", BEIR_QUERIES),
                ("qrels/train.tsv.gz", &packed[..packed.len() - 9]),
            ])
        },
        &["cannot read", "train.tsv.gz"],
    ),
    refused(
        "gzip with a wrong checksum",
        |home| {
            let mut packed = gzip(DOCUMENTS);
            let at = packed.len() - 6;
            packed[at] ^= 1;
            home.check_corpus(&[("documents.json.gz", &packed)])
        },
        &["cannot read", "documents.json.gz", "checksum"],
    ),
    refused(
        "a gzip bomb of blank lines",
        |home| home.check_corpus(&[("documents.jsonl.gz", &gzip_many(&vec![b'\n'; MIB], 2000))]),
        &["documents.jsonl.gz", "unpacks to more than", "corpus.max_unpacked"],
    ),
    refused(
        "a gzip bomb of one line",
        |home| home.check_corpus(&[("documents.jsonl.gz", &gzip_many(&vec![b'a'; MIB], 2000))]),
        &["documents.jsonl.gz, line 1", "longer than 16 MiB", "corpus.max_record"],
    ),
    refused(
        "a gzip bomb of white space in an array",
        |home| home.check_corpus(&[("documents.json.gz", &gzip_many(&vec![b' '; MIB], 2000))]),
        &["documents.json.gz, element [0], line 1", "longer than 16 MiB", "corpus.max_record"],
    ),
    refused(
        "text that is not UTF-8",
        |home| {
            dsi(
                home,
                b"{\"text_id\": 1, \"text\": \"a\"}\n{\"text_id\": 2, \"text\": \"caf\xe9\"}\n",
            )
        },
        &["documents.jsonl, line 2: not UTF-8; convert the file to UTF-8"],
    ),
    refused(
        "text in UTF-16",
        |home| {
            let text = "{\"text_id\": 1, \"text\": \"a\"}\n";
            let bytes: Vec<u8> = [0xfeff]
                .into_iter()
                .chain(text.encode_utf16())
                .flat_map(u16::to_le_bytes)
                .collect();
            dsi(home, &bytes)
        },
        &["documents.jsonl, line 1: not UTF-8; convert the file to UTF-8"],
    ),
    refused(
        "a file of zeros (JSON)",
        |home| {
            home.sparse("corpus/documents.json", 1 << 40);
            home.check(&[])
        },
        &["documents.json", "element [0], line 1, column 1", "expected value"],
    ),
    refused(
        "a file of zeros (JSON lines)",
        |home| {
            home.sparse("corpus/documents.jsonl", 1 << 40);
            home.check(&[])
        },
        &["documents.jsonl, line 1", "longer than 16 MiB", "corpus.max_record"],
    ),
    refused(
        "a file of zeros (judgements)",
        |home| {
            home.sparse("corpus/qrels/train.tsv", 1 << 40);
            home.check_corpus(&[("corpus.jsonl", BEIR_CORPUS), ("queries.jsonl", BEIR_QUERIES)])
        },
        &["train.tsv, line 1", "longer than 16 MiB", "corpus.max_record"],
    ),
    refused(
        "more text than the recipe allows to unpack",
        |home| {
            let mut arguments =
                home.check_corpus(&[("documents.json.gz", &gzip(&vec![b' '; 2 * MIB]))]);
            arguments.push("corpus.max_unpacked=1".to_owned());
            arguments
        },
        &["documents.json.gz", "unpacks to more than 1 MiB", "corpus.max_unpacked"],
    ),
    accepted(
        "a byte order mark and Windows line endings",
        |home| {
            let corpus = home.corpus();
            for name in ["documents", "train_queries"] {
                let file = corpus.join(format!("{name}.json"));
                let text = fs::read_to_string(&file).unwrap().replace("},{", "},\r\n{");
                fs::write(file, format!("\u{feff}{text}\r\n")).unwrap();
            }
            home.check(&[])
        },
        &["no problems found"],
    ),
];

/// Records that are not what they should be.
pub const RECORDS: &[Case] = &[
    refused(
        "invalid JSON in an element",
        |home| documents(home, b"[{\"id\": 1, \"text\": \"a\"},\n{\"id\": 2, \"text\": b}]"),
        &["documents.json, element [1], line 2, column 19: ", "the rest of the file was not read"],
    ),
    refused(
        "invalid JSON in a line",
        |home| dsi(home, b"{\"text_id\": 1, \"text\": \"a\"}\nnot json at all\n"),
        &[
            "documents.jsonl, line 2: ",
            "`not json at all`",
            "expected {\"text_id\": 7, \"text\": \"...\"}",
        ],
    ),
    refused(
        "an object in place of an array",
        |home| documents(home, b"{\"id\": 1}"),
        &["documents.json", "invalid type: map, expected an array"],
    ),
    refused(
        "text after the array",
        |home| documents(home, br#"[{"id": 1, "text": "a"}] more"#),
        &["documents.json", "trailing characters"],
    ),
    refused(
        "a file that ends within an element",
        |home| documents(home, b"[{\"id\": 1, \"text\": \"a\"},\n{\"id\": 2, \"text\": \"b"),
        &["documents.json, element [1], line 2", "EOF while parsing a string"],
    ),
    refused(
        "a number in place of a text",
        |home| dsi(home, b"{\"text_id\": 1, \"text\": 17}\n"),
        &["documents.jsonl, line 1: invalid type: integer `17`, expected a string"],
    ),
    refused(
        "a text in place of the relevant documents",
        |home| queried(home, br#"[{"id": 1, "query": "a", "relevant_docs": "7"}]"#),
        &[
            "train_queries.json, element [0], line 1",
            "invalid type: string \"7\", expected a sequence",
        ],
    ),
    refused(
        "an id that is neither an integer nor a string",
        |home| documents(home, br#"[{"id": 1.5, "text": "a"}, {"id": [], "text": "b"}]"#),
        &["documents.json, element [0], line 1", "expected an id (an integer or a string)"],
    ),
    refused(
        "an id that is missing",
        |home| dsi(home, b"{\"text_id\": 1, \"text\": \"a\"}\n{\"text\": \"b\"}\n"),
        &["documents.jsonl, line 2: missing field `text_id`"],
    ),
    refused(
        "an empty id",
        |home| documents(home, br#"[{"id": "", "text": "a"}]"#),
        &["documents.json, element [0]", "an empty id"],
    ),
    refused(
        "a text that is missing",
        |home| documents(home, br#"[{"id": 1, "txt": "a"}]"#),
        &["documents.json, element [0], line 1", "missing field `text`"],
    ),
    refused(
        "a document without text",
        |home| documents(home, br#"[{"id": 1, "text": "a"}, {"id": 2, "text": " "}]"#),
        &[
            "1 document has no text",
            "corpus.on_problem = \"skip\"",
            "documents.json, element [1], line 1: document `2`",
        ],
    ),
    refused(
        "a document id that is used twice",
        |home| documents(home, br#"[{"id": 7, "text": "a"}, {"id": "7", "text": "b"}]"#),
        &["documents.json, element [1], line 1: `7` is the id of document number 1"],
    ),
    refused(
        "a query id that is used twice",
        |home| {
            queried(home, br#"[{"id": 1, "query": "a", "relevant_docs": [7]}, {"id": 1, "query": "b", "relevant_docs": [7]}]"#)
        },
        &["1 query id is reused", "train_queries.json, element [1], line 1: query `1`"],
    ),
    refused(
        "a judgement of a document that is not in the corpus",
        |home| queried(home, br#"[{"id": 1, "query": "a", "relevant_docs": [9]}]"#),
        &[
            "judgement is of a document that is not in the corpus",
            "train_queries.json, element [0], line 1: query `1`, document `9`",
        ],
    ),
    refused(
        "a judgement of a query that is not in the corpus",
        |home| judged(home, b"query-id\tcorpus-id\tscore\nq9\t7\t1\n"),
        &[
            "judgement is of a query that is not in the corpus",
            "train.tsv, line 2: query `q9`, document `7`",
        ],
    ),
    refused(
        "a query without a relevant document",
        |home| queried(home, br#"[{"id": 1, "query": "a", "relevant_docs": []}]"#),
        &["1 query has no relevant document", "train_queries.json, element [0], line 1: query `1`"],
    ),
    refused(
        "judgements without a header",
        |home| judged(home, b"q1\t7\t1\n"),
        &["train.tsv, line 1: found `q1", "expected the header `query-id<TAB>corpus-id<TAB>score`"],
    ),
    refused(
        "judgements with spaces in place of tabs",
        |home| judged(home, b"query-id\tcorpus-id\tscore\nq1 7 1\n"),
        &["train.tsv, line 2: found `q1 7 1`", "separated by tabs"],
    ),
    refused(
        "a grade that is not an integer",
        |home| judged(home, b"query-id\tcorpus-id\tscore\nq1\t7\t1.5\nq1\t7\tnan\n"),
        &[
            "2 lines",
            "train.tsv, line 2: found `q1",
            "whose grade `1.5` is not an integer",
            "`nan`",
        ],
    ),
    refused(
        "a lone surrogate in a text",
        |home| documents(home, br#"[{"id": 1, "text": "half \ud83d of a character"}]"#),
        &[
            "1 text has a lone surrogate",
            "documents.json, element [0], line 1: document `1`: \\ud83d",
        ],
    ),
    refused(
        "a lone surrogate in an id",
        |home| dsi(home, b"{\"text_id\": \"\\ud800\", \"text\": \"b\"}\n"),
        &[
            "documents.jsonl, line 1: a lone surrogate (\\ud800 to \\udfff, half of a character) in an id",
        ],
    ),
    refused(
        "a NUL byte in an id",
        |home| dsi(home, b"{\"text_id\": \"a\0\", \"text\": \"b\"}\n"),
        &["documents.jsonl, line 1: control character"],
    ),
    refused(
        "a NUL byte between records",
        |home| {
            dsi(home, b"{\"text_id\": 1, \"text\": \"a\"}\n\0{\"text_id\": 2, \"text\": \"b\"}\n")
        },
        &["documents.jsonl, line 2: expected value at column 1"],
    ),
    refused(
        "a line of 100 MB",
        |home| {
            let text = "a".repeat(100 * MIB);
            dsi(home, format!("{{\"text_id\": 0, \"text\": \"short\"}}\n{{\"text_id\": 1, \"text\": \"{text}\"}}\n").as_bytes())
        },
        &["documents.jsonl, line 2", "longer than 16 MiB", "corpus.max_record"],
    ),
    refused(
        "an element of 100 MB",
        |home| {
            let text = "a".repeat(100 * MIB);
            documents(
                home,
                format!(
                    "[{{\"id\": 0, \"text\": \"short\"}}, {{\"id\": 1, \"text\": \"{text}\"}}]"
                )
                .as_bytes(),
            )
        },
        &["documents.json, element [1], line 1", "longer than 16 MiB", "corpus.max_record"],
    ),
    refused(
        "an element whose unread part has 100 MB",
        |home| {
            let text = "a".repeat(100 * MIB);
            documents(
                home,
                format!("[{{\"id\": 0, \"other\": \"{text}\", \"text\": \"short\"}}]").as_bytes(),
            )
        },
        &["documents.json, element [0], line 1", "longer than 16 MiB", "corpus.max_record"],
    ),
    refused(
        "a line above the limit of the recipe",
        |home| {
            let text = "a".repeat(2 * MIB);
            let mut arguments =
                dsi(home, format!("{{\"text_id\": 1, \"text\": \"{text}\"}}\n").as_bytes());
            arguments.push("corpus.max_record=1".to_owned());
            arguments
        },
        &["documents.jsonl, line 1", "longer than 1 MiB", "corpus.max_record"],
    ),
    accepted(
        "a line of 20 MB, where the recipe allows it",
        |home| {
            let corpus = home.corpus();
            let text = "a word ".repeat(3 * MIB);
            let documents = json!([{"id": 7, "text": text}, {"id": "0", "text": "short"}]);
            fs::write(corpus.join("documents.json"), documents.to_string()).unwrap();
            for name in ["train", "val", "test"] {
                let query = json!([{"id": "q", "query": "seven", "relevant_docs": [7]}]);
                fs::write(corpus.join(format!("{name}_queries.json")), query.to_string()).unwrap();
            }
            home.check(&["corpus.max_record=64"])
        },
        &["no problems found"],
    ),
    refused(
        "100,000 nested brackets in a line",
        |home| {
            dsi(home, format!("{{\"text_id\": {}, \"text\": \"a\"}}\n", nested(100_000)).as_bytes())
        },
        &["documents.jsonl, line 1: "],
    ),
    refused(
        "100,000 nested brackets in an element",
        |home| documents(home, nested(100_000).as_bytes()),
        &["documents.json, element [0], line 1"],
    ),
    accepted(
        "100,000 nested brackets in a field that is not read",
        |home| {
            let corpus = home.corpus();
            let file = corpus.join("documents.json");
            let text = fs::read_to_string(&file).unwrap();
            let text =
                text.replacen("{\"id\"", &format!("{{\"other\": {}, \"id\"", nested(100_000)), 1);
            fs::write(file, text).unwrap();
            home.check(&[])
        },
        &["no problems found"],
    ),
    refused(
        "ids to leave out that no document has",
        |home| {
            home.corpus();
            home.check(&["corpus.leave_out.ids=[\"nobody\"]"])
        },
        &["1 of the ids to leave out belong to no document", "nobody"],
    ),
    refused(
        "all documents left out",
        |home| {
            home.corpus();
            home.check(&["corpus.leave_out.count=8"])
        },
        &["cannot leave out 8 of 8 documents"],
    ),
    refused(
        "a corpus of other documents than the checkpoint's",
        |home| {
            let run = home.run();
            let other = home.write("other/documents.json", br#"[{"id": "unknown", "text": "a"}]"#);
            home.write(
                "other/val_queries.json",
                br#"[{"id": "q", "query": "a", "relevant_docs": ["unknown"]}]"#,
            );
            let other = path(other.parent().unwrap());
            ["eval", &run, "--corpus", &other].map(str::to_owned).to_vec()
        },
        &[
            "the checkpoint was trained on another corpus: document `unknown` is not among its 8 docids",
        ],
    ),
];
