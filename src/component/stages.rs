//! The three stages of the decoder: consecutive ranges of layers, scaled from the paper's or given.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, Error as _};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The depth for which the paper names its stages, and where I and II end there: 7, 11 and 6 layers.
const PAPER_DEPTH: usize = 24;
const PAPER_FIRST_END: usize = 7;
const PAPER_SECOND_END: usize = 18;

/// A stage of the decoder. Serde uses its numeral.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// I, priming.
    #[serde(rename = "I")]
    First,
    /// II, bridging.
    #[serde(rename = "II")]
    Second,
    /// III, interaction.
    #[serde(rename = "III")]
    Third,
}

impl Stage {
    /// The three stages in order.
    pub const ALL: [Stage; 3] = [Stage::First, Stage::Second, Stage::Third];

    /// The stage's Roman numeral, as recipes and selectors write it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::First => "I",
            Stage::Second => "II",
            Stage::Third => "III",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The layers of each stage, ends exclusive: consecutive, none empty, the first from layer 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stages {
    /// Stage I, priming.
    pub first: Range<usize>,
    /// Stage II, bridging.
    pub second: Range<usize>,
    /// Stage III, interaction.
    pub third: Range<usize>,
}

/// Errors of stages.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StagesError {
    /// The decoder has too few layers.
    #[error(
        "a decoder of {depth} layers cannot have three stages: each needs at least one layer, so 3 are the least"
    )]
    TooShallow {
        /// Its number of layers.
        depth: usize,
    },
    /// A stage is empty.
    #[error("stage {stage} has no layer: {found:?}")]
    Empty {
        /// The stage.
        stage: Stage,
        /// Its layers.
        found: Range<usize>,
    },
    /// Layers lie between two stages.
    #[error("stage {stage} starts at layer {start}, but layer {expected} is in no stage: a gap")]
    Gap {
        /// The later stage.
        stage: Stage,
        /// Its first layer.
        start: usize,
        /// The layer after the stage before it.
        expected: usize,
    },
    /// Two stages share layers.
    #[error(
        "stage {stage} starts at layer {start}, but the stage before it ends with layer {}: an overlap",
        .expected - 1
    )]
    Overlap {
        /// The later stage.
        stage: Stage,
        /// Its first layer.
        start: usize,
        /// The layer after the stage before it.
        expected: usize,
    },
    /// The stages do not end with the last layer.
    #[error("stage III ends with layer {}, but the decoder's last layer is {}", .end - 1, .depth - 1)]
    Depth {
        /// The layer after stage III.
        end: usize,
        /// The decoder's number of layers.
        depth: usize,
    },
    /// A text is not a range of layers.
    #[error("`{text}` is not a range of layers: write `7..18` (without layer 18), `7-17` or `7`")]
    NotLayers {
        /// The text.
        text: String,
    },
}

impl StagesError {
    /// The stage that the error is about, if it is about one.
    pub fn stage(&self) -> Option<Stage> {
        match self {
            StagesError::Empty { stage, .. }
            | StagesError::Gap { stage, .. }
            | StagesError::Overlap { stage, .. } => Some(*stage),
            StagesError::Depth { .. } => Some(Stage::Third),
            StagesError::TooShallow { .. } | StagesError::NotLayers { .. } => None,
        }
    }
}

impl Stages {
    /// The fewest decoder layers that have stages.
    pub const LEAST_DEPTH: usize = Stage::ALL.len();

    /// The paper's 7, 11 and 6 of 24 layers scaled to `depth` decoder layers, each at least one.
    ///
    /// # Errors
    /// [`StagesError::TooShallow`] for fewer than three layers.
    pub fn scaled(depth: usize) -> Result<Self, StagesError> {
        if depth < Self::LEAST_DEPTH {
            return Err(StagesError::TooShallow { depth });
        }
        let boundary = |end: usize| (depth * end + PAPER_DEPTH / 2) / PAPER_DEPTH;
        let first_end = boundary(PAPER_FIRST_END).clamp(1, depth - 2);
        let second_end = boundary(PAPER_SECOND_END).clamp(first_end + 1, depth - 1);
        Ok(Self { first: 0..first_end, second: first_end..second_end, third: second_end..depth })
    }

    /// The given stages of a decoder of `depth` layers; an overlap, a gap and a layer without a stage
    /// are errors.
    ///
    /// # Errors
    /// [`StagesError::Empty`] for a stage without layers; [`StagesError::Gap`] and [`StagesError::Overlap`] if a stage
    /// does not start where the one before it ends (the first at 0); [`StagesError::TooShallow`] and
    /// [`StagesError::Depth`] as for [`Stages::check_depth`].
    pub fn explicit(
        first: Range<usize>,
        second: Range<usize>,
        third: Range<usize>,
        depth: usize,
    ) -> Result<Self, StagesError> {
        let stages = Self::consecutive(first, second, third)?;
        stages.check_depth(depth)?;
        Ok(stages)
    }

