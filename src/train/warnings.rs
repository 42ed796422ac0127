//! Warnings about a run before it starts.

use std::collections::{BTreeMap, HashSet};

use super::plan::Plan;
use crate::corpus::MAX_LISTED;
use crate::files::free_space;
use crate::prefix::mebibytes;
use crate::probe::ProbeError;
use crate::retrieval::run_files::fits_trec;

/// The name of documents with the same tokens in `environment.json`.
const ALIKE: &str = "documents_with_the_same_tokens";

impl Plan {
    /// The warnings of a run: what was skipped in the corpus or is not as a reader may expect, documents
    /// that are alike, ids that TREC files cannot hold, probes that are not measured, memory or disk that may be too
    /// small. One text each, of several lines.
    pub fn warnings(&self) -> Vec<String> {
        let findings = self.findings.iter().map(|finding| format!("corpus: {finding}"));
        let mut warnings: Vec<String> = findings.collect();
        warnings.extend((!self.alike.is_empty()).then(|| self.alike_documents()));
        warnings.extend(self.ids_not_for_trec());
        warnings.extend(self.unconfirmed_stages());
        warnings.extend(self.unmeasured.iter().map(|&probe| {
            let depth = self.config().num_decoder_layers;
            format!("probes: not measured: {}", ProbeError::NeedsStages { probe, depth })
        }));
        warnings.extend(self.untrained_encoder());
        let no_adapter = self.no_peft_adapter().filter(|_| !self.lora.is_empty());
        warnings.extend(no_adapter.map(|reason| {
            format!(
                "trainable.select: checkpoints hold the merged model and the factors of LoRA, but no adapter that peft \
                 loads: {reason}"
            )
        }));
        warnings.extend(self.memory_problem().map(|(_, problem)| problem.to_string()));
        warnings.extend(self.disk_warning());
        warnings
    }

    /// A warning if stages were detected on a base model that retrieves nothing.
    fn unconfirmed_stages(&self) -> Option<String> {
        let found = self.detection.as_ref().filter(|found| found.confirmation.is_none())?;
        Some(format!(
            "stages: {} was detected on the base model before training, which ranks no document of this corpus first, so \
             that ablation (P3) could not confirm it. The paper finds its stages in a fine-tuned model, and training may \
             move the boundaries: `genir advise {} --stages detect` measures them after it",
            found.found.stages,
            self.recipe.run.directory.display()
        ))
    }

    /// Ids that TREC files cannot hold, where an evaluation would write such files.
    fn ids_not_for_trec(&self) -> Option<String> {
        let ranked = self.query_sets.iter().filter(|(_, split)| split.is_some());
        let queries: Vec<&str> =
            ranked.flat_map(|(set, _)| set.ids.iter().map(String::as_str)).collect();
        if queries.is_empty() {
            return None;
        }
        let kinds = [("document", self.docids.ids().collect()), ("query", queries)];
        let found = kinds.into_iter().filter_map(|(kind, ids): (_, Vec<&str>)| {
            let wrong: Vec<&str> = ids.into_iter().filter(|id| !fits_trec(id)).collect();
            let shown: Vec<String> = wrong
                .iter()
                .take(MAX_LISTED)
                .map(|id| format!("`{}`", id.escape_debug()))
                .collect();
            let more = if wrong.len() > MAX_LISTED { ", ..." } else { "" };
            (!wrong.is_empty())
                .then(|| format!("{} {kind} ids ({}{more})", wrong.len(), shown.join(", ")))
        });
        let found: Vec<String> = found.collect();
        (!found.is_empty()).then(|| {
            format!(
                "corpus: {} hold white space or control characters, which TREC files cannot represent: evaluations \
                 print metrics and write no files of the splits with such ids",
                found.join(" and ")
            )
        })
    }

    /// A warning if the disk may be too small for the run's checkpoints.
    fn disk_warning(&self) -> Option<String> {
        let directory = &self.recipe.run.directory;
        let free = free_space(directory)?;
        let one = (self.table.total.parameters * size_of::<f32>()) as u64;
        // Those that are kept, the best one, and the next, which is written before one is removed.
        let most = (self.recipe.save.keep_last as u64).saturating_add(2);
        let evaluations = self.evaluations().times(self.total_steps());
        let at_once = match self.recipe.save.every_steps {
            Some(every) => most.min(self.total_steps() / every + 1),
            None => most.min(evaluations.max(1)),
        };
        (one.saturating_mul(at_once) > free).then(|| {
            format!(
                "run.directory: a checkpoint takes about {}, there are up to {at_once} at once, and the disk of \
                 {} has {} free; a smaller save.keep_last needs less",
                mebibytes(one),
                directory.display(),
                mebibytes(free)
            )
        })
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
        for group in self.alike.iter().take(MAX_LISTED) {
            let ids =
                group.iter().take(MAX_LISTED).map(|&row| format!("`{}`", self.docids.id(row)));
            text += &format!("\n    {}", ids.collect::<Vec<_>>().join(", "));
            if group.len() > MAX_LISTED {
                text += &format!(" and {} more", group.len() - MAX_LISTED);
            }
        }
        if groups > MAX_LISTED {
            text += &format!("\n    and {} more groups", groups - MAX_LISTED);
        }
        text
    }
}
