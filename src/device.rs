//! Where a run computes: the CPU, or an NVIDIA GPU in builds with the feature `cuda`.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{Device, FloatDType};
use thiserror::Error;

use crate::choice::choice;

choice! {
    /// In what a GPU computes products with weights; parameters and all else are f32 in any case.
    Precision {
        /// The default.
        Bf16 = "bf16",
        /// To tell rounding from mistakes: several times slower.
        F32 = "f32",
    }
}

/// Why a device cannot be had.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DeviceError {
    /// Not a device's name.
    #[error(
        "device `{found}`: expected auto, cpu, cuda or cuda:N (N counts from 0), a cuda device also with +f32"
    )]
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

/// A device's name, understood.
enum Name {
    Auto,
    Cpu,
    /// The number of a GPU, and whether its products stay f32.
    Cuda(usize, Precision),
}

fn parse(name: &str) -> Option<Name> {
    let (gpu, precision) = match name.strip_suffix("+f32") {
        Some(gpu) => (gpu, Precision::F32),
        None => (name, Precision::Bf16),
    };
    match (name, gpu) {
        ("auto", _) => Some(Name::Auto),
        ("cpu", _) => Some(Name::Cpu),
        (_, "cuda") => Some(Name::Cuda(0, precision)),
        _ => {
            let number: u16 = gpu.strip_prefix("cuda:")?.parse().ok()?;
            Some(Name::Cuda(usize::from(number), precision))
        }
    }
}

/// Whether `name` names a device, on this machine or another.
pub fn is_name(name: &str) -> bool {
    parse(name).is_some()
}

/// The device called `name`: `cpu`, `cuda`, `cuda:N`, or `auto` (the first GPU if this build and this
/// machine have one, else the CPU). `+f32` behind a GPU's name sets the process's [`precision`].
///
/// # Errors
/// In words, before Burn is asked for a GPU: with none, Burn 0.22 panics.
pub fn device(name: &str) -> Result<Device, DeviceError> {
    match parse(name) {
        None => Err(DeviceError::Unknown { found: name.to_owned() }),
        Some(Name::Auto) => Ok(cuda(name, 0).unwrap_or_else(|_| Device::flex())),
        Some(Name::Cpu) => Ok(Device::flex()),
        Some(Name::Cuda(index, precision)) => {
            let device = cuda(name, index)?;
            let bf16 = precision == Precision::Bf16 && device.supports_dtype(FloatDType::BF16);
            PRODUCTS_IN_F32.store(!bf16, Ordering::Relaxed);
            Ok(device)
        }
    }
}

/// One process computes on one device: not carried through the model to each of its products.
static PRODUCTS_IN_F32: AtomicBool = AtomicBool::new(false);

/// In what this process computes products with weights where it does so on a GPU: as the device's name said, and f32 on
/// a GPU without bf16.
pub fn precision() -> Precision {
    if PRODUCTS_IN_F32.load(Ordering::Relaxed) { Precision::F32 } else { Precision::Bf16 }
}

/// Sequences are padded to a multiple of this on GPUs, where each new shape costs compiled and tried kernels.
const GPU_LENGTH_STEP: usize = 8;

/// To what multiple the lengths of batches on `device` are rounded up.
pub fn length_step(device: &Device) -> usize {
    if is_host(device) { 1 } else { GPU_LENGTH_STEP }
}

/// Whether tensors of `device` lie in memory that the CPU computes in.
pub fn is_host(device: &Device) -> bool {
    // Device equality ignores autodiff.
    *device == Device::flex()
}

/// `cpu`, or the GPU with its precision, as written to the run directory.
pub fn describe(device: &Device) -> String {
    if is_host(device) {
        return "cpu".to_owned();
    }
    format!("{:?}, products in {}", device.clone().inner(), precision())
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
        for name in ["cuda:x", "cuda:", "cuda:99999999", "cpu+f32", "cuda+f16", ""] {
            assert!(matches!(device(name), Err(DeviceError::Unknown { .. })), "{name}");
        }
        #[cfg(not(feature = "cuda"))]
        for name in ["cuda", "cuda:1", "cuda:1+f32"] {
            assert!(matches!(device(name), Err(DeviceError::NotBuilt { .. })), "{name}");
        }
    }
}