    /// The given stages of a decoder whose depth is not known yet; see [`Stages::check_depth`].
    /// # Errors
    /// The stages do not follow each other, or one is empty.
    pub fn consecutive(
        first: Range<usize>,
        second: Range<usize>,
        third: Range<usize>,
    ) -> Result<Self, StagesError> {
        let stages = Self { first, second, third };
        let mut expected = 0;
        for stage in Stage::ALL {
            let layers = stages.layers(stage);
            let start = layers.start;
            if layers.is_empty() {
                let found = layers.clone();
                return Err(StagesError::Empty { stage, found });
            }
            if start > expected {
                return Err(StagesError::Gap { stage, start, expected });
            }
            if start < expected {
                return Err(StagesError::Overlap { stage, start, expected });
            }
            expected = layers.end;
        }
        Ok(stages)
    }

    /// Checks that the stages cover a decoder of `depth` layers exactly.
    ///
    /// # Errors
    /// [`StagesError::TooShallow`] for a decoder of fewer than three layers, [`StagesError::Depth`] if the last stage
    /// ends before or after `depth`.
    pub fn check_depth(&self, depth: usize) -> Result<(), StagesError> {
        let end = self.depth();
        if depth < Self::LEAST_DEPTH {
            Err(StagesError::TooShallow { depth })
        } else if end != depth {
            Err(StagesError::Depth { end, depth })
        } else {
            Ok(())
        }
    }

    /// The number of decoder layers that the stages cover.
    pub fn depth(&self) -> usize {
        self.third.end
    }

    /// The stage of `layer`; the last one for a layer beyond the decoder.
    pub fn of(&self, layer: usize) -> Stage {
        let within = |stage: &Stage| self.layers(*stage).contains(&layer);
        Stage::ALL.into_iter().find(within).unwrap_or(Stage::Third)
    }

    /// The layers of one stage.
    pub fn layers(&self, stage: Stage) -> &Range<usize> {
        match stage {
            Stage::First => &self.first,
            Stage::Second => &self.second,
            Stage::Third => &self.third,
        }
    }
}

impl fmt::Display for Stages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let layers = layers_text(self.layers(stage));
            write!(formatter, "{separator}{stage} {layers}")?;
        }
        Ok(())
    }
}

/// Layers as people count them, both ends included: `7-17`, or `7` alone.
pub(super) fn layers_text(layers: &Range<usize>) -> String {
    let last = layers.end.saturating_sub(1);
    if last == layers.start { last.to_string() } else { format!("{}-{last}", layers.start) }
}

/// As a recipe writes them: `I = "0..7"` and so on.
impl Serialize for Stages {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Stages", Stage::ALL.len())?;
        for stage in Stage::ALL {
            fields.serialize_field(stage.name(), &format!("{:?}", self.layers(stage)))?;
        }
        fields.end()
    }
}

/// As it is serialised; the three must be consecutive.
impl<'de> Deserialize<'de> for Stages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[allow(non_snake_case)] // the stages' own numerals
        struct Fields {
            I: String,
            II: String,
            III: String,
        }
        let fields = Fields::deserialize(deserializer)?;
        let layers = |text: &str| parse_layers(text).map_err(D::Error::custom);
        let (first, second) = (layers(&fields.I)?, layers(&fields.II)?);
        Self::consecutive(first, second, layers(&fields.III)?).map_err(D::Error::custom)
    }
}

/// Layers from text: `7..18` (end exclusive), `7-17` (both ends included) or one layer `7`.
///
/// # Errors
/// [`StagesError::NotLayers`] for text of another form, and for a range without a layer (`7..7`, `9-3`).
pub fn parse_layers(text: &str) -> Result<Range<usize>, StagesError> {
    let number = |part: &str| part.trim().parse::<usize>().ok();
    let layers = if let Some((start, end)) = text.split_once("..") {
        number(start).zip(number(end))
    } else if let Some((start, last)) = text.split_once('-') {
        number(start).zip(number(last).and_then(|last| last.checked_add(1)))
    } else {
        number(text).and_then(|layer| Some((layer, layer.checked_add(1)?)))
    };
    match layers {
        Some((start, end)) if start < end => Ok(start..end),
        _ => Err(StagesError::NotLayers { text: text.trim().to_owned() }),
    }
}
