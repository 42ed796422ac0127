//! BM25 on the text of a corpus: the baseline that a generative model is compared with.
//!
//! Tokens and weights are those of the crate `bm25` (Unicode words in lower case, Snowball stemmers, NLTK's stop words;
//! Lucene's formula, whose constant factor `k1 + 1` changes no rank). Its scorer is not used: it looks every query token
//! up in every document by a linear search, which took 38 s for 3,166 queries on 10,000 documents where the postings
//! lists below take 1 s, and it hashes tokens to 32 bits.

use std::cmp::Ordering;
use std::collections::HashMap;

use ::bm25::{DefaultTokenizer, Embedder, EmbedderBuilder, Language, TokenEmbedder};
use rayon::prelude::*;
use serde::Serialize;

use super::evaluation::{EvaluationResult, QuerySet, evaluate_by};
use super::measure::JudgedRanks;
use super::ranking::{EncodedQuery, Rank, Ranking};
use super::run_files::{RunFileError, RunWriter};
use super::ties::DocidOrder;
use crate::choice::choice;
use crate::corpus::Corpus;
use crate::docid::DocidVocabulary;
use crate::processes::{Group, ProcessesError, World};

choice! {
    /// The language of stemmer and stop words.
    Bm25Language {
        /// Arabic.
        Arabic = "arabic",
        /// Danish.
        Danish = "danish",
        /// Dutch.
        Dutch = "dutch",
        /// English. Letters are also folded to ASCII (`é` to `e`).
        English = "english",
        /// French.
        French = "french",
        /// German.
        German = "german",
        /// Greek.
        Greek = "greek",
        /// Hungarian.
        Hungarian = "hungarian",
        /// Italian.
        Italian = "italian",
        /// Norwegian.
        Norwegian = "norwegian",
        /// Portuguese.
        Portuguese = "portuguese",
        /// Romanian.
        Romanian = "romanian",
        /// Russian.
        Russian = "russian",
        /// Spanish.
        Spanish = "spanish",
        /// Swedish.
        Swedish = "swedish",
        /// Turkish.
        Turkish = "turkish",
    }
}

impl Bm25Language {
    fn of_library(self) -> Language {
        match self {
            Self::Arabic => Language::Arabic,
            Self::Danish => Language::Danish,
            Self::Dutch => Language::Dutch,
            Self::English => Language::English,
            Self::French => Language::French,
            Self::German => Language::German,
            Self::Greek => Language::Greek,
            Self::Hungarian => Language::Hungarian,
            Self::Italian => Language::Italian,
            Self::Norwegian => Language::Norwegian,
            Self::Portuguese => Language::Portuguese,
            Self::Romanian => Language::Romanian,
            Self::Russian => Language::Russian,
            Self::Spanish => Language::Spanish,
            Self::Swedish => Language::Swedish,
            Self::Turkish => Language::Turkish,
        }
    }
}

/// Parameters and text processing of BM25. The defaults are those of Pyserini.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bm25Options {
    /// Saturation of term frequencies, from 0.
    pub k1: f64,
    /// Normalisation by document length, from 0 (none) to 1.
    pub b: f64,
    /// The language of stemmer and stop words.
    pub language: Bm25Language,
    /// True if words are reduced to their stems.
    pub stemming: bool,
    /// True if stop words are removed.
    pub remove_stop_words: bool,
}

impl Bm25Options {
    /// The library that tokenizes and weighs, with its version.
    pub const LIBRARY: &str = "bm25 2.3.2";
}

impl Default for Bm25Options {
    fn default() -> Self {
        let language = Bm25Language::English;
        Self { k1: 0.9, b: 0.4, language, stemming: true, remove_stop_words: true }
    }
}

/// Tokens stand for themselves; the library's own embedders hash them.
struct Words;

impl TokenEmbedder for Words {
    type EmbeddingSpace = String;

    fn embed(token: &str) -> String {
        token.to_owned()
    }
}

/// Documents that are tokenized at once.
const CHUNK: usize = 4096;

/// Queries of a batch.
const QUERIES: usize = 128;

/// An inverted index of a corpus with the BM25 weight of each word in each document. A document is all of its texts.
pub struct Bm25 {
    embedder: Embedder<Words, DefaultTokenizer>,
    /// For each word the documents with it, in order, and its weight there without the inverse document frequency.
    postings: HashMap<String, Vec<(u32, f32)>>,
    documents: usize,
}

