//! Probes during training and their schedule: `[probes]`.

use std::fmt;

use serde::{Serialize, Serializer};

use super::reader::Section;
use super::training::{Span, zero_for_none};
use crate::component::Stages;
use crate::corpus::Split;
use crate::probe::{AverageFirst, EncoderNorm, NO_BASE, Over, Probe, ProbeOptions, Variant};
use crate::retrieval::CandidateSet;
use crate::task::Epochs;

/// `[probes]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbesSection {
    /// The probes that are measured. If all are listed, those that the model supports.
    pub run: Vec<Probe>,
    /// Interval; `None`: not between the first and the last step.
    #[serde(flatten, serialize_with = "every")]
    pub every: Option<Every>,
    /// True if they are measured before the first step, regardless of `max_share`.
    pub at_start: bool,
    /// True if they are measured after the last step, regardless of `max_share`.
    pub at_end: bool,
    /// Number of random queries that are ranked to find those to measure.
    pub queries: usize,
    /// The split whose queries are probed.
    pub split: Split,
    /// The split on which the circuit is evaluated; `None`: test, or `split` if there are no test queries.
    pub test_split: Option<Split>,
    /// The queries over which means are computed.
    pub over: Over,
    /// The base model: a directory, a model of the hub or `none`; `None`: the model that the run started from or, if
    /// that is the checkpoint of another run, the model that the other run started from.
    pub base: Option<String>,
    /// The definition of contributions to readers.
    pub variant: Variant,
    /// The dimension over which shares of reads are averaged first.
    pub average_first: AverageFirst,
    /// The final RMSNorm that is applied to the states of another encoder.
    pub encoder_norm: EncoderNorm,
    /// The candidate set.
    pub vocabulary: CandidateSet,
    /// Additional selectors for stage patching.
    pub patches: Vec<String>,
    /// An additional circuit, as patches `SELECTOR=zero|mean|base`; empty: none.
    pub circuit_patches: Vec<String>,
    /// Number of queries whose top tokens are listed for each head.
    pub samples: usize,
    /// True if the rank of each query is stored, too.
    pub per_query: bool,
    /// Number of queries in a batch.
    pub batch_size: usize,
    /// Maximum time for measurements during training, as a fraction of the time in training steps; the probed steps
    /// then depend on wall time. `None`, the default: no limit, serialised as 0.
    #[serde(serialize_with = "zero_for_none")]
    pub max_share: Option<f64>,
    /// Settings of single probes that override the above, `[probes.<probe>]`.
    #[serde(flatten, serialize_with = "by_probe")]
    pub overrides: Vec<ProbeOverrides>,
}

/// `[probes.<probe>]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbeOverrides {
    /// The probe.
    #[serde(skip)]
    pub probe: Probe,
    /// Overrides [`ProbesSection::every`].
    #[serde(flatten, serialize_with = "every")]
    pub every: Option<Every>,
    /// Overrides [`ProbesSection::queries`].
    pub queries: Option<usize>,
}

/// The interval of probes between the first and the last step: `every_steps`, `every_epochs` or `every_evaluations`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Every {
    /// Steps or epochs.
    Span(Span),
    /// A number of evaluations.
    Evaluations(u64),
}

impl Every {
    /// Returns the interval in steps, where `evaluate` is the interval of evaluations; `None` if there are none.
    pub fn steps(self, evaluate: Option<Span>, of: &Epochs) -> Option<u64> {
        match self {
            Self::Span(span) => Some(span.steps(of)),
            Self::Evaluations(count) => evaluate.map(|span| span.steps(of).saturating_mul(count)),
        }
    }

    fn read(section: &mut Section<'_, '_>) -> Option<Self> {
        let span = Span::read(section, "every_steps", "every_epochs");
        let evaluations = section.integer("every_evaluations", 1).optional();
        if span.is_some() && evaluations.is_some() {
            let message = "expected one of `every_steps`, `every_epochs` and `every_evaluations`";
            section.problem("every_evaluations", message.to_owned());
        }
        span.map(Self::Span).or(evaluations.map(Self::Evaluations))
    }
}

