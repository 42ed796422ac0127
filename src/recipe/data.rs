//! The training data: `[corpus]`, `[docids]` and `[task]`.

use std::path::PathBuf;

use serde::Serialize;

use super::ranges::{FRACTION, POSITIVE, fraction, positive};
use super::reader::Section;
use crate::corpus::{CorpusOptions, Layout, LeaveOut, OnProblem, ReadLimits};
use crate::docid::RowInit;
use crate::task::{Denoising, Encoding, Task, TaskOptions};

/// `[corpus]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CorpusSection {
    /// A directory, a file, `bundled:atlas` or `bundled:almanac`.
    pub path: String,
    /// The layout of its files.
    pub layout: Layout,
    /// A file with additional training queries: JSON lines of query and docid.
    pub generated_queries: Option<PathBuf>,
    /// Treatment of data with problems.
    pub on_problem: OnProblem,
    /// Maximum MiB of a line, or of an element of a JSON array.
    pub max_record: u64,
    /// Maximum MiB that a gzip file unpacks to; `None`: see [`ReadLimits::unpacked`].
    pub max_unpacked: Option<u64>,
    /// Documents that give no training example.
    #[serde(skip_serializing_if = "is_default")]
    pub leave_out: LeaveOut,
}

const MIB: u64 = 1 << 20;

impl CorpusSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            path: section.path("path").required(),
            layout: section.choice("layout").or(Layout::Auto),
            generated_queries: section.path("generated_queries").optional().map(PathBuf::from),
            on_problem: section.choice("on_problem").or(OnProblem::Refuse),
            max_record: section.integer("max_record", 1).or(ReadLimits::default().record / MIB),
            max_unpacked: section.integer("max_unpacked", 1).optional(),
            leave_out: section
                .optional_section("leave_out", read_leave_out)
                .flatten()
                .unwrap_or_default(),
        }
    }

    /// Returns the options for loading the corpus.
    pub fn options(&self) -> CorpusOptions {
        CorpusOptions {
            path: self.path.clone(),
            layout: self.layout,
            generated_queries: self.generated_queries.clone(),
            on_problem: self.on_problem,
            leave_out: self.leave_out.clone(),
            limits: ReadLimits {
                record: self.max_record.saturating_mul(MIB),
                unpacked: self.max_unpacked.map(|most| most.saturating_mul(MIB)),
            },
        }
    }
}

fn is_default(leave_out: &LeaveOut) -> bool {
    *leave_out == LeaveOut::default()
}

fn read_leave_out(section: &mut Section<'_, '_>) -> Option<LeaveOut> {
    let ids = section.strings("ids").optional();
    let count = section.integer("count", 1).optional();
    let seed = section.integer("seed", 0).optional();
    match (ids, count) {
        (Some(_), Some(_)) => {
            let message = "expected either `ids` or `count`, found both";
            section.problem("count", message.to_owned());
            None
        }
        (Some(ids), None) => {
            if seed.is_some() {
                let message = "`ids` are not random: `seed` applies to `count` only";
                section.problem("seed", message.to_owned());
            }
            Some(LeaveOut::Ids(ids))
        }
        (None, Some(count)) => Some(LeaveOut::Count { count, seed: seed.unwrap_or(1) }),
        (None, None) => {
            if !section.has("ids") && !section.has("count") {
                let message = "missing: expected `ids`, or `count` with a `seed`";
                section.problem("ids", message.to_owned());
            }
            None
        }
    }
}

/// `[docids]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DocidSection {
    /// Initialisation of docid embeddings.
    pub rows: RowInit,
    /// True if each of several processes has its own docid embeddings, with their gradients and their optimizer state.
    pub shard: bool,
}

impl DocidSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            rows: section.choice("rows").or(RowInit::Random),
            shard: section.boolean("shard").or(false),
        }
    }
}

/// `[task]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskSection {
    /// The tasks that are trained.
    pub tasks: Vec<Task>,
    /// Number of indexing examples for each retrieval example; `None`: every example once.
    pub ratio: Option<f64>,
    /// Default of `document_tokens` and `query_tokens`.
    pub max_tokens: usize,
    /// Maximum number of tokens of a document, `</s>` included.
    pub document_tokens: usize,
    /// Maximum number of tokens of a query, `</s>` included.
    pub query_tokens: usize,
    /// Prepended to each document.
    pub indexing_prefix: String,
    /// Prepended to each query.
    pub retrieval_prefix: String,
    /// True if texts are lowercased before encoding.
    pub lowercase: bool,
    /// The keys of denoising; `None` where it is not trained.
    #[serde(flatten)]
    pub denoising: Option<DenoisingKeys>,
}

