//! Fine-tuning of generative information retrieval models.

pub mod corpus;
pub mod docid;
pub mod random;
pub mod task;
