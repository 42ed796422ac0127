//! Recipes: TOML files with all settings of a run, parsed into typed data.
//!
//! Overrides of the command line (`train.steps=100`, `~train.epochs`) are applied to a recipe before it is parsed. All
//! problems are reported at once, each with its key. A [`Recipe`] includes all defaults, so that the resolved recipe in
//! the run directory keeps its meaning if defaults change.

mod cache;
mod data;
mod error;
mod flat_keys;
mod model;
mod monitoring;
mod probes;
mod ranges;
mod reader;
mod shipped;
mod source;
mod sweep;
mod training;
mod watch;

use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;

pub use cache::CacheSection;
pub use data::{CorpusSection, DenoisingKeys, DocidSection, TaskSection};
pub use error::{KeyOrigin, Problem, RecipeErrors};
pub(crate) use flat_keys::flat_keys;
pub use model::{ConfigSection, Init, ModelSection, RunSection, StagesSetting, TrainableSection};
pub(crate) use monitoring::MAX_PADDING;
pub use monitoring::{EvaluateSection, LogSection, SaveSection, StopSection};
pub use probes::{Every, ProbeOverrides, ProbesSection};
pub use shipped::{SHIPPED, SHIPPED_SWEEPS, ShippedRecipe};
pub(crate) use sweep::check_arm_name;
pub use sweep::{Setting, SweepArm, SweepFile};
pub use training::{
    GradientDtype, OptimizerSection, OptimizerSettings, ScheduleName, ScheduleSection, Span,
    TrainSection,
};
pub use watch::{OnSpike, SpikeWatch, WatchSection};

use crate::files::read_small_to_string;
use crate::nearest::nearest;
use crate::retrieval::Metrics;
use crate::task::Task;
use reader::Section;
use source::Source;

/// The settings of a run; each field is a section of the file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recipe {
    /// `[run]`
    pub run: RunSection,
    /// `[model]`
    pub model: ModelSection,
    /// `[corpus]`
    pub corpus: CorpusSection,
    /// `[docids]`
    pub docids: DocidSection,
    /// `[task]`
    pub task: TaskSection,
    /// `[trainable]`
    pub trainable: TrainableSection,
    /// `[stages]` or `stages = "detect"`; `None`: the stages of the paper, scaled to the depth of the decoder.
    pub stages: Option<StagesSetting>,
    /// `[optimizer]`
    pub optimizer: OptimizerSection,
    /// `[schedule]`
    pub schedule: ScheduleSection,
    /// `[train]`
    pub train: TrainSection,
    /// `[cache]`
    pub cache: CacheSection,
    /// `[evaluate]`
    pub evaluate: EvaluateSection,
    /// `[save]`
    pub save: SaveSection,
    /// `[stop]`; `None`: no early stopping.
    pub stop: Option<StopSection>,
    /// `[watch]`; `None`: nothing is watched.
    pub watch: Option<WatchSection>,
    /// `[log]`
    pub log: LogSection,
    /// `[probes]`; `None`: no probes.
    pub probes: Option<ProbesSection>,
}

impl Recipe {
    /// Reads the recipe in `file` and applies `overrides` in order (`key=value` sets, `~key` removes). Relative paths
    /// in it are relative to the current directory.
    ///
    /// # Errors
    /// The file is missing, not a regular file or not UTF-8; otherwise as for [`Recipe::from_text`].
    pub fn from_file(file: &Path, overrides: &[String]) -> Result<Self, RecipeErrors> {
        Self::from_text(&file.display().to_string(), &Self::text_of(file)?, overrides)
    }

    /// Reads the text of the recipe in `file`.
    ///
    /// # Errors
    /// The file is missing, not a regular file or not UTF-8.
    pub fn text_of(file: &Path) -> Result<String, RecipeErrors> {
        read_small_to_string(file).map_err(|error| {
            // For example, `recipes/quickstart.toml` outside of a clone.
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            let shipped = SHIPPED.iter().chain(SHIPPED_SWEEPS);
            let hint = match nearest(&stem, shipped.map(|recipe| recipe.name)) {
                Some(known) if error.kind() == ErrorKind::NotFound => {
                    format!("; genir includes a recipe named `{known}`")
                }
                _ => String::new(),
            };
            let message = format!("cannot be read: {error}{hint}");
            let problem = Problem { origin: None, key: String::new(), found: None, message };
            RecipeErrors { file: file.display().to_string(), problems: vec![problem] }
        })
    }

    /// Parses the text of a recipe; `name` is the name of its file in messages.
    ///
    /// # Errors
    /// All problems at once, each with its line or override: invalid TOML, unknown and missing keys, values that are
    /// not allowed, keys that exclude each other, overrides of another form.
    pub fn from_text(name: &str, text: &str, overrides: &[String]) -> Result<Self, RecipeErrors> {
        Source::read(text, overrides).and_then(|source| reader::read(&source, Self::read)).map_err(
            |mut problems| {
                problems.sort_by_key(|problem| (problem.origin.is_none(), problem.origin));
                RecipeErrors { file: name.to_owned(), problems }
            },
        )
    }

