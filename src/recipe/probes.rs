//! Which probes are measured during training, and when: `[probes]`.

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
    /// Those that are measured. All: those that can be.
    pub run: Vec<Probe>,
    /// `None`: never in between.
    #[serde(flatten, serialize_with = "every")]
    pub every: Option<Every>,
    /// Whether they are measured before the first step, whatever `max_share` says.
    pub at_start: bool,
    /// Whether they are measured after the last step, whatever `max_share` says.
    pub at_end: bool,
    /// Queries that are ranked to find those to measure, drawn by the run's seed.
    pub queries: usize,
    /// The split whose queries are probed.
    pub split: Split,
    /// Which split the circuit is judged on; `None`: the test queries, or `split` where there are none.
    pub test_split: Option<Split>,
    /// The queries that means are over.
    pub over: Over,
    /// The base model: a directory, a model of the hub or `none`; `None`: what the run started from, and where that is
    /// another run's checkpoint, what that one started from.
    pub base: Option<String>,
    /// How contributions to readers are computed.
    pub variant: Variant,
    /// What shares of the reads are averaged over first.
    pub average_first: AverageFirst,
    /// Whose final RMSNorm the states of another encoder go through.
    pub encoder_norm: EncoderNorm,
    /// What a relevant docid is ranked among.
    pub vocabulary: CandidateSet,
    /// Selectors that stage patching replaces beside the paper's.
    pub patches: Vec<String>,
    /// A circuit beside the paper's, as `SELECTOR=zero|mean|base`; empty: none.
    pub circuit_patches: Vec<String>,
    /// Queries whose top words are listed for each head.
    pub samples: usize,
    /// Whether the rank for every single query is stored, too.
    pub per_query: bool,
    /// Queries at once.
    pub batch_size: usize,
    /// The most time that measurements in between may take, as a share of the time in training steps; which steps are
    /// probed then depends on the clock. `None`, the default: no limit, written as 0.
    #[serde(serialize_with = "zero_for_none")]
    pub max_share: Option<f64>,
    /// What single probes have in place of the above, as `[probes.<probe>]`.
    #[serde(flatten, serialize_with = "by_probe")]
    pub own: Vec<OwnSchedule>,
}

/// `[probes.<probe>]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OwnSchedule {
    /// The probe.
    #[serde(skip)]
    pub probe: Probe,
    /// `None`: as [`ProbesSection::every`] says.
    #[serde(flatten, serialize_with = "every")]
    pub every: Option<Every>,
    /// `None`: as [`ProbesSection::queries`] says.
    pub queries: Option<usize>,
}

/// How often probes are measured between the first step and the last: `every_steps`, `every_epochs` or
/// `every_evaluations`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Every {
    /// At multiples of it.
    Span(Span),
    /// At every so many of the evaluations.
    Evaluations(u64),
}

impl Every {
    /// In steps, when evaluations are `evaluate` apart; `None` where there are none.
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
        Some(Every::Span(span)) => super::watching::every(&Some(span), serializer),
        None => super::watching::every(&None, serializer),
    }
}

fn by_probe<S: Serializer>(own: &[OwnSchedule], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(own.iter().map(|own| (own.probe.word(), own)))
}

