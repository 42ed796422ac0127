//! Summaries for TensorBoard's HParams plugin: hyperparameters of a run, its metrics, and its end status.

use std::collections::HashMap;

use protobuf::well_known_types::Value;
use protobuf::{Message, ProtobufResult, RepeatedField};
use tensorboard_proto::api::{DataType, Experiment, HParamInfo, MetricInfo, MetricName, Status};
use tensorboard_proto::plugin_hparams::{HParamsPluginData, SessionEndInfo, SessionStartInfo};
use tensorboard_proto::summary::Summary;
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::tensor_shape::{TensorShapeProto, TensorShapeProto_Dim};
use tensorboard_proto::types::DataType as TensorType;

use super::event_file::plugin_summary;

/// The value of a hyperparameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Hyperparameter {
    /// A number.
    Number(f64),
    /// Any other value, as text.
    Text(String),
}

/// Returns the columns of the table: names of hyperparameters and tags of metrics. TensorBoard uses those of one run
/// for all runs of a directory; without them it would show every tag.
pub(super) fn experiment(
    values: &[(&str, Hyperparameter)],
    metrics: &[String],
) -> ProtobufResult<Summary> {
    let names = values.iter().map(|(name, value)| {
        let mut info = HParamInfo::new();
        info.set_name((*name).to_owned());
        info.set_field_type(match value {
            Hyperparameter::Number(_) => DataType::DATA_TYPE_FLOAT64,
            Hyperparameter::Text(_) => DataType::DATA_TYPE_STRING,
        });
        info
    });
    let metrics = metrics.iter().map(|tag| {
        let mut name = MetricName::new();
        name.set_tag(tag.clone());
        let mut info = MetricInfo::new();
        info.set_name(name);
        info
    });
    let mut experiment = Experiment::new();
    experiment.set_hparam_infos(names.collect());
    experiment.set_metric_infos(metrics.collect());
    let mut data = HParamsPluginData::new();
    data.set_experiment(experiment);
    summary("_hparams_/experiment", &data)
}

/// Returns the start of a run with these hyperparameters.
pub(super) fn session_start(
    values: &[(&str, Hyperparameter)],
    wall_time: f64,
) -> ProtobufResult<Summary> {
    let values = values.iter().map(|(name, value)| {
        let mut stored = Value::new();
        match value {
            Hyperparameter::Number(number) => stored.set_number_value(*number),
            Hyperparameter::Text(text) => stored.set_string_value(text.clone()),
        }
        ((*name).to_owned(), stored)
    });
    let mut start = SessionStartInfo::new();
    start.set_hparams(values.collect::<HashMap<String, Value>>());
    start.set_start_time_secs(wall_time);
    let mut data = HParamsPluginData::new();
    data.set_session_start_info(start);
    summary("_hparams_/session_start_info", &data)
}

/// Returns the end of a run.
pub(super) fn session_end(failed: bool, wall_time: f64) -> ProtobufResult<Summary> {
    let mut end = SessionEndInfo::new();
    end.set_status(if failed { Status::STATUS_FAILURE } else { Status::STATUS_SUCCESS });
    end.set_end_time_secs(wall_time);
    let mut data = HParamsPluginData::new();
    data.set_session_end_info(end);
    summary("_hparams_/session_end_info", &data)
}

/// Returns a summary with all data in the metadata; the tensor is empty.
fn summary(tag: &str, data: &HParamsPluginData) -> ProtobufResult<Summary> {
    let mut shape = TensorShapeProto::new();
    shape.set_dim(RepeatedField::from_vec(vec![TensorShapeProto_Dim::new()]));
    let mut empty = TensorProto::new();
    empty.set_dtype(TensorType::DT_FLOAT);
    empty.set_tensor_shape(shape);
    Ok(plugin_summary(tag, "hparams", data.write_to_bytes()?, empty))
}
