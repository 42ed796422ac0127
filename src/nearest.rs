//! The nearest known word to a mistyped one, for "did you mean" in error messages.

/// Below this Jaro-Winkler similarity a suggestion would puzzle more than help.
const LEAST_SIMILARITY: f64 = 0.8;

/// The word of `known` most like `word`, if any is like it at all.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| {
            let similarity = strsim::jaro_winkler(&word, &candidate.to_lowercase());
            (similarity, candidate)
        })
        .filter(|(similarity, _)| *similarity >= LEAST_SIMILARITY)
        // The first of equals, so that the order of `known` decides.
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn only_words_that_are_alike_are_suggested() {
        let known = ["batch_size", "epochs", "steps"];
        assert_eq!(nearest("batchsize", known), Some("batch_size"));
        assert_eq!(nearest("Epoch", known), Some("epochs"));
        assert_eq!(nearest("hits@2", ["hits@1", "hits@5"]), Some("hits@1"));
        assert_eq!(nearest("temperature", known), None);
    }
}
