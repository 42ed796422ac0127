//! Training examples: the tokens of a text, and the docid row that is its target. The examples of denoising are pieces
//! of documents, which are corrupted anew each time that they are seen.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Task, TaskError, TaskOptions};
use crate::corpus::Corpus;
use crate::docid::{EncodeOptions, TextTokenizer, TokenizerError};

/// Number of texts that are encoded at a time, to bound memory.
const CHUNK: usize = 8192;

/// All training examples: first those of indexing, then those of retrieval, then those of denoising.
///
/// The tokens of all texts are in one array. A query with several relevant documents gives several examples that share
/// one text.
#[derive(Debug, Clone, Default)]
pub struct Examples {
    tokens: Vec<u32>,
    /// The end of each text in `tokens`.
    ends: Vec<usize>,
    /// The id of each text's document or query.
    ids: Vec<String>,
    /// The text of each example.
    texts: Vec<u32>,
    /// The docid row of each example; for denoising, that of the document that the text is of.
    targets: Vec<u32>,
    /// Number of indexing examples.
    indexing: usize,
    /// Number of retrieval examples.
    retrieval: usize,
    /// Number of examples of all tasks that are left out with their documents.
    left_out: usize,
}

impl Examples {
    /// Creates the examples of the tasks in `options`: one for each text of each document, and one for each pair of a
    /// training or generated query and a relevant document; for denoising, one for each piece of each document that is
    /// not held out ([`super::Denoising::held_out_documents`]). Documents in `left_out` give no example of any task.
    ///
    /// # Errors
    /// [`TaskError::NoTask`] without tasks; a setting of denoising that is out of its range; the error of the tokenizer
    /// for a text that cannot be encoded.
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
            examples.retrieval = examples.texts.len() - examples.indexing;
        }
        if options.tasks.contains(&Task::Denoising) {
            options.denoising.check()?;
            let held_out = options.denoising.held_out_documents(corpus);
            let is_trained = |row: &u32| !left_out.contains(row) && !held_out.contains(row);
            examples.add_pieces(corpus, is_trained, tokenizer, options)?;
        }
        Ok(examples)
    }

    /// Creates the examples of denoising that a run is evaluated on: the pieces of the documents that are held out. None
    /// where denoising is not trained.
    ///
    /// # Errors
    /// As for [`Examples::build`].
    pub fn held_out(
        corpus: &Corpus,
        tokenizer: &TextTokenizer,
        options: &TaskOptions,
        left_out: &HashSet<u32>,
    ) -> Result<Self, TaskError> {
        let mut examples = Self::default();
        if options.tasks.contains(&Task::Denoising) {
            options.denoising.check()?;
            let held_out = options.denoising.held_out_documents(corpus);
            let is_read = |row: &u32| !left_out.contains(row) && held_out.contains(row);
            examples.add_pieces(corpus, is_read, tokenizer, options)?;
        }
        Ok(examples)
    }

    /// Adds an example of denoising for each piece of the documents in the rows that `are_read`.
    fn add_pieces(
        &mut self,
        corpus: &Corpus,
        are_read: impl Fn(&u32) -> bool,
        tokenizer: &TextTokenizer,
        TaskOptions { encoding, denoising, .. }: &TaskOptions,
    ) -> Result<(), TokenizerError> {
        let whole = EncodeOptions {
            max_tokens: usize::MAX,
            prefix: String::new(),
            lowercase: encoding.lowercase,
        };
        let rows = (0..).zip(&corpus.documents).filter(|(row, _)| are_read(row));
        let sources: Vec<(u32, &str, &str)> = rows
            .flat_map(|(row, document)| {
                document.texts.iter().map(move |text| (row, &*document.id, &**text))
            })
            .collect();
        for chunk in sources.chunks(CHUNK) {
            let texts: Vec<&str> = chunk.iter().map(|(_, _, text)| *text).collect();
            let encoded = tokenizer.encode_batch(&texts, &whole)?;
            for ((row, id, _), tokens) in chunk.iter().zip(encoded) {
                // `</s>` comes after the corrupted text.
                let mut rest = &tokens[..tokens.len().saturating_sub(1)];
                for length in denoising.pieces(rest.len()) {
                    let piece;
                    (piece, rest) = rest.split_at(length.min(rest.len()));
                    self.texts.push(self.ends.len() as u32);
                    self.tokens.extend_from_slice(piece);
                    self.ends.push(self.tokens.len());
                    self.ids.push((*id).to_owned());
                    self.targets.push(*row);
                }
            }
        }
        Ok(())
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

    /// Returns the number of examples.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Returns whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Returns the number of examples of one task.
    pub fn count(&self, task: Task) -> usize {
        match task {
            Task::Indexing => self.indexing,
            Task::Retrieval => self.retrieval,
            Task::Denoising => self.len() - self.of_docids(),
        }
    }

    /// Returns the number of examples whose target is a docid: they come first.
    pub fn of_docids(&self) -> usize {
        self.indexing + self.retrieval
    }

    /// Returns the number of examples that are left out with their documents.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Returns the token ids of an example, which end with `</s>`; those of denoising do not. Panics if there is no such
    /// example, as do the methods below.
    pub fn tokens(&self, index: usize) -> &[u32] {
        let text = self.texts[index] as usize;
        let start = if text == 0 { 0 } else { self.ends[text - 1] };
        &self.tokens[start..self.ends[text]]
    }

    /// Returns the token ids of several examples; see [`Examples::tokens`].
    pub fn texts(&self, indices: &[u32]) -> Vec<&[u32]> {
        indices.iter().map(|&index| self.tokens(index as usize)).collect()
    }

    /// Returns the target docid row of an example.
    pub fn target(&self, index: usize) -> u32 {
        self.targets[index]
    }

    /// Returns the task of an example.
    pub fn task(&self, index: usize) -> Task {
        match index {
            _ if index < self.indexing => Task::Indexing,
            _ if index < self.of_docids() => Task::Retrieval,
            _ => Task::Denoising,
        }
    }

    /// Returns groups of documents that have an indexing example of the same tokens, which the model cannot
    /// distinguish. Each group is a list of docid rows in ascending order; groups are sorted by their first row.
    pub fn duplicate_documents(&self) -> Vec<Vec<u32>> {
        let hash = |index: usize| {
            let mut hasher = DefaultHasher::new();
            self.tokens(index).hash(&mut hasher);
            hasher.finish()
        };
        let mut order: Vec<(u64, u32)> =
            (0..self.indexing).map(|index| (hash(index), index as u32)).collect();
        // Tokens are compared only if the hashes are equal. The last key is the index, so the row.
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

    /// Returns the source of an example: `doc:<id>` or `query:<id>`.
    pub fn source_id(&self, index: usize) -> String {
        let id = &self.ids[self.texts[index] as usize];
        match self.task(index) {
            Task::Indexing | Task::Denoising => format!("doc:{id}"),
            Task::Retrieval => format!("query:{id}"),
        }
    }
}

/// The id, the text and the docid rows of a document or a query.
type Source<'a> = (&'a str, &'a str, Vec<u32>);
