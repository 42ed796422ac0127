//! Where a run computes: the CPU, or an NVIDIA GPU in builds with the feature `cuda`.

use burn::tensor::Device;
use thiserror::Error;

/// Why a device cannot be had.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DeviceError {
    /// Not a device's name.
    #[error("device `{found}`: expected auto, cpu, cuda or cuda:N (N counts from 0)")]
    Unknown {
        /// What was asked for.
        found: String,
    },
    /// This binary was built without CUDA.
    #[error(
        "device `{found}`: this build of genir has no CUDA; build it with `--features cuda` \
         (README, \"GPU\"), or use `cpu`"
    )]
    NotBuilt {
        /// What was asked for.
        found: String,
    },
    /// There is no driver on this machine.
    #[error(
        "device `{found}`: no NVIDIA driver was found on this machine (libcuda cannot be loaded); \
         install the driver, or use `cpu`"
    )]
    NoDriver {
        /// What was asked for.
        found: String,
    },
    /// There are fewer GPUs.
    #[error("device `{found}`: this machine has {count} CUDA device(s), counted from 0")]
    NoSuchGpu {
        /// What was asked for.
        found: String,
        /// GPUs that the driver reports.
        count: usize,
    },
}

/// The device called `name`: `cpu`, `cuda`, `cuda:N`, or `auto` (the first GPU if this build and this
/// machine have one, else the CPU).
///
/// # Errors
/// In words, before Burn is asked for a GPU: with none, Burn 0.22 panics.
pub fn device(name: &str) -> Result<Device, DeviceError> {
    match name {
        "auto" => Ok(cuda(name, 0).unwrap_or_else(|_| Device::flex())),
        "cpu" => Ok(Device::flex()),
        "cuda" => cuda(name, 0),
        other => match other.strip_prefix("cuda:").and_then(|number| number.parse().ok()) {
            Some(index) => cuda(name, index),
            None => Err(DeviceError::Unknown { found: name.to_owned() }),
        },
    }
}

/// Whether tensors of `device` lie in memory that the CPU computes in.
pub fn is_host(device: &Device) -> bool {
    // Device equality ignores autodiff.
    *device == Device::flex()
}

/// `cpu` or `cuda:N`, as written to the run directory.
pub fn describe(device: &Device) -> String {
    if is_host(device) { "cpu".to_owned() } else { format!("{:?}", device.clone().inner()) }
}

#[cfg(not(feature = "cuda"))]
fn cuda(name: &str, _index: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt { found: name.to_owned() })
}

#[cfg(feature = "cuda")]
fn cuda(name: &str, index: usize) -> Result<Device, DeviceError> {
    let found = name.to_owned();
    // SAFETY: only looks whether the driver's library can be loaded.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(DeviceError::NoDriver { found });
    }
    let count = cudarc::driver::result::init()
        .and_then(|()| cudarc::driver::result::device::get_count())
        .map_err(|_| DeviceError::NoDriver { found: found.clone() })? as usize;
    if index >= count {
        return Err(DeviceError::NoSuchGpu { found, count });
    }
    Ok(Device::cuda(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_cannot_be_had_is_refused_in_words() {
        assert!(is_host(&device("cpu").unwrap()));
        assert!(matches!(device("gpu"), Err(DeviceError::Unknown { .. })));
        assert!(matches!(device("cuda:x"), Err(DeviceError::Unknown { .. })));
        #[cfg(not(feature = "cuda"))]
        assert!(matches!(device("cuda:1"), Err(DeviceError::NotBuilt { .. })));
    }
}
