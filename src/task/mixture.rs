//! The mixture of the tasks in an epoch.

use std::fmt;

use super::{Examples, Task, TaskError, TaskOptions};

/// The examples of one task in an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskShare {
    /// Number of distinct examples.
    pub examples: u64,
    /// Number of examples in an epoch. Each distinct example is seen `per_epoch / examples` times, rounded down or up.
    pub per_epoch: u64,
}

/// The number of examples of each task in an epoch.
///
/// The ratio is the number of indexing examples for each retrieval example. With D document texts to index, Q pairs of
/// a training query and a relevant document, and ratio r:
///
/// - r Q >= D: an epoch has each pair once and round(r Q) indexing examples;
/// - r Q < D: an epoch has each text once and round(D / r) retrieval examples;
/// - no ratio: an epoch has every example once.
///
/// So every one of these examples is seen in every epoch. Repeated examples are seen floor or ceil times; the examples
/// that are seen once more are drawn again for each epoch.
///
/// The ratio of denoising is the number of denoising examples for each of the others. With it, an epoch has that many
/// pieces of documents, which may be fewer than there are: others are then drawn for the next epoch. Without it, an epoch
/// has each piece once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixture {
    ratio: Option<f64>,
    denoising_ratio: Option<f64>,
    indexing: TaskShare,
    retrieval: TaskShare,
    denoising: TaskShare,
}

impl Mixture {
    /// Creates the mixture of `examples` for the tasks and the ratio of `options`.
    ///
    /// # Errors
    /// [`TaskError::NoTask`] without tasks; [`TaskError::NoDocuments`] or [`TaskError::NoTrainingQueries`] if a task
    /// has no example; [`TaskError::Ratio`] for a ratio that is not a finite number above 0; [`TaskError::RatioOfOne`]
    /// for a ratio with one task; [`TaskError::NoTexts`], [`TaskError::DenoisingRatio`] and
    /// [`TaskError::DenoisingRatioOfOne`] of denoising; [`TaskError::TooMany`] if an epoch would have too many examples.
    pub fn new(examples: &Examples, options: &TaskOptions) -> Result<Self, TaskError> {
        let documents = examples.count(Task::Indexing) as u64;
        let pairs = examples.count(Task::Retrieval) as u64;
        if options.tasks.contains(&Task::Indexing) && documents == 0 {
            return Err(TaskError::NoDocuments);
        }
        if options.tasks.contains(&Task::Retrieval) && pairs == 0 {
            return Err(TaskError::NoTrainingQueries {
                left_out: match examples.left_out() {
                    0 => "the corpus has no training query".to_owned(),
                    count => format!("{count} examples are left out with their documents"),
                },
            });
        }
        let of_docids: Vec<Task> =
            options.tasks.iter().copied().filter(|task| task.is_of_docids()).collect();
        let (indexing, retrieval) = match (options.ratio, of_docids.as_slice()) {
            _ if options.tasks.is_empty() => return Err(TaskError::NoTask),
            (None, _) => (documents, pairs),
            (Some(ratio), _) if !(ratio.is_finite() && ratio > 0.0) => {
                return Err(TaskError::Ratio { ratio });
            }
            (Some(ratio), tasks) => {
                let first = options.tasks.first().copied().unwrap_or(Task::Indexing);
                let task = tasks.first().copied().unwrap_or(first);
                if tasks.iter().all(|other| *other == task) {
                    return Err(TaskError::RatioOfOne { ratio, task });
                }
                let wanted = ratio * pairs as f64;
                if wanted >= documents as f64 {
                    (wanted.round() as u64, pairs)
                } else {
                    (documents, (documents as f64 / ratio).round() as u64)
                }
            }
        };
        let pieces = examples.count(Task::Denoising) as u64;
        let is_denoising = options.tasks.contains(&Task::Denoising);
        if is_denoising && pieces == 0 {
            return Err(TaskError::NoTexts);
        }
        let denoising_ratio = options.denoising.ratio;
        let denoising = match denoising_ratio {
            None => pieces,
            Some(ratio) if !(ratio.is_finite() && ratio > 0.0) => {
                return Err(TaskError::DenoisingRatio { ratio });
            }
            Some(ratio) if !is_denoising || of_docids.is_empty() => {
                return Err(TaskError::DenoisingRatioOfOne { ratio });
            }
            Some(ratio) => {
                ((ratio * indexing.saturating_add(retrieval) as f64).round() as u64).max(1)
            }
        };
        let total = indexing.saturating_add(retrieval).saturating_add(denoising);
        let most = u64::from(u32::MAX);
        if total > most {
            return Err(TaskError::TooMany {
                ratio: denoising_ratio.or(options.ratio).unwrap_or(1.0),
                examples: total,
                most,
            });
        }
        Ok(Self {
            ratio: options.ratio,
            denoising_ratio,
            indexing: TaskShare { examples: documents, per_epoch: indexing },
            retrieval: TaskShare { examples: pairs, per_epoch: retrieval },
            denoising: TaskShare { examples: pieces, per_epoch: denoising },
        })
    }

    /// Returns the number of examples of a task.
    pub fn share(&self, task: Task) -> TaskShare {
        match task {
            Task::Indexing => self.indexing,
            Task::Retrieval => self.retrieval,
            Task::Denoising => self.denoising,
        }
    }

    /// Returns the number of examples of all tasks in an epoch.
    pub fn per_epoch(&self) -> u64 {
        Task::ALL.iter().map(|&task| self.share(task).per_epoch).sum()
    }

    /// Returns the share of an epoch's examples whose target is a docid.
    pub fn share_of_docids(&self) -> f64 {
        let of_docids: u64 = Task::OF_DOCIDS.iter().map(|&task| self.share(task).per_epoch).sum();
        of_docids as f64 / self.per_epoch().max(1) as f64
    }
}

impl fmt::Display for Mixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an epoch is {} examples: ", self.per_epoch())?;
        let mut first = true;
        for (task, share) in Task::ALL.iter().map(|&task| (task, self.share(task))) {
            if share.examples == 0 {
                continue;
            }
            if !first {
                f.write_str(", ")?;
            }
            first = false;
            let floor = share.per_epoch / share.examples;
            let extra = share.per_epoch % share.examples;
            write!(f, "{} {task} (each of {}: {floor}x", share.per_epoch, share.examples)?;
            match extra {
                0 => f.write_str(")")?,
                _ => write!(f, " or {}x)", floor + 1)?,
            }
        }
        match (self.ratio, self.denoising_ratio) {
            (None, None) => f.write_str("; every example once"),
            (Some(ratio), None) => write!(f, "; ratio {ratio}"),
            (None, Some(ratio)) => write!(f, "; denoising ratio {ratio}"),
            (Some(ratio), Some(other)) => write!(f, "; ratio {ratio}, denoising ratio {other}"),
        }
    }
}
