//! Fine-tuning of generative information retrieval models.

pub mod files;
pub mod monitor;
pub mod random;
pub mod retrieval;
pub mod run;
pub mod t5;