impl ProbesSection {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        // Off, so that the steps that are probed follow from the recipe alone.
        let max_share = section.number_or_off("max_share").or(0.0);
        let probes = Self {
            run: section.choices("run").or(Probe::ALL.to_vec()),
            every: Every::read(section),
            at_start: section.flag("at_start").or(false),
            at_end: section.flag("at_end").or(true),
            queries: section.integer("queries", 1).or(200),
            split: section.choice("split").or(Split::Validation),
            test_split: section.choice("test_split").optional(),
            over: section.choice("over").or(Over::Correct),
            base: section.text("base").optional(),
            variant: section.choice("variant").or(Variant::Paper),
            average_first: section.choice("average_first").or(AverageFirst::Readers),
            encoder_norm: section.choice("encoder_norm").or(EncoderNorm::Other),
            vocabulary: section.choice("vocabulary").or(CandidateSet::All),
            patches: section.texts("patches").or(Vec::new()),
            circuit_patches: section.texts("circuit_patches").or(Vec::new()),
            samples: section.integer("samples", 0).or(3),
            per_query: section.flag("per_query").or(false),
            batch_size: section.integer("batch_size", 1).or(128),
            max_share: Some(max_share).filter(|share| *share > 0.0),
            own: Probe::ALL.iter().filter_map(|&probe| read_own(section, probe)).collect(),
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
        for own in &self.own {
            without(own.probe.word(), own.probe);
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
            let message = |what: &str| {
                format!("`{NO_BASE}` leaves nothing for {what}, which needs a base model")
            };
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

    /// Whether a probe looks at the base model.
    pub fn compares(&self) -> bool {
        self.base.as_deref() != Some(NO_BASE) && self.run.iter().any(|probe| probe.uses_base())
    }

    /// Takes out the probes that need stages, for a decoder that has none, and returns them. Those that the recipe asks for
    /// by name stay: by `run`, unless it lists all probes as it does where it is not given, or by keys of their own.
    pub fn leave_out_without_stages(&mut self) -> Vec<Probe> {
        let options = self.options(None);
        let is_named = |probe| {
            self.run != Probe::ALL
                || self.own(probe).is_some()
                || (probe == Probe::Circuit && self.test_split.is_some())
        };
        let stays = |probe: &Probe| !probe.needs_stages(&options) || is_named(*probe);
        let (run, left_out) = self.run.iter().copied().partition(stays);
        self.run = run;
        left_out
    }

    /// How often `probe` is measured in between.
    pub fn every(&self, probe: Probe) -> Option<Every> {
        self.own(probe).and_then(|own| own.every).or(self.every)
    }

    /// The keys that count evaluations.
    pub(super) fn counting_evaluations(&self) -> Vec<String> {
        let counts = |every: Option<Every>| matches!(every, Some(Every::Evaluations(_)));
        let all = counts(self.every).then(|| "probes.every_evaluations".to_owned());
        let own = self.own.iter().filter(|own| counts(own.every));
        let own = own.map(|own| format!("probes.{}.every_evaluations", own.probe));
        all.into_iter().chain(own).collect()
    }

    /// Queries that are ranked for `probe`.
    pub fn queries(&self, probe: Probe) -> usize {
        self.own(probe).and_then(|own| own.queries).unwrap_or(self.queries)
    }

    /// How probes are measured on a decoder with these `stages`; none where it has too few layers.
    pub fn options(&self, stages: Option<&Stages>) -> ProbeOptions {
        ProbeOptions {
            stages: stages.cloned(),
            vocabulary: self.vocabulary,
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

    fn own(&self, probe: Probe) -> Option<&OwnSchedule> {
        self.own.iter().find(|own| own.probe == probe)
    }
}

/// Which are measured when, and on how many queries: `logit_lens, circuit every 3 epochs, after the last step, on at
/// most 200 validation queries`.
impl fmt::Display for ProbesSection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups: Vec<(Option<Every>, usize, Vec<&str>)> = Vec::new();
        for &probe in &self.run {
            let (every, queries) = (self.every(probe), self.queries(probe));
            match groups.iter_mut().find(|group| (group.0, group.1) == (every, queries)) {
                Some((.., names)) => names.push(probe.word()),
                None => groups.push((every, queries, vec![probe.word()])),
            }
        }
        for (place, (every, queries, names)) in groups.iter().enumerate() {
            let names =
                if names.len() == Probe::ALL.len() { "all".into() } else { names.join(", ") };
            let times = [
                self.at_start.then(|| "before the first step".to_owned()),
                every.map(in_words),
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

fn in_words(every: Every) -> String {
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

fn read_own(section: &mut Section<'_, '_>, probe: Probe) -> Option<OwnSchedule> {
    section.optional_section(probe.word(), |section| OwnSchedule {
        probe,
        every: Every::read(section),
        queries: section.integer("queries", 1).optional(),
    })
}
