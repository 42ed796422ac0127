//! Training examples: the tokens of a text and the docid row that answers it.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Task, TaskError, TaskOptions};
use crate::corpus::Corpus;
use crate::docid::{EncodeOptions, TextTokenizer, TokenizerError};

/// Texts that are encoded at once: bounds the memory beside the arena.
const CHUNK: usize = 8192;

/// All training examples, indexing first, then retrieval.
///
/// The tokens of all texts lie in one arena; a query with several relevant documents is several examples
/// of one text.
#[derive(Debug, Clone, Default)]
pub struct Examples {
    tokens: Vec<u32>,
    /// Where each text ends in `tokens`.
    ends: Vec<usize>,
    /// Of each text: the id of its document or query.
    ids: Vec<String>,
    /// Of each example: its text.
    texts: Vec<u32>,
    /// Of each example: its docid row.
    targets: Vec<u32>,
    /// Number of indexing examples.
    indexing: usize,
    /// Examples that the left-out documents would have given, of both tasks.
    left_out: usize,
}

impl Examples {
    /// The examples of the tasks in `options`: each text of each document once; each training or generated query once
    /// for each of its relevant documents. Documents in `left_out` give no example of either task.
    pub fn build(
        corpus: &Corpus,
        tokenizer: &TextTokenizer,
        options: &TaskOptions,
        left_out: &HashSet<u32>,
    ) -> Result<Self, TaskError> {
        if options.tasks.is_empty() {
            return Err(TaskError::NoTask);
        }
        let mut examples = Self::default();
        if options.tasks.contains(&Task::Indexing) {
            let encoding = options.encoding.documents();
            let documents: Vec<Source> = (0..)
                .zip(&corpus.documents)
                .flat_map(|(row, document)| {
                    document.texts.iter().map(move |text| (&*document.id, &**text, vec![row]))
                })
                .collect();
            examples.add(documents, left_out, tokenizer, &encoding)?;
            examples.indexing = examples.texts.len();
        }
        if options.tasks.contains(&Task::Retrieval) {
            let encoding = options.encoding.queries();
            let queries: Vec<Source> = corpus
                .train
                .iter()
                .chain(&corpus.generated)
                .map(|query| {
                    let rows = query.relevant.iter().map(|judgement| judgement.document);
                    (&*query.id, &*query.text, rows.collect())
                })
                .collect();
            examples.add(queries, left_out, tokenizer, &encoding)?;
        }
        Ok(examples)
    }

    fn add(
        &mut self,
        mut sources: Vec<Source>,
        left_out: &HashSet<u32>,
        tokenizer: &TextTokenizer,
        encoding: &EncodeOptions,
    ) -> Result<(), TokenizerError> {
        for (_, _, rows) in &mut sources {
            let all = rows.len();
            rows.retain(|row| !left_out.contains(row));
            self.left_out += all - rows.len();
        }
        sources.retain(|(_, _, rows)| !rows.is_empty());
        for chunk in sources.chunks(CHUNK) {
            let texts: Vec<&str> = chunk.iter().map(|(_, text, _)| *text).collect();
            let encoded = tokenizer.encode_batch(&texts, encoding)?;
            for ((id, _, rows), tokens) in chunk.iter().zip(encoded) {
                let text = self.ends.len() as u32;
                self.tokens.extend(tokens);
                self.ends.push(self.tokens.len());
                self.ids.push((*id).to_owned());
                self.texts.extend(rows.iter().map(|_| text));
                self.targets.extend(rows);
            }
        }
        Ok(())
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Number of examples of one task.
    pub fn count(&self, task: Task) -> usize {
        match task {
            Task::Indexing => self.indexing,
            Task::Retrieval => self.len() - self.indexing,
        }
    }

    /// Number of examples that the left-out documents would have given.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// The token ids of example `index`, `</s>` at the end. Panics when there is no such example, as do
    /// the methods below.
    pub fn tokens(&self, index: usize) -> &[u32] {
        let text = self.texts[index] as usize;
        let start = if text == 0 { 0 } else { self.ends[text - 1] };
        &self.tokens[start..self.ends[text]]
    }

    /// The token ids of some examples, as [`Examples::tokens`] gives them.
    pub fn texts(&self, indices: &[u32]) -> Vec<&[u32]> {
        indices.iter().map(|&index| self.tokens(index as usize)).collect()
    }

    /// The docid row that answers example `index`.
    pub fn target(&self, index: usize) -> u32 {
        self.targets[index]
    }

    /// The task of example `index`.
    pub fn task(&self, index: usize) -> Task {
        if index < self.indexing { Task::Indexing } else { Task::Retrieval }
    }

    /// Groups of documents, by their rows, that have an indexing example of the same tokens: the model cannot tell
    /// them apart. Each group is in ascending order, and so are the groups by their first document.
    pub fn alike(&self) -> Vec<Vec<u32>> {
        let hash = |index: usize| {
            let mut hasher = DefaultHasher::new();
            self.tokens(index).hash(&mut hasher);
            hasher.finish()
        };
        let mut order: Vec<(u64, u32)> =
            (0..self.indexing).map(|index| (hash(index), index as u32)).collect();
        // Tokens only where two hashes are the same; then by index, so by row.
        order.sort_unstable_by(|&(one, first), &(other, second)| {
            one.cmp(&other)
                .then_with(|| self.tokens(first as usize).cmp(self.tokens(second as usize)))
                .then(first.cmp(&second))
        });
        let same = |one: &(u64, u32), other: &(u64, u32)| {
            one.0 == other.0 && self.tokens(one.1 as usize) == self.tokens(other.1 as usize)
        };
        let mut groups: Vec<Vec<u32>> = order
            .chunk_by(same)
            .map(|chunk| {
                let mut rows: Vec<u32> =
                    chunk.iter().map(|&(_, index)| self.target(index as usize)).collect();
                rows.dedup();
                rows
            })
            .filter(|rows| rows.len() > 1)
            .collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// Where example `index` comes from: `doc:<id>` or `query:<id>`.
    pub fn source_id(&self, index: usize) -> String {
        let id = &self.ids[self.texts[index] as usize];
        match self.task(index) {
            Task::Indexing => format!("doc:{id}"),
            Task::Retrieval => format!("query:{id}"),
        }
    }
}

/// Id, text and docid rows of a document or a query.
type Source<'a> = (&'a str, &'a str, Vec<u32>);
