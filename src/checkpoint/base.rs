//! tmp
use std::path::PathBuf;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct BaseError;
pub struct HubSettings;
impl HubSettings { pub fn from_env() -> Self { Self } }
pub enum Wanted { Weights, Configuration }
pub fn locate(base: &str, _revision: Option<&str>, _wanted: Wanted, _settings: &HubSettings) -> Result<PathBuf, BaseError> { Ok(base.into()) }
