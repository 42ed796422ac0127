//! The states of the optimizer in a checkpoint: `optimizer.safetensors`, with PyTorch's names of the moments.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use burn::optim::{AdafactorState, AdamWState, AdaptiveMomentumState, DynState};
use burn::tensor::{Device, Tensor, TensorData};

use super::optimizer::{Optimizer, State, UpdateRule};
use super::shards::{DOCIDS, Shards};
use crate::t5::weights::{
    Put, StoredTensors, StoredType, TensorEntry, WeightsError, write_tensors,
};

/// The moments of one parameter: names, and values off the autodiff graph.
type Moments<const D: usize> = Vec<(&'static str, Tensor<D>)>;

impl Optimizer {
    /// Number of updates of each parameter so far.
    pub(super) fn steps(&self) -> BTreeMap<String, usize> {
        let steps = self.states.iter().map(|(name, State { state, .. })| {
            let steps = match state.rank() {
                1 => self.rule.moments::<1>(state).0,
                _ => self.rule.moments::<2>(state).0,
            };
            (name.clone(), steps)
        });
        steps.collect()
    }

    /// Writes the moments of all parameters, each as `<parameter>.<moment>`, in f32. `shards`: where docid rows are divided
    /// among processes.
    ///
    /// # Errors
    /// The file cannot be written, or another process's moments are not received.
    pub(super) fn write(&self, path: &Path, shards: Option<&Shards>) -> Result<(), WeightsError> {
        let others = [1, 2].map(|moment| {
            move |put: &mut Put| shards.map_or(Ok(()), |shards| shards.receive(moment, put))
        });
        let mut all: Vec<TensorEntry> = Vec::new();
        for (name, State { state, .. }) in &self.states {
            let own = match state.rank() {
                1 => entries(name, self.rule.moments::<1>(state).1),
                _ => entries(name, self.rule.moments::<2>(state).1),
            };
            match shards.filter(|_| name == DOCIDS) {
                None => all.extend(own),
                Some(shards) => {
                    all.extend(own.into_iter().zip(&others).map(|(mut entry, more)| {
                        entry.shape[0] += shards.others();
                        entry.followed_by(more)
                    }))
                }
            }
        }
        write_tensors(path, all, StoredType::Float32, &[])
    }

    /// The moments of the docid rows that this process has, `[rows, d_model]` each; none before their first update.
    pub(super) fn docid_moments(&self) -> Vec<Tensor<2>> {
        let state = self.states.get(DOCIDS);
        let moments = state.map(|State { state, .. }| self.rule.moments::<2>(state).1);
        moments.into_iter().flatten().map(|(_, values)| values).collect()
    }

    /// The moments of all parameters with their names in the file, copied one at a time.
    pub(super) fn moments(&self) -> impl Iterator<Item = (String, TensorData)> {
        self.states.iter().flat_map(|(name, State { state, .. })| match state.rank() {
            1 => named(name, self.rule.moments::<1>(state).1),
            _ => named(name, self.rule.moments::<2>(state).1),
        })
    }

    /// Reads the moments of the parameters in `steps`, which were updated so many times. `shapes`: their dimensions; `rows`:
    /// the docid rows that this process has, if it has not all.
    ///
    /// # Errors
    /// The file cannot be read, or does not have the moments of this optimizer.
    pub(super) fn restore(
        &mut self,
        path: &Path,
        steps: &BTreeMap<String, usize>,
        shapes: &BTreeMap<String, Vec<usize>>,
        device: &Device,
        rows: Option<Range<usize>>,
    ) -> Result<(), WeightsError> {
        let tensors = StoredTensors::open_file(path)?;
        for (name, &steps) in steps {
            let missing = || WeightsError::Missing {
                directory: path.to_path_buf(),
                tensor: name.clone(),
                expected: Vec::new(),
            };
            let shape = shapes.get(name).ok_or_else(missing)?;
            let rows = rows.clone().filter(|_| name == DOCIDS);
            let stored = Stored { tensors: &tensors, name, device, rows };
            let state = match *shape.as_slice() {
                [length] => self.rule.restored::<1>(&stored, steps, [length])?,
                [rows, columns] => self.rule.restored::<2>(&stored, steps, [rows, columns])?,
                _ => return Err(missing()),
            };
            self.states.insert(name.clone(), state);
        }
        Ok(())
    }
}

fn named<const D: usize>(name: &str, moments: Moments<D>) -> Vec<(String, TensorData)> {
    let named =
        |(moment, values): (&str, Tensor<D>)| (format!("{name}.{moment}"), values.into_data());
    moments.into_iter().map(named).collect()
}

fn entries<const D: usize>(name: &str, moments: Moments<D>) -> Vec<TensorEntry<'static>> {
    let entry = |(moment, values): (&str, Tensor<D>)| {
        let shape = values.dims();
        let columns = shape[D - 1];
        let rows = shape.iter().product::<usize>() / columns.max(1);
        let values = values.reshape([rows, columns]);
        TensorEntry::held(format!("{name}.{moment}"), shape.to_vec(), vec![values])
    };
    moments.into_iter().map(entry).collect()
}