fn every<S: Serializer>(every: &Option<Every>, serializer: S) -> Result<S::Ok, S::Error> {
    match *every {
        Some(Every::Evaluations(count)) => serializer.collect_map([("every_evaluations", count)]),
        Some(Every::Span(span)) => super::monitoring::every(&Some(span), serializer),
        None => super::monitoring::every(&None, serializer),
    }
}

fn by_probe<S: Serializer>(own: &[ProbeOverrides], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(own.iter().map(|own| (own.probe.name(), own)))
}

impl ProbesSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        // Off, so that the steps that are probed follow from the recipe alone.
        let max_share = section.float_or_off("max_share").or(0.0);
        let paper = ProbeOptions::new(None);
        let probes = Self {
            run: section.choices("run").or(Probe::ALL.to_vec()),
            every: Every::read(section),
            at_start: section.boolean("at_start").or(false),
            at_end: section.boolean("at_end").or(true),
            queries: section.integer("queries", 1).or(200),
            split: section.choice("split").or(Split::Validation),
            test_split: section.choice("test_split").optional(),
            over: section.choice("over").or(paper.over),
            base: section.string("base").optional(),
            variant: section.choice("variant").or(paper.variant),
            average_first: section.choice("average_first").or(paper.average_first),
            encoder_norm: section.choice("encoder_norm").or(paper.encoder_norm),
            vocabulary: section.choice("vocabulary").or(paper.candidates),
            patches: section.strings("patches").or(paper.patches),
            circuit_patches: section.strings("circuit_patches").or(paper.circuit),
            samples: section.integer("samples", 0).or(paper.samples),
            per_query: section.boolean("per_query").or(paper.per_query),
            batch_size: section.integer("batch_size", 1).or(paper.batch_size),
            max_share: Some(max_share).filter(|share| *share > 0.0),
            overrides: Probe::ALL
                .iter()
                .filter_map(|&probe| read_overrides(section, probe))
                .collect(),
        };
        probes.check_together(section);
        probes
    }

    fn check_together(&self, section: &mut Section<'_, '_>) {
        if self.run.is_empty() {
            section.problem("run", "expected at least one probe".to_owned());
        }
        let mut without = |key: &str, of: Probe| {
            if !self.run.contains(&of) {
                let message = format!("`{of}` is not among the probes of `run`");
                section.conflict(key, &["run"], message);
            }
        };
        for own in &self.overrides {
            without(own.probe.name(), own.probe);
        }
        if !self.patches.is_empty() {
            without("patches", Probe::StagePatching);
        }
        if !self.circuit_patches.is_empty() {
            without("circuit_patches", Probe::Circuit);
        }
        if self.test_split.is_some() {
            without("test_split", Probe::Circuit);
        }
        if self.base.as_deref() == Some(NO_BASE) {
            let message =
                |what: &str| format!("`{NO_BASE}` conflicts with {what}, which needs a base model");
            if self.run.contains(&Probe::EncoderSwap) {
                section.conflict("base", &["run"], message("`encoder_swap`"));
            }
            let of_base = |patch: &&String| patch.trim_end().ends_with("=base");
            if let Some(patch) = self.circuit_patches.iter().find(of_base) {
                section.conflict("base", &["circuit_patches"], message(&format!("`{patch}`")));
            }
        }
        let never = |probe: &Probe| self.every(*probe).is_none();
        if !self.at_start
            && !self.at_end
            && let Some(probe) = self.run.iter().find(|probe| never(probe))
        {
            let message = format!(
                "`{probe}` is never measured: give `every_steps` (or `every_epochs`, `every_evaluations`), \
                 `at_start` or `at_end`"
            );
            section.conflict(
                "at_end",
                &["at_start", "every_steps", "every_epochs", "every_evaluations", "run"],
                message,
            );
        }
    }

    /// Returns whether a probe uses the base model.
    pub fn uses_base(&self) -> bool {
        self.base.as_deref() != Some(NO_BASE) && self.run.iter().any(|probe| probe.uses_base())
    }

    /// Removes the probes that need stages, for a decoder without stages, and returns them. Probes that the recipe
    /// names remain: in `run`, unless it lists all probes (the default), or by keys of their own section.
    pub fn leave_out_without_stages(&mut self) -> Vec<Probe> {
        let options = self.options(None);
        let is_named = |probe| {
            self.run != Probe::ALL
                || self.overrides_of(probe).is_some()
                || (probe == Probe::Circuit && self.test_split.is_some())
        };
        let stays = |probe: &Probe| !probe.needs_stages(&options) || is_named(*probe);
        let (run, left_out) = self.run.iter().copied().partition(stays);
        self.run = run;
        left_out
    }

    /// Returns the interval of `probe` between the first and the last step.
    pub fn every(&self, probe: Probe) -> Option<Every> {
        self.overrides_of(probe).and_then(|own| own.every).or(self.every)
    }

    /// Returns the keys that are set in evaluations.
    pub(super) fn counting_evaluations(&self) -> Vec<String> {
        let counts = |every: Option<Every>| matches!(every, Some(Every::Evaluations(_)));
        let all = counts(self.every).then(|| "probes.every_evaluations".to_owned());
        let own = self.overrides.iter().filter(|own| counts(own.every));
        let own = own.map(|own| format!("probes.{}.every_evaluations", own.probe));
        all.into_iter().chain(own).collect()
    }

    /// Returns the number of queries that are ranked for `probe`.
    pub fn queries(&self, probe: Probe) -> usize {
        self.overrides_of(probe).and_then(|own| own.queries).unwrap_or(self.queries)
    }

    /// Returns the options of probes for a decoder with these `stages`; `None` if it has too few layers for stages.
    pub fn options(&self, stages: Option<&Stages>) -> ProbeOptions {
        ProbeOptions {
            stages: stages.cloned(),
            candidates: self.vocabulary,
            over: self.over,
            variant: self.variant,
            average_first: self.average_first,
            encoder_norm: self.encoder_norm,
            patches: self.patches.clone(),
            circuit: self.circuit_patches.clone(),
            samples: self.samples,
            per_query: self.per_query,
            batch_size: self.batch_size,
        }
    }

    fn overrides_of(&self, probe: Probe) -> Option<&ProbeOverrides> {
        self.overrides.iter().find(|own| own.probe == probe)
    }
}