    /// Returns the recipe as TOML with all defaults, which parses to the same recipe.
    ///
    /// # Errors
    /// A value that TOML cannot represent, such as an integer above `i64::MAX`. A recipe that was read has none.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    fn read(file: &mut Section<'_, '_>) -> Self {
        let task = file.section("task", TaskSection::read);
        let evaluate = file.section("evaluate", |section| EvaluateSection::read(section, &task));
        let save = file.section("save", |section| SaveSection::read(section, &evaluate));
        let recipe = Self {
            run: file.section("run", RunSection::read),
            model: file.section("model", ModelSection::read),
            corpus: file.section("corpus", CorpusSection::read),
            docids: file.section("docids", DocidSection::read),
            trainable: file.section("trainable", TrainableSection::read),
            stages: model::read_stages(file),
            optimizer: file.section("optimizer", OptimizerSection::read),
            schedule: file.section("schedule", ScheduleSection::read),
            train: file.section("train", TrainSection::read),
            cache: file.section("cache", CacheSection::read),
            stop: file
                .optional_section("stop", |section| StopSection::read(section, &save.best_metric)),
            watch: file.optional_section("watch", WatchSection::read),
            log: file.section("log", LogSection::read),
            probes: file.optional_section("probes", ProbesSection::read),
            task,
            evaluate,
            save,
        };
        recipe.check_together(file);
        recipe
    }

    /// Reports conflicts between sections.
    fn check_together(&self, file: &mut Section<'_, '_>) {
        if let Span::Steps(steps) = self.train.length
            && self.schedule.warmup_steps > steps
        {
            let message = format!("the warmup is longer than the training, train.steps = {steps}");
            file.conflict("schedule.warmup_steps", &["train.steps"], message);
        }
        self.check_metric(file, "save.best_metric", &self.save.best_metric);
        if let Some(stop) = &self.stop
            && stop.metric != self.save.best_metric
        {
            self.check_metric(file, "stop.metric", &stop.metric);
        }
        if self.stop.is_some() && self.evaluate.every.is_none() {
            let message = "early stopping needs evaluations during training: give \
                           evaluate.every_steps or evaluate.every_epochs";
            let others = ["evaluate.every_steps", "evaluate.every_epochs"];
            file.conflict("stop", &others, message.to_owned());
        }
        if self.evaluate.every.is_none() {
            for key in self.probes.iter().flat_map(ProbesSection::counting_evaluations) {
                let message = "there are no evaluations during training: give \
                               evaluate.every_steps or evaluate.every_epochs";
                let others = ["evaluate.every_steps", "evaluate.every_epochs"];
                file.conflict(&key, &others, message.to_owned());
            }
        }
        if self.task.of_docids() == 0 && self.probes.is_some() {
            let message = "probes measure how docids are ranked, but task.tasks has denoising only";
            file.conflict("probes", &["task.tasks"], message.to_owned());
        }
        if self.corpus.generated_queries.is_some() && !self.task.tasks.contains(&Task::Retrieval) {
            let message = "generated queries are retrieval examples, but task.tasks does not include retrieval";
            file.conflict("corpus.generated_queries", &["task.tasks"], message.to_owned());
        }
        if self.stages == Some(StagesSetting::Detect) && self.model.init == Init::Scratch {
            let message = "stages are detected on the weights of the base model, and model.init = \"scratch\" takes \
                           random ones: give the layers as numbers, or leave `stages` out";
            file.conflict("stages", &["model.init"], message.to_owned());
        }
        let given = self.stages.as_ref().and_then(StagesSetting::given);
        if let (Some(depth), Some(stages)) = (self.model.config.num_decoder_layers, given)
            && let Err(error) = stages.check_depth(depth)
        {
            let key = "model.config.num_decoder_layers";
            file.conflict(key, &["model.config", "stages"], error.to_string());
        }
    }

    fn check_metric(&self, file: &mut Section<'_, '_>, key: &str, metric: &str) {
        let metrics = self.evaluate.metrics();
        // Without any metric, that nothing is evaluated is a problem of its own.
        if metrics.is_empty() || metrics.iter().any(|known| known == metric) {
            return;
        }
        let message = match nearest(metric, metrics.iter().map(String::as_str)) {
            Some(known) => format!("no evaluation computes this metric; did you mean `{known}`?"),
            None if self.evaluate.rankings().is_empty() => {
                format!("no evaluation computes this metric; known is {}", metrics.join(", "))
            }
            None => format!(
                "no evaluation computes this metric; known are {} of {}{}",
                Metrics::NAMES.join(", "),
                self.evaluate.rankings().join(", "),
                if self.evaluate.denoising { ", and denoising/loss" } else { "" }
            ),
        };
        let others = ["evaluate.splits", "evaluate.memorisation"];
        file.conflict(key, &others, message);
    }
}