/// The moments of one parameter in a file.
struct Stored<'a> {
    tensors: &'a StoredTensors,
    name: &'a str,
    device: &'a Device,
    /// The rows to be read; none for all.
    rows: Option<Range<usize>>,
}

impl Stored<'_> {
    fn moment<const D: usize>(
        &self,
        moment: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, WeightsError> {
        let name = format!("{}.{moment}", self.name);
        let values = match &self.rows {
            None => self.tensors.values(&name, &shape)?,
            Some(rows) => self.tensors.rows(&name, rows.clone(), shape[D - 1])?,
        };
        Ok(Tensor::from_data(TensorData::new(values, shape), self.device))
    }
}

impl UpdateRule {
    /// The number of updates in the state of a parameter, and its moments.
    fn moments<const D: usize>(&self, state: &DynState) -> (usize, Moments<D>) {
        match self {
            UpdateRule::AdamW(_) => {
                let AdamWState { momentum } = state.downcast_ref::<AdamWState<D>>();
                let moments = vec![
                    ("exp_avg", momentum.moment_1.clone()),
                    ("exp_avg_sq", momentum.moment_2.clone()),
                ];
                (momentum.time, moments)
            }
            UpdateRule::Adafactor(_) => {
                let state = state.downcast_ref::<AdafactorState<D>>();
                let rows = state.second_moment.clone();
                let moments = match &state.column_second_moment {
                    None => vec![("exp_avg_sq", rows)],
                    Some(columns) => {
                        vec![("exp_avg_sq_row", rows), ("exp_avg_sq_col", columns.clone())]
                    }
                };
                (state.time, moments)
            }
        }
    }

    /// The state of a parameter of this shape from its stored moments.
    fn restored<const D: usize>(
        &self,
        stored: &Stored,
        time: usize,
        shape: [usize; D],
    ) -> Result<State, WeightsError> {
        Ok(match self {
            UpdateRule::AdamW(_) => {
                let moment_1 = stored.moment("exp_avg", shape)?;
                let moment_2 = stored.moment("exp_avg_sq", shape)?;
                let momentum =
                    AdaptiveMomentumState { time, moment_1, moment_2, max_moment_2: None };
                State::new(AdamWState::<D>::new(momentum))
            }
            UpdateRule::Adafactor(_) if D == 1 => State::new(AdafactorState::<D> {
                time,
                second_moment: stored.moment("exp_avg_sq", shape)?,
                column_second_moment: None,
            }),
            UpdateRule::Adafactor(_) => {
                let (mut of_rows, mut of_columns) = (shape, shape);
                (of_rows[D - 1], of_columns[D - 2]) = (1, 1);
                State::new(AdafactorState::<D> {
                    time,
                    second_moment: stored.moment("exp_avg_sq_row", of_rows)?,
                    column_second_moment: Some(stored.moment("exp_avg_sq_col", of_columns)?),
                })
            }
        })
    }
}
