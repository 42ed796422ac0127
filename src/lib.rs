//! Fine-tuning of generative information retrieval models.

pub mod corpus;
pub mod random;