/// Formats the schedule and the number of queries: `logit_lens, circuit every 3 epochs, after the last step, on at
/// most 200 validation queries`.
impl fmt::Display for ProbesSection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups: Vec<(Option<Every>, usize, Vec<&str>)> = Vec::new();
        for &probe in &self.run {
            let (every, queries) = (self.every(probe), self.queries(probe));
            match groups.iter_mut().find(|group| (group.0, group.1) == (every, queries)) {
                Some((.., names)) => names.push(probe.name()),
                None => groups.push((every, queries, vec![probe.name()])),
            }
        }
        for (place, (every, queries, names)) in groups.iter().enumerate() {
            let names =
                if names.len() == Probe::ALL.len() { "all".into() } else { names.join(", ") };
            let times = [
                self.at_start.then(|| "before the first step".to_owned()),
                every.map(interval_text),
                self.at_end.then(|| "after the last step".to_owned()),
            ];
            let times = times.into_iter().flatten().collect::<Vec<_>>().join(", ");
            let before = if place > 0 { "; " } else { "" };
            let split = self.split;
            write!(formatter, "{before}{names} {times}, on at most {queries} {split} queries")?;
        }
        Ok(())
    }
}

fn interval_text(every: Every) -> String {
    let span = match every {
        Every::Evaluations(1) => return "at every evaluation".to_owned(),
        Every::Evaluations(count) => return format!("at every {count}th evaluation"),
        Every::Span(span) => span,
    };
    match span {
        Span::Steps(1) => "every step".to_owned(),
        Span::Steps(steps) => format!("every {steps} steps"),
        Span::Epochs(1.0) => "every epoch".to_owned(),
        Span::Epochs(epochs) => format!("every {epochs} epochs"),
    }
}

fn read_overrides(section: &mut Section<'_, '_>, probe: Probe) -> Option<ProbeOverrides> {
    section.optional_section(probe.name(), |section| ProbeOverrides {
        probe,
        every: Every::read(section),
        queries: section.integer("queries", 1).optional(),
    })
}
