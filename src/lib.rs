//! Fine-tuning of generative information retrieval models.

pub mod component;
pub mod nearest;
pub mod random;
pub mod recipe;
