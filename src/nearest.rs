//! Finds the most similar known name, for "did you mean" in error messages.

/// The minimum Jaro-Winkler similarity of a helpful suggestion.
const MIN_SIMILARITY: f64 = 0.8;

/// Returns the most similar name in `known`, if any is similar enough.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| {
            let similarity = strsim::jaro_winkler(&word, &candidate.to_lowercase());
            (similarity, candidate)
        })
        .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
        // The first of equally similar names is returned.
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn only_similar_names_are_suggested() {
        let known = ["batch_size", "epochs", "steps"];
        assert_eq!(nearest("batchsize", known), Some("batch_size"));
        assert_eq!(nearest("Epoch", known), Some("epochs"));
        assert_eq!(nearest("hits@2", ["hits@1", "hits@5"]), Some("hits@1"));
        assert_eq!(nearest("temperature", known), None);
    }
}