impl Bm25 {
    /// Indexes the documents of `corpus`.
    pub fn new(corpus: &Corpus, options: &Bm25Options) -> Self {
        let texts: Vec<String> =
            corpus.documents.iter().map(|document| document.texts.join("\n")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let tokenizer = DefaultTokenizer::builder()
            .language_mode(options.language.of_library())
            // The stemmers of other languages need their letters.
            .normalization(options.language == Bm25Language::English)
            .stemming(options.stemming)
            .stopwords(options.remove_stop_words)
            .build();
        let embedder = EmbedderBuilder::with_tokenizer_and_fit_to_corpus(tokenizer, &texts)
            .k1(options.k1 as f32)
            .b(options.b as f32)
            .build();
        let mut index = Self { embedder, postings: HashMap::new(), documents: texts.len() };
        let mut row = 0;
        for texts in texts.chunks(CHUNK) {
            let words: Vec<_> = texts.par_iter().map(|text| index.words(text)).collect();
            for words in words {
                for (word, weight) in words {
                    index.postings.entry(word).or_default().push((row, weight));
                }
                row += 1;
            }
        }
        index
    }

    /// Returns the distinct words of a text with their weights.
    fn words(&self, text: &str) -> Vec<(String, f32)> {
        let tokens = self.embedder.embed(text).0.into_iter();
        let mut words: Vec<_> = tokens.map(|token| (token.index, token.value)).collect();
        words.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        words.dedup_by(|(a, _), (b, _)| a == b);
        words
    }

    /// Returns the score of each document for a query, `[documents]`: 0 if it has no word of the query. A word that the
    /// query repeats counts as often.
    fn scores(&self, query: &str) -> Vec<f32> {
        let mut scores = vec![0.0; self.documents];
        for token in &self.embedder.embed(query).0 {
            let Some(postings) = self.postings.get(&token.index) else { continue };
            let (all, with_it) = (self.documents as f64, postings.len() as f64);
            let frequency = ((all - with_it + 0.5) / (with_it + 0.5)).ln_1p() as f32;
            for &(row, weight) in postings {
                scores[row as usize] += frequency * weight;
            }
        }
        scores
    }

    /// Ranks the documents with a word of `query`. A relevant document without one has the rank
    /// [`JudgedRanks::NOT_RETRIEVED`], and the list of the best has at most `depth` documents. Documents with equal
    /// scores are in `order`.
    pub fn rank(&self, query: &str, relevant: &[u32], order: &DocidOrder, depth: usize) -> Ranking {
        let scores = self.scores(query);
        let places = order.positions();
        let rank_of = |&row: &u32| {
            let (own, place) = (scores[row as usize], places[row as usize]);
            if own <= 0.0 {
                return Rank { rank: JudgedRanks::NOT_RETRIEVED, is_tied: false, is_nan: false };
            }
            let (mut before, mut equal) = (0, 0);
            for (&score, &other) in scores.iter().zip(places) {
                equal += u32::from(score == own);
                before += u32::from(score > own || (score == own && other < place));
            }
            Rank { rank: 1 + before, is_tied: equal > 1, is_nan: false }
        };
        let relevant = relevant.iter().map(rank_of).collect();
        let mut best: Vec<(u32, f32)> = Vec::new();
        if depth > 0 {
            best.extend((0..).zip(scores).filter(|(_, score)| *score > 0.0));
            let earlier = |&(a, of_a): &(u32, f32), &(b, of_b): &(u32, f32)| -> Ordering {
                let by_place = places[a as usize].cmp(&places[b as usize]);
                of_b.total_cmp(&of_a).then(by_place)
            };
            if depth < best.len() {
                best.select_nth_unstable_by(depth, earlier);
                best.truncate(depth);
            }
            best.sort_unstable_by(earlier);
        }
        Ranking { relevant, best }
    }

    /// Ranks the documents for each query of `set`, whose texts are `texts` (see [`QuerySet::without_tokens`]), and writes
    /// the first `depth` of each ranking to `run`, if given. The processes of `world` share the queries, and all of them have
    /// the result.
    ///
    /// # Errors
    /// The run file cannot be written; or the processes cannot exchange their rankings.
    pub fn evaluate<E: From<RunFileError> + From<ProcessesError>>(
        &self,
        (set, texts): (&QuerySet, &[&str]),
        (docids, depth): (&DocidVocabulary, usize),
        run: Option<&mut RunWriter>,
        world: Option<&World>,
    ) -> Result<EvaluationResult, E> {
        let (order, group) = (DocidOrder::new(docids), Group::of(world));
        let queries: Vec<_> = set.queries.iter().zip(texts).collect();
        let batches: Vec<_> = queries.chunks(QUERIES).collect();
        let rank = |batch: &&[(&EncodedQuery, &&str)]| -> Vec<Ranking> {
            let queries = batch.par_iter();
            let ranked = queries
                .map(|(query, text)| self.rank(text, &query.relevant, &order, depth))
                .collect();
            tracing::debug!("{group:?} has ranked {} queries by BM25", batch.len());
            ranked
        };
        evaluate_by(
            set,
            run.map(|run| (run, docids)),
            || Ok(()),
            |each| {
                let mut index = 0..;
                group.share(&batches, rank, |rankings| {
                    let mut ranked = rankings.into_iter().zip(index.by_ref());
                    ranked.try_for_each(|(ranking, index)| each(index, ranking))
                })
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::Document;

    fn corpus(texts: &[&str]) -> (Corpus, DocidOrder) {
        let document = |(row, text): (usize, &&str)| Document {
            id: format!("d{row}"),
            texts: if text.is_empty() { Vec::new() } else { vec![(*text).to_owned()] },
        };
        let documents: Vec<Document> = texts.iter().enumerate().map(document).collect();
        let corpus = Corpus { documents, ..Corpus::default() };
        let order = DocidOrder::new(&DocidVocabulary::from_corpus(&corpus).unwrap());
        (corpus, order)
    }

    const PLAIN: Bm25Options = Bm25Options {
        k1: 0.9,
        b: 0.4,
        language: Bm25Language::English,
        stemming: false,
        remove_stop_words: false,
    };

    #[test]
    fn scores_are_those_of_lucenes_formula() {
        let (corpus, order) = corpus(&["a b b c", "a a", "", "b d e f g h", "x"]);
        // Mean length (4 + 2 + 0 + 6 + 1) / 5; b and a are in two documents of five each.
        for (k1, b) in [(0.9, 0.4), (1.2, 0.75), (0.0, 0.0), (2.0, 1.0)] {
            let index = Bm25::new(&corpus, &Bm25Options { k1, b, ..PLAIN });
            let weight = |count: f64, length: f64| {
                let frequency = (1.0_f64 + (5.0 - 2.0 + 0.5) / (2.0 + 0.5)).ln();
                frequency * count * (k1 + 1.0) / (count + k1 * (1.0 - b + b * length / 2.6))
            };
            // `a` is asked twice and counts twice.
            let expected = [
                weight(2.0, 4.0) + 2.0 * weight(1.0, 4.0),
                2.0 * weight(2.0, 2.0),
                0.0,
                weight(1.0, 6.0),
                0.0,
            ];
            for (score, expected) in index.scores("b A a nowhere").iter().zip(expected) {
                assert!(
                    (f64::from(*score) - expected).abs() < 1e-5,
                    "{k1} {b}: {score} {expected}"
                );
            }
        }
        let index = Bm25::new(&corpus, &PLAIN);
        let ranking = index.rank("b a", &[3, 2, 1], &order, 2);
        let ranks: Vec<u32> = ranking.relevant.iter().map(|found| found.rank).collect();
        assert_eq!(ranks, [3, JudgedRanks::NOT_RETRIEVED, 2]);
        assert_eq!(ranking.best.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(index.rank("nowhere", &[0], &order, 5).best, []);
    }

    #[test]
    fn documents_with_equal_scores_are_in_trec_evals_order() {
        let texts = vec!["the same words"; 12];
        let (corpus, order) = corpus(&texts);
        let index = Bm25::new(&corpus, &PLAIN);
        let all: Vec<u32> = (0..12).collect();
        let ranking = index.rank("same", &all, &order, 12);
        let ids: Vec<String> = ranking.best.iter().map(|(row, _)| format!("d{row}")).collect();
        assert!(ids.is_sorted_by(|a, b| a > b), "descending, as strings: {ids:?}");
        for (place, (row, _)) in (1..).zip(&ranking.best) {
            let found = ranking.relevant[*row as usize];
            assert!(found.rank == place && found.is_tied, "{found:?}");
        }
        let first = index.rank("same", &[], &order, 5).best;
        assert_eq!(first, ranking.best[..5], "a shorter list is the beginning of the longer one");
    }

    #[test]
    fn stemming_and_stop_words_are_as_asked() {
        let (corpus, _) = corpus(&["The cats were running through Zürich and Москва", "nothing"]);
        let finds =
            |options: &Bm25Options, query: &str| Bm25::new(&corpus, options).scores(query)[0] > 0.0;
        let stemmed = Bm25Options { stemming: true, ..PLAIN };
        let all = Bm25Options::default();
        for (query, expected) in [
            ("cat runs", [false, true, true]),
            ("the", [true, true, false]),
            ("ZURICH", [true, true, true]),
            ("", [false; 3]),
            ("\u{0}\u{202e} 🦀 —", [false; 3]),
        ] {
            assert_eq!(
                [PLAIN, stemmed, all].map(|options| finds(&options, query)),
                expected,
                "{query:?}"
            );
        }
        let russian = Bm25Options { language: Bm25Language::Russian, ..all };
        assert!(finds(&russian, "москвы") && !finds(&russian, "moskva"), "letters are kept");
        assert!(finds(&all, "moskva") && finds(&all, "МОСКВА"), "and folded for English");
    }

    #[test]
    fn the_version_in_results_is_that_of_the_library() {
        let lock = include_str!("../../Cargo.lock");
        let (name, version) = Bm25Options::LIBRARY.split_once(' ').unwrap();
        assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")));
    }
}
