//! Denoising: T5's span corruption of the corpus's own texts.
//!
//! Tokens of a text are replaced in spans; each span becomes one sentinel token, `<extra_id_0>`, `<extra_id_1>` and so
//! on. The target is each sentinel with the tokens that it replaces, then `</s>`. The numbers of noise tokens and of
//! spans, and the lengths of the spans, are those of `random_spans_noise_mask` in T5's code (and in Hugging Face's
//! `run_t5_mlm_flax.py`).

use std::collections::HashSet;

use rand::Rng;
use rand::seq::SliceRandom;

use super::TaskError;
use crate::corpus::Corpus;
use crate::docid::TextTokenizer;
use crate::random;

/// The settings of denoising.
#[derive(Debug, Clone, PartialEq)]
pub struct Denoising {
    /// Maximum number of tokens of a corrupted text, sentinels and `</s>` included: T5's `inputs_length`. Longer texts
    /// are cut into pieces.
    pub tokens: usize,
    /// Share of the tokens that are replaced.
    pub noise_density: f64,
    /// Mean number of tokens of a replaced span.
    pub mean_noise_span_length: f64,
    /// Number of denoising examples for each indexing or retrieval example; `None`: every piece once an epoch.
    pub ratio: Option<f64>,
    /// Share of the documents that are held out, to evaluate the denoising loss.
    pub held_out: f64,
}

impl Default for Denoising {
    /// T5's noise, in texts of 128 tokens.
    fn default() -> Self {
        Self {
            tokens: 128,
            noise_density: 0.15,
            mean_noise_span_length: 3.0,
            ratio: None,
            held_out: 0.05,
        }
    }
}

/// No piece is longer: with a density near 1, a source of a few tokens would stand for a text of any length.
const MOST_PIECE: usize = 1 << 16;

/// Numbers of tokens and spans in a corrupted text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanCounts {
    /// Number of tokens that are replaced.
    pub noise: usize,
    /// Number of tokens that are kept.
    pub kept: usize,
    /// Number of spans that are replaced, each by one sentinel.
    pub spans: usize,
}

impl SpanCounts {
    /// Number of tokens of the corrupted text, `</s>` included.
    pub fn source(self) -> usize {
        self.kept + self.spans + 1
    }

    /// Number of tokens of the target, `</s>` included.
    pub fn target(self) -> usize {
        self.noise + self.spans + 1
    }
}

impl Denoising {
    /// The least number of tokens of a text that can be corrupted: one is kept, one is replaced.
    pub const LEAST_TEXT: usize = 2;
    /// The least of [`Denoising::tokens`]: a token, a sentinel and `</s>`.
    pub const LEAST_TOKENS: usize = 3;

