//! Computes the frozen prefix before the first update, and releases the weights that only it needs.

use std::sync::Arc;
use std::time::Duration;

use burn::module::Module;

use super::super::TrainError;
use super::super::costs::{Phase, processor_time};
use super::super::plan::Plan;
use super::super::plan_error::PlanError;
use super::Trainer;
use crate::monitor::Monitor;
use crate::prefix::{FrozenModel, Prefix, PrefixStorage, SharedTexts, TextSet, mebibytes};
use crate::probe::PROBED;
use crate::processes::{Order, ProcessesError};
use crate::t5::{GenirModel, T5};

impl Trainer<'_> {
    /// Finds or computes the frozen prefix of the training texts, and of those `asked` for.
    ///
    /// All of it is computed before the first step: sorted by length, the texts need little padding, and the first
    /// epoch would otherwise read them in an order other than the stored one.
    pub(in super::super) fn prepare(
        &mut self,
        model: &GenirModel,
        asked: Vec<TextSet<'_>>,
        progress: &mut dyn FnMut(&str, usize, usize),
    ) {
        let t5 = model.t5.valid();
        let Some(frozen) = self.frozen(&t5) else { return };
        let training = self.plan.training_texts();
        let settings = self.plan.recipe.cache.settings();
        let processors = processor_time();
        let world = self.world.filter(|world| world.is_first());
        let prefix = Prefix::prepare_together(world, &frozen, &settings, training, asked, progress);
        self.costs.processor_seconds += (processor_time() - processors).as_secs_f64();
        let seconds: f64 = prefix.stored().iter().map(|stored| stored.seconds).sum();
        self.costs.spend(Phase::Prefix, Duration::from_secs_f64(seconds));
        self.ahead = prefix.training_prefetcher();
        self.prefix = Some(Arc::new(prefix));
    }

    fn frozen<'t>(&'t self, t5: &'t T5) -> Option<FrozenModel<'t>> {
        let Plan { tokenizer, device, .. } = self.plan;
        let prefix = self.plan.frozen_prefix()?;
        Some(FrozenModel { t5, prefix, device, pad_id: tokenizer.pad_id() })
    }

    /// As [`Trainer::prepare`], on a process that is not the first: computes the share that the first one orders, and then
    /// reads what that one has stored, where both see the same cache. Returns the processor time of this in seconds.
    pub(super) fn prepare_share(&mut self, model: &GenirModel) -> Result<f64, TrainError> {
        let processors = processor_time();
        let follower = self.follower.take();
        let asked = || follower.iter().flat_map(|follower| follower.text_sets(self.total_steps));
        if let Some(world) = self.world {
            let t5 = model.t5.valid();
            let frozen = self.frozen(&t5);
            let mut texts =
                SharedTexts::new([self.plan.training_texts()].into_iter().chain(asked()).collect());
            while let Order::Prefix { texts: digest, round } = world.hear()? {
                if let Some(frozen) = &frozen {
                    texts.compute(frozen, world, (digest, round))?;
                }
            }
        }
        let asked = asked().collect();
        self.prepare(model, asked, &mut |_, _, _| {});
        self.follower = follower;
        Ok((processor_time() - processors).as_secs_f64())
    }

    /// Logs what is stored of the frozen prefix.
    pub(super) fn report_prefix(&self, monitor: &mut Monitor) {
        let Some(prefix) = &self.prefix else { return };
        for stored in prefix.stored() {
            monitor.message(&format!("frozen prefix of {stored}"));
        }
        // A run that continues has these scalars already.
        if !prefix.stored().is_empty() && self.newest.number == 0 {
            let mut values = prefix.summary();
            values.push(("time/processor_seconds", self.costs.processor_seconds));
            monitor.scalars(0, 0.0, &values);
        }
    }

    /// Checks that all processes have stored the same of the texts that all of them read: stored states may be rounded
    /// (`cache.type`).
    pub(super) fn check_prefix(&self) -> Result<(), ProcessesError> {
        let Some(world) = self.world else { return Ok(()) };
        let training = self.plan.training_texts().name;
        // Callbacks that only the first process has may ask for others.
        let is_read_by_all = |name: &String| {
            *name == training
                || self.plan.query_sets.iter().any(|(set, _)| set.name == *name)
                || name.starts_with(PROBED)
        };
        let stored = self.prefix.iter().flat_map(|prefix| prefix.stored());
        let names: Vec<&str> = stored
            .filter(|set| !matches!(set.storage, PrefixStorage::NotStored(_)))
            .filter(|set| is_read_by_all(&set.name))
            .map(|set| set.name.as_str())
            .collect();
        let names = format!("[{}]", names.join(", "));
        world.agree(&[("the texts whose frozen prefix is stored", names)])
    }

    /// Releases the weights that only the frozen prefix uses, unless this process or another one uses them beside what is
    /// stored. `is_enough` is false if this process does.
    pub(super) fn release_unless_used(
        &self,
        model: GenirModel,
        is_enough: bool,
        monitor: Option<&Monitor>,
    ) -> Result<GenirModel, TrainError> {
        let is_enough = match self.world {
            None => is_enough,
            Some(world) => !world.all_gather(&[u8::from(is_enough)])?.contains(&0),
        };
        match is_enough {
            true => self.release_frozen(model, monitor),
            false => Ok(model),
        }
    }

    /// Releases the weights that only the frozen prefix uses.
    pub(in super::super) fn release_frozen(
        &self,
        mut model: GenirModel,
        monitor: Option<&Monitor>,
    ) -> Result<GenirModel, TrainError> {
        // Corrupted texts go through the whole model at each step.
        let is_stored = |prefix: &&Arc<Prefix>| prefix.is_complete() && !self.plan.is_denoising();
        let Some(prefix) = self.prefix.as_ref().filter(is_stored) else {
            return Ok(model);
        };
        let origin = Arc::new(self.plan.origin().map_err(PlanError::from)?);
        let frozen = prefix.frozen();
        let bytes;
        (model.t5, bytes) =
            model.t5.release_before(frozen.layer(), &origin).map_err(PlanError::from)?;
        if let (Some(monitor), 1..) = (monitor, bytes) {
            let size = mebibytes(bytes as u64);
            monitor.message(&format!(
                "frozen prefix: the weights of the {frozen} are released ({size})"
            ));
        }
        Ok(model)
    }
}