/// The keys of `[task]` that denoising has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DenoisingKeys {
    /// Maximum number of tokens of a corrupted text, sentinels and `</s>` included.
    pub denoising_tokens: usize,
    /// Share of the tokens that are replaced.
    pub noise_density: f64,
    /// Mean number of tokens of a replaced span.
    pub mean_noise_span_length: f64,
    /// Number of denoising examples for each indexing or retrieval example; `None`: every piece of a document once.
    pub denoising_ratio: Option<f64>,
    /// Share of the documents that are held out of denoising, to evaluate its loss.
    pub denoising_held_out: f64,
}

impl DenoisingKeys {
    fn read(section: &mut Section<'_, '_>) -> Self {
        let default = Denoising::default();
        let least = Denoising::LEAST_TOKENS as i64;
        Self {
            denoising_tokens: section.integer("denoising_tokens", least).or(default.tokens),
            noise_density: section
                .float("noise_density", "a number above 0 and below 1", |density| {
                    density > 0.0 && density < 1.0
                })
                .or(default.noise_density),
            mean_noise_span_length: section
                .float("mean_noise_span_length", "a number of at least 1", |length| length >= 1.0)
                .or(default.mean_noise_span_length),
            denoising_ratio: section.float("denoising_ratio", POSITIVE, positive).optional(),
            denoising_held_out: section
                .float("denoising_held_out", FRACTION, fraction)
                .or(default.held_out),
        }
    }

    fn options(&self) -> Denoising {
        Denoising {
            tokens: self.denoising_tokens,
            noise_density: self.noise_density,
            mean_noise_span_length: self.mean_noise_span_length,
            ratio: self.denoising_ratio,
            held_out: self.denoising_held_out,
        }
    }
}

/// One token of text and `</s>`.
const MIN_TOKENS: i64 = 2;

impl TaskSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        let max_tokens = section.integer("max_tokens", MIN_TOKENS).or(32);
        let tasks = section.choices("tasks").or(Task::OF_DOCIDS.to_vec());
        let denoising = tasks.contains(&Task::Denoising).then(|| DenoisingKeys::read(section));
        if denoising.is_none() {
            let message = "a key of denoising, but `tasks` does not include denoising";
            section.refuse_keys_of(DenoisingKeys::read, message);
        }
        let mut tokens = |key| section.integer(key, MIN_TOKENS).or(max_tokens);
        let task = Self {
            max_tokens,
            document_tokens: tokens("document_tokens"),
            query_tokens: tokens("query_tokens"),
            tasks,
            ratio: section.float("ratio", POSITIVE, positive).optional(),
            indexing_prefix: section.string("indexing_prefix").or(String::new()),
            retrieval_prefix: section.string("retrieval_prefix").or(String::new()),
            lowercase: section.boolean("lowercase").or(false),
            denoising,
        };
        if task.tasks.is_empty() {
            section.problem("tasks", "expected at least one task".to_owned());
        } else if task.ratio.is_some() && task.of_docids() < Task::OF_DOCIDS.len() {
            let message = "a ratio mixes indexing and retrieval, but `tasks` does not have both";
            section.conflict("ratio", &["tasks"], message.to_owned());
        }
        if let Some(keys) = &task.denoising
            && task.of_docids() == 0
        {
            if keys.denoising_ratio.is_some() {
                let message = "the ratio mixes denoising with indexing or retrieval, but `tasks` has denoising only";
                section.conflict("denoising_ratio", &["tasks"], message.to_owned());
            }
            if keys.denoising_held_out == 0.0 {
                let message = "expected a number above 0: with denoising alone, the loss of held-out documents is what \
                               an evaluation measures and what selects the best checkpoint";
                section.conflict("denoising_held_out", &["tasks"], message.to_owned());
            }
        }
        task
    }

    /// Returns the number of tasks whose target is a docid.
    pub fn of_docids(&self) -> usize {
        self.tasks.iter().filter(|task| task.is_of_docids()).count()
    }

    /// Returns whether evaluations measure the denoising loss of held-out documents.
    pub fn evaluates_denoising(&self) -> bool {
        self.denoising.as_ref().is_some_and(|keys| keys.denoising_held_out > 0.0)
    }

    /// Returns the options for creating examples.
    pub fn options(&self) -> TaskOptions {
        TaskOptions {
            tasks: self.tasks.clone(),
            ratio: self.ratio,
            encoding: self.encoding(),
            denoising: self.denoising.as_ref().map(DenoisingKeys::options).unwrap_or_default(),
        }
    }

    /// Returns the encoding of documents and queries.
    pub fn encoding(&self) -> Encoding {
        Encoding {
            document_tokens: self.document_tokens,
            query_tokens: self.query_tokens,
            indexing_prefix: self.indexing_prefix.clone(),
            retrieval_prefix: self.retrieval_prefix.clone(),
            lowercase: self.lowercase,
        }
    }
}
