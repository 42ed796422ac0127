//! The bundled corpus.

use super::Corpus;

/// The bundled corpus `bundled:atlas`.
pub fn atlas() -> Corpus {
    Corpus::default()
}
