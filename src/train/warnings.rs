//! What should be known of a run before it begins: of its corpus, and of its probes.

use std::collections::{BTreeMap, HashSet};

use super::plan::Plan;
use crate::corpus::SHOWN;
use crate::probe::ProbeError;

/// What documents with the same tokens are counted under in `environment.json`.
const ALIKE: &str = "documents_with_the_same_tokens";

impl Plan {
    /// What was skipped in the corpus or is not as a reader may expect, documents that are alike, and probes that are not
    /// measured: one text each, of several lines.
    pub fn warnings(&self) -> Vec<String> {
        let findings = self.findings.iter().map(|finding| format!("corpus: {finding}"));
        let alike = (!self.alike.is_empty()).then(|| self.alike_documents());
        let unmeasured = self.unmeasured.iter().map(|&probe| {
            let depth = self.config().num_decoder_layers;
            format!("probes: not measured: {}", ProbeError::NeedsStages { probe, depth })
        });
        findings.chain(alike).chain(unmeasured).collect()
    }

    /// The number of each kind that [`Plan::warnings`] tells, by its name.
    pub fn warning_counts(&self) -> BTreeMap<String, usize> {
        let mut counts = self.findings.counts();
        if !self.alike.is_empty() {
            counts.insert(ALIKE.to_owned(), self.number_of_alike());
        }
        counts
    }

    fn number_of_alike(&self) -> usize {
        self.alike.iter().flatten().collect::<HashSet<_>>().len()
    }

    fn alike_documents(&self) -> String {
        let groups = self.alike.len();
        let mut text = format!(
            "corpus: {} documents have the same tokens as another (at most {} are read of each), so that the model \
             cannot tell them apart; {groups} group{}:",
            self.number_of_alike(),
            self.recipe.task.document_tokens,
            if groups == 1 { "" } else { "s" },
        );
        for group in self.alike.iter().take(SHOWN) {
            let ids = group.iter().take(SHOWN).map(|&row| format!("`{}`", self.docids.id(row)));
            text += &format!("\n    {}", ids.collect::<Vec<_>>().join(", "));
            if group.len() > SHOWN {
                text += &format!(" and {} more", group.len() - SHOWN);
            }
        }
        if groups > SHOWN {
            text += &format!("\n    and {} more groups", groups - SHOWN);
        }
        text
    }
}
