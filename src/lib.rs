//! Fine-tuning of generative information retrieval models.

pub mod random;
pub mod t5;