    /// Checks the settings.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    pub fn check(&self) -> Result<(), TaskError> {
        let Self { tokens, noise_density, mean_noise_span_length, .. } = *self;
        if tokens < Self::LEAST_TOKENS {
            return Err(TaskError::DenoisingTokens { tokens });
        }
        if !(noise_density > 0.0 && noise_density < 1.0) {
            return Err(TaskError::NoiseDensity { noise_density });
        }
        if !(mean_noise_span_length.is_finite() && mean_noise_span_length >= 1.0) {
            return Err(TaskError::MeanNoiseSpanLength { mean_noise_span_length });
        }
        Ok(())
    }

    /// The numbers of tokens and spans of a text of `length` tokens, which is at least [`Self::LEAST_TEXT`].
    pub fn counts(&self, length: usize) -> SpanCounts {
        let length = length.max(Self::LEAST_TEXT);
        // As NumPy and TensorFlow round: a half goes to the even neighbour.
        let noise = (length as f64 * self.noise_density).round_ties_even() as usize;
        let noise = noise.clamp(1, length - 1);
        let spans = (noise as f64 / self.mean_noise_span_length).round_ties_even() as usize;
        let kept = length - noise;
        // A kept token precedes every span.
        SpanCounts { noise, kept, spans: spans.clamp(1, noise.min(kept)) }
    }

    /// The most tokens that a text may have so that its corrupted form has at most [`Denoising::tokens`], as
    /// `random_spans_helper` in T5's code computes it.
    pub fn longest_piece(&self) -> usize {
        let mut length = Self::LEAST_TEXT.max(self.tokens.saturating_sub(1));
        // With many short spans, a corrupted text is no shorter than the text.
        while length > Self::LEAST_TEXT && self.counts(length).source() > self.tokens {
            length -= 1;
        }
        while length < MOST_PIECE && self.counts(length + 1).source() <= self.tokens {
            length += 1;
        }
        length
    }

    /// Cuts a text of `length` tokens into pieces of nearly equal length, none longer than [`Self::longest_piece`]: the
    /// length of each. A text that is too short to be corrupted has none.
    pub fn pieces(&self, length: usize) -> Vec<usize> {
        if length < Self::LEAST_TEXT {
            return Vec::new();
        }
        let count = length.div_ceil(self.longest_piece());
        // A piece of one token, which cannot be corrupted, comes only of a limit of two.
        let piece = |at| (at + 1) * length / count - at * length / count;
        (0..count).map(piece).filter(|&length| length >= Self::LEAST_TEXT).collect()
    }

    /// The rows of the documents that are held out: the same for every seed and order of documents, so that losses of
    /// different runs compare. At least one where there are two documents or more, and never all.
    pub fn held_out_documents(&self, corpus: &Corpus) -> HashSet<u32> {
        let documents = corpus.documents.len();
        let count = match self.held_out {
            share if share > 0.0 => (share * documents as f64).ceil() as usize,
            _ => 0,
        };
        let key = |row: u32| random::key(0, 0, &corpus.documents[row as usize].id);
        let mut rows: Vec<u32> = (0..documents as u32).collect();
        rows.sort_by_cached_key(|&row| (key(row), row));
        rows.truncate(count.min(documents.saturating_sub(1)));
        rows.into_iter().collect()
    }
}

/// The sentinel tokens of a tokenizer, and its `</s>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sentinels {
    ids: Vec<u32>,
    end_id: u32,
}

impl Sentinels {
    /// The sentinels `<extra_id_0>`, `<extra_id_1>` and so on, without a gap, that denoising with these settings needs.
    ///
    /// # Errors
    /// [`TaskError::Sentinels`] if the tokenizer has too few.
    pub fn of(tokenizer: &TextTokenizer, denoising: &Denoising) -> Result<Self, TaskError> {
        let longest = denoising.longest_piece();
        let needed = denoising.counts(longest).spans;
        let name = |number: usize| format!("<extra_id_{number}>");
        let ids: Vec<u32> = (0..needed).map_while(|n| tokenizer.id(&name(n))).collect();
        if ids.len() < needed {
            let (found, first_missing) = (ids.len(), name(ids.len()));
            return Err(TaskError::Sentinels { found, needed, first_missing, longest });
        }
        Ok(Self { ids, end_id: tokenizer.end_id() })
    }

    /// Those with these ids, in the order of their numbers.
    pub fn new(ids: Vec<u32>, end_id: u32) -> Self {
        Self { ids, end_id }
    }
}

/// A corrupted text and what was replaced in it, both with `</s>` at their ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrupted {
    /// The text with a sentinel in the place of each span.
    pub source: Vec<u32>,
    /// Each sentinel with the tokens of its span: the labels.
    pub target: Vec<u32>,
}

impl Corrupted {
    /// Corrupts a text, which has at least two tokens and no `</s>`: its spans are a function of `seed` and `position`.
    pub fn new(
        text: &[u32],
        denoising: &Denoising,
        sentinels: &Sentinels,
        (seed, position): (u64, u64),
    ) -> Self {
        let counts = denoising.counts(text.len());
        let mut random = random::generator(seed, position, "noise spans");
        let noise = segments(counts.noise, counts.spans, &mut random);
        let kept = segments(counts.kept, counts.spans, &mut random);
        let mut source = Vec::with_capacity(counts.source());
        let mut target = Vec::with_capacity(counts.target());
        let mut rest = text;
        for ((kept, noise), &sentinel) in kept.into_iter().zip(noise).zip(&sentinels.ids) {
            let (before, after) = rest.split_at(kept.min(rest.len()));
            let (replaced, after) = after.split_at(noise.min(after.len()));
            source.extend_from_slice(before);
            source.push(sentinel);
            target.push(sentinel);
            target.extend_from_slice(replaced);
            rest = after;
        }
        source.push(sentinels.end_id);
        target.push(sentinels.end_id);
        Self { source, target }
    }
}

