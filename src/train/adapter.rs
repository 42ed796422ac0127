//! The adapter of a LoRA run, and whether `peft` can load it.

use super::plan::Plan;
use crate::checkpoint::Adapter;
use crate::recipe::Init;
use crate::t5::GenirModel;
use crate::t5::weights::OtherRows;

impl Plan {
    /// The adapter of a `model` of this plan's run, of whose docid rows other processes have some; none if LoRA adapts
    /// nothing.
    pub(super) fn adapter<'a>(
        &'a self,
        model: &'a GenirModel,
        other_rows: Option<OtherRows<'a>>,
    ) -> Option<Adapter<'a>> {
        let base = match self.no_peft_adapter() {
            None => Ok(self.recipe.model.base.as_str()),
            Some(reason) => Err(reason),
        };
        let Self { lora, trained, .. } = self;
        (!lora.is_empty()).then_some(Adapter { model, lora, trained, other_rows, base })
    }

    /// Why `peft` cannot load the adapter of this run, if it cannot.
    pub fn no_peft_adapter(&self) -> Option<String> {
        match self.recipe.model.init {
            Init::Scratch => Some(
                "the run starts from a random initialisation, which peft cannot load".to_owned(),
            ),
            Init::Pretrained if self.base.has_moved_rows() => Some(
                "the base model has word rows after its docid rows, which peft cannot move"
                    .to_owned(),
            ),
            Init::Pretrained => Adapter::inexpressible(&self.trained),
        }
    }
}
