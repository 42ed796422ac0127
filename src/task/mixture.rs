//! The mixture of the two tasks in an epoch.

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
/// So every example is seen in every epoch. Repeated examples are seen floor or ceil times; the examples that are seen
/// once more are drawn again for each epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixture {
    ratio: Option<f64>,
    indexing: TaskShare,
    retrieval: TaskShare,
}

impl Mixture {
    /// Creates the mixture of `examples` for the tasks and the ratio of `options`.
    ///
    /// # Errors
    /// [`TaskError::NoTask`] without tasks; [`TaskError::NoDocuments`] or [`TaskError::NoTrainingQueries`] if a task
    /// has no example; [`TaskError::Ratio`] for a ratio that is not a finite number above 0; [`TaskError::RatioOfOne`]
    /// for a ratio with one task; [`TaskError::TooMany`] if an epoch would have too many examples.
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
        let (indexing, retrieval) = match (options.ratio, options.tasks.as_slice()) {
            (_, []) => return Err(TaskError::NoTask),
            (None, _) => (documents, pairs),
            (Some(ratio), _) if !(ratio.is_finite() && ratio > 0.0) => {
                return Err(TaskError::Ratio { ratio });
            }
            (Some(ratio), tasks) => {
                if let Some(&task) = tasks.first()
                    && tasks.iter().all(|other| *other == task)
                {
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
        let (total, most) = (indexing.saturating_add(retrieval), u64::from(u32::MAX));
        if total > most {
            return Err(TaskError::TooMany {
                ratio: options.ratio.unwrap_or(1.0),
                examples: total,
                most,
            });
        }
        Ok(Self {
            ratio: options.ratio,
            indexing: TaskShare { examples: documents, per_epoch: indexing },
            retrieval: TaskShare { examples: pairs, per_epoch: retrieval },
        })
    }

    /// Returns the number of examples of a task.
    pub fn share(&self, task: Task) -> TaskShare {
        match task {
            Task::Indexing => self.indexing,
            Task::Retrieval => self.retrieval,
        }
    }

    /// Returns the number of examples of both tasks in an epoch.
    pub fn per_epoch(&self) -> u64 {
        self.indexing.per_epoch + self.retrieval.per_epoch
    }
}

impl fmt::Display for Mixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an epoch is {} examples: ", self.per_epoch())?;
        let mut first = true;
        for (task, share) in [(Task::Indexing, self.indexing), (Task::Retrieval, self.retrieval)] {
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
        match self.ratio {
            Some(ratio) => write!(f, "; ratio {ratio}"),
            None => f.write_str("; every example once"),
        }
    }
}