/// Divides `items` into `count` segments of random lengths, none empty; every division is equally likely.
fn segments(items: usize, count: usize, random: &mut impl Rng) -> Vec<usize> {
    // Whether a segment begins at each item but the first.
    let mut begins: Vec<bool> = (1..items).map(|at| at < count).collect();
    begins.shuffle(random);
    let mut lengths = vec![1; 1];
    for begins in begins {
        match lengths.last_mut() {
            Some(last) if !begins => *last += 1,
            _ => lengths.push(1),
        }
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentinels() -> Sentinels {
        Sentinels::new((0..100).map(|number| 1099 - number).collect(), 1)
    }

    #[test]
    fn lengths_are_those_of_t5_s_published_recipe() {
        // `random_spans_helper` of T5's code and `compute_input_and_target_lengths` of transformers give these.
        for (tokens, piece, target) in [(512, 568, 114), (128, 141, 29), (256, 284, 58)] {
            let denoising = Denoising { tokens, ..Denoising::default() };
            let longest = denoising.longest_piece();
            let counts = denoising.counts(longest);
            assert_eq!((longest, counts.source(), counts.target()), (piece, tokens, target));
        }
        // A half is rounded to the even neighbour: 10 * 0.15 = 1.5 and 30 * 0.15 = 4.5.
        let counts = |length| Denoising::default().counts(length);
        assert_eq!(counts(10), SpanCounts { noise: 2, kept: 8, spans: 1 });
        assert_eq!(counts(30), SpanCounts { noise: 4, kept: 26, spans: 1 });
        assert_eq!(counts(2), SpanCounts { noise: 1, kept: 1, spans: 1 });
    }

    #[test]
    fn any_settings_give_texts_that_fit_and_spans_that_have_tokens() {
        for tokens in [3, 4, 5, 17, 64, 128] {
            for noise_density in [0.01, 0.15, 0.5, 0.9, 0.99] {
                for mean_noise_span_length in [1.0, 1.5, 3.0, 20.0] {
                    let denoising = Denoising {
                        tokens,
                        noise_density,
                        mean_noise_span_length,
                        ..Denoising::default()
                    };
                    denoising.check().unwrap();
                    let longest = denoising.longest_piece();
                    for length in 2..=longest {
                        let counts = denoising.counts(length);
                        assert!(counts.source() <= tokens, "{denoising:?}: {length}");
                        assert!(counts.spans <= counts.noise && counts.spans <= counts.kept);
                        assert_eq!(counts.noise + counts.kept, length);
                    }
                }
            }
        }
    }

    #[test]
    fn a_corrupted_text_and_its_target_hold_every_token_once_and_end() {
        let (denoising, sentinels) = (Denoising::default(), sentinels());
        for length in [2, 3, 7, 30, 141] {
            let text: Vec<u32> = (10..10 + length).collect();
            let Corrupted { source, target } =
                Corrupted::new(&text, &denoising, &sentinels, (7, u64::from(length)));
            let counts = denoising.counts(text.len());
            assert_eq!((source.len(), target.len()), (counts.source(), counts.target()));
            assert_eq!((source.last(), target.last()), (Some(&1), Some(&1)));
            assert!(source[0] < 900, "a kept token comes first, as in T5");
            // Filling each sentinel's tokens in gives the text back.
            let mut restored = Vec::new();
            for &token in &source[..source.len() - 1] {
                match sentinels.ids.iter().position(|&id| id == token) {
                    None => restored.push(token),
                    Some(number) => {
                        let begin = target.iter().position(|&id| id == token).unwrap();
                        assert_eq!(token, 1099 - number as u32);
                        let span =
                            target[begin + 1..].iter().take_while(|id| **id < 900 && **id != 1);
                        restored.extend(span);
                    }
                }
            }
            assert_eq!(restored, text);
        }
    }

    #[test]
    fn spans_are_a_function_of_seed_and_position() {
        let (denoising, sentinels) = (Denoising::default(), sentinels());
        let text: Vec<u32> = (10..110).collect();
        let corrupt =
            |seed, position| Corrupted::new(&text, &denoising, &sentinels, (seed, position));
        assert_eq!(corrupt(1, 2), corrupt(1, 2));
        assert_ne!(corrupt(1, 2), corrupt(1, 3));
        assert_ne!(corrupt(1, 2), corrupt(2, 2));
    }

    /// Of the lengths of `spans` segments of `items`, the probability of each length by counting all divisions.
    fn expected_share(items: usize, spans: usize, length: usize) -> f64 {
        let choose = |n: usize, k: usize| {
            (0..k).fold(1.0, |product, at| product * (n - at) as f64 / (at + 1) as f64)
        };
        if length > items - (spans - 1) {
            return 0.0;
        }
        choose(items - length - 1, spans - 2) / choose(items - 1, spans - 1)
    }

    #[test]
    fn span_lengths_and_noise_have_the_distribution_of_t5_s_recipe() {
        let (denoising, sentinels) =
            (Denoising { tokens: 512, ..Denoising::default() }, sentinels());
        let text: Vec<u32> = (2..570).map(|id| id % 700 + 2).collect();
        let counts = denoising.counts(text.len());
        let texts = 2000;
        let mut lengths = vec![0_usize; 60];
        let mut kept_lengths = vec![0_usize; 400];
        let mut noise = 0;
        // How often each position of the text is replaced.
        let mut replaced = vec![0_usize; text.len()];
        for position in 0..texts {
            let corrupted = Corrupted::new(&text, &denoising, &sentinels, (3, position));
            let is_sentinel = |id: &u32| *id > 900;
            let mut spans = Vec::new();
            for part in corrupted.target[..corrupted.target.len() - 1].split(is_sentinel).skip(1) {
                lengths[part.len()] += 1;
                noise += part.len();
                spans.push(part.len());
            }
            let mut at = 0;
            for (part, span) in corrupted.source.split(is_sentinel).zip(spans) {
                kept_lengths[part.len()] += 1;
                at += part.len();
                replaced[at..at + span].iter_mut().for_each(|count| *count += 1);
                at += span;
            }
        }
        assert_eq!(noise, counts.noise * texts as usize, "85 of 568 tokens");
        let spans = (counts.spans * texts as usize) as f64;
        for (found, items) in [(&lengths, counts.noise), (&kept_lengths, counts.kept)] {
            assert_eq!(found[0], 0, "no span is empty");
            for (length, &found) in found.iter().enumerate().skip(1).take(25) {
                let expected = expected_share(items, counts.spans, length);
                let deviation = (expected * (1.0 - expected) / spans).sqrt();
                let found = found as f64 / spans;
                let near = (found - expected).abs() < 5.0 * deviation + 1e-4;
                assert!(near, "{length} of {items}: {found}, expected {expected}");
            }
        }
        // The noise is spread over the text; its first token is always kept, its last one always replaced.
        assert_eq!((replaced[0], replaced[text.len() - 1]), (0, texts as usize));
        for third in replaced[20..548].chunks(176) {
            let share = third.iter().sum::<usize>() as f64 / (third.len() as f64 * texts as f64);
            assert!((share - 0.15).abs() < 0.01, "{share}");
        }
    }

    #[test]
    fn a_long_text_is_cut_into_pieces_of_nearly_equal_length_that_hold_all_of_it() {
        let denoising = Denoising::default();
        assert!(denoising.pieces(0).is_empty() && denoising.pieces(1).is_empty());
        assert_eq!(denoising.pieces(141), [141]);
        assert_eq!(denoising.pieces(142), [71, 71]);
        let pieces = denoising.pieces(1000);
        assert_eq!(pieces.iter().sum::<usize>(), 1000);
        assert!(pieces.iter().all(|length| (125..=125).contains(length)), "{pieces:?}");
    }
}
