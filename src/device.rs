//! The compute device of a run: the CPU, or an NVIDIA GPU in builds with the feature `cuda`.

use burn::tensor::{Device, FloatDType};
use thiserror::Error;

use crate::choice::choice;

choice! {
    /// The type of matrix products with weights on a GPU; parameters and all other operations are always f32. The CPU
    /// computes everything in f32.
    #[derive(Default)]
    Precision {
        /// The default on GPUs that support it.
        Bf16 = "bf16",
        /// For debugging rounding errors; several times slower.
        #[default]
        F32 = "f32",
    }
}

/// A device, and the precision of its matrix products with weights.
#[derive(Debug, Clone, PartialEq)]
pub struct ComputeDevice {
    /// The device of the tensors, with or without autodiff.
    pub device: Device,
    /// The precision of matrix products with weights.
    pub precision: Precision,
}

impl ComputeDevice {
    /// Uses bf16 if it is requested and the device supports it, else f32.
    fn new(device: Device, requested: Precision) -> Self {
        let bf16 = !is_host(&device) && device.supports_dtype(FloatDType::BF16);
        let precision = if bf16 { requested } else { Precision::F32 };
        Self { device, precision }
    }
}

impl From<&Device> for ComputeDevice {
    /// Uses the default precision of the device: bf16 on GPUs that support it.
    fn from(device: &Device) -> Self {
        Self::new(device.clone(), Precision::Bf16)
    }
}

impl From<&ComputeDevice> for ComputeDevice {
    fn from(device: &ComputeDevice) -> Self {
        device.clone()
    }
}

/// Errors of selecting a device.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DeviceError {
    /// The name is not the name of a device.
    #[error(
        "device `{found}`: expected auto, cpu, cuda or cuda:N (N counts from 0), a cuda device also with +f32"
    )]
    Unknown {
        /// The requested device.
        found: String,
    },
    /// This binary was built without CUDA.
    #[error(
        "device `{found}`: this build of genir has no CUDA; build it with `--features cuda` \
         (README, \"GPU\"), or use `cpu`"
    )]
    NotBuilt {
        /// The requested device.
        found: String,
    },
    /// The machine has no NVIDIA driver.
    #[error(
        "device `{found}`: no NVIDIA driver was found on this machine (libcuda cannot be loaded); \
         install the driver, or use `cpu`"
    )]
    NoDriver {
        /// The requested device.
        found: String,
    },
    /// The machine has fewer GPUs.
    #[error("device `{found}`: this machine has {count} CUDA device(s), counted from 0")]
    NoSuchGpu {
        /// The requested device.
        found: String,
        /// GPUs that the driver reports.
        count: usize,
    },
}

/// A parsed device name.
enum Name {
    Auto,
    Cpu,
    /// The index of a GPU, if the name has one, and the requested precision.
    Cuda(Option<usize>, Precision),
}

fn parse(name: &str) -> Option<Name> {
    let (gpu, precision) = match name.strip_suffix("+f32") {
        Some(gpu) => (gpu, Precision::F32),
        None => (name, Precision::Bf16),
    };
    match (name, gpu) {
        ("auto", _) => Some(Name::Auto),
        ("cpu", _) => Some(Name::Cpu),
        (_, "cuda") => Some(Name::Cuda(None, precision)),
        _ => {
            let number: u16 = gpu.strip_prefix("cuda:")?.parse().ok()?;
            Some(Name::Cuda(Some(usize::from(number)), precision))
        }
    }
}

/// Returns whether `name` is the name of a device, available on this machine or not.
pub fn is_valid_name(name: &str) -> bool {
    parse(name).is_some()
}

/// Returns the device with this name: `cpu`, `cuda`, `cuda:N`, or `auto` (as `cuda` if this build and this machine support
/// a GPU, else the CPU). With `+f32` after the name of a GPU, and on GPUs without bf16, products are computed in f32.
///
/// `cuda` is the first GPU. Of several processes that MPI has started on a machine, the first has the first GPU, the second
/// the second one, and so on; with more processes than GPUs, they begin again at the first.
///
/// # Errors
/// The device is unavailable. This is checked before Burn is called, which panics without a GPU (0.22).
pub fn device(name: &str) -> Result<ComputeDevice, DeviceError> {
    let (device, precision) = match parse(name) {
        None => return Err(DeviceError::Unknown { found: name.to_owned() }),
        Some(Name::Auto) => (cuda(name, None).unwrap_or_else(|_| Device::flex()), Precision::Bf16),
        Some(Name::Cpu) => (Device::flex(), Precision::F32),
        Some(Name::Cuda(index, precision)) => (cuda(name, index)?, precision),
    };
    Ok(ComputeDevice::new(device, precision))
}

/// On GPUs, sequences are padded to a multiple of this, since kernels are compiled and tuned for each new shape.
const GPU_PAD_TO_MULTIPLE_OF: usize = 8;

/// Returns the number of tokens to a multiple of which batches on `device` are padded.
pub fn pad_to_multiple_of(device: &Device) -> usize {
    if is_host(device) { 1 } else { GPU_PAD_TO_MULTIPLE_OF }
}

/// Returns whether `device` is the CPU, so that its tensors are in host memory.
pub fn is_host(device: &Device) -> bool {
    // Device equality ignores autodiff.
    *device == Device::flex()
}

/// Returns the description of a device in the run directory: `cpu`, or the GPU with its precision.
pub fn describe(device: &Device, precision: Precision) -> String {
    if is_host(device) {
        return "cpu".to_owned();
    }
    format!("{:?}, products in {precision}", device.clone().inner())
}

/// Returns the PCI address of the GPU with this name, as NVML writes it: `00000000:3B:00.0`; `None` for the CPU. NVML counts
/// GPUs in another order than CUDA. Of a part of a GPU (MIG), it is the address of the whole.
pub(crate) fn pci_bus_id(name: &str) -> Option<String> {
    match parse(name)? {
        Name::Cpu => None,
        Name::Auto => bus_id_of(None),
        Name::Cuda(index, _) => bus_id_of(index),
    }
}

#[cfg(not(feature = "cuda"))]
fn bus_id_of(_index: Option<usize>) -> Option<String> {
    None
}

#[cfg(feature = "cuda")]
fn bus_id_of(index: Option<usize>) -> Option<String> {
    use cudarc::driver::result::device::{get, get_attribute};
    use cudarc::driver::sys::CUdevice_attribute as Attribute;
    // Without a driver, the functions below would panic.
    let index = gpu_index("", index).ok()?;
    let gpu = get(i32::try_from(index).ok()?).ok()?;
    // SAFETY: `gpu` is a device that the driver has just returned.
    let of = |attribute| unsafe { get_attribute(gpu, attribute) }.ok();
    let domain = of(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
    let bus = of(Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
    let device = of(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
    Some(format!("{domain:08X}:{bus:02X}:{device:02X}.0"))
}

#[cfg(not(feature = "cuda"))]
fn cuda(name: &str, _index: Option<usize>) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt { found: name.to_owned() })
}

#[cfg(feature = "cuda")]
fn cuda(name: &str, index: Option<usize>) -> Result<Device, DeviceError> {
    gpu_index(name, index).map(Device::cuda)
}

/// The number of the GPU with this index, or of this process's own.
#[cfg(feature = "cuda")]
fn gpu_index(name: &str, index: Option<usize>) -> Result<usize, DeviceError> {
    let found = name.to_owned();
    // SAFETY: the function only checks whether the library of the driver can be loaded.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(DeviceError::NoDriver { found });
    }
    let count = cudarc::driver::result::init()
        .and_then(|()| cudarc::driver::result::device::get_count())
        .map_err(|_| DeviceError::NoDriver { found: found.clone() })? as usize;
    let index = index.unwrap_or_else(|| own_gpu(crate::processes::started_local_rank(), count));
    if index >= count {
        return Err(DeviceError::NoSuchGpu { found, count });
    }
    Ok(index)
}

/// The GPU of a process among `gpus`. A launcher may have given each process one GPU, so that it sees no other.
#[cfg(any(feature = "cuda", test))]
fn own_gpu(local_rank: usize, gpus: usize) -> usize {
    local_rank.checked_rem(gpus).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unavailable_device_is_an_error() {
        let cpu = device("cpu").unwrap();
        assert!(is_host(&cpu.device));
        assert_eq!(cpu.precision, Precision::F32, "the CPU computes in f32, whatever a GPU would");
        assert_eq!(ComputeDevice::from(&Device::flex().autodiff()).precision, Precision::F32);
        assert_eq!(pci_bus_id("cpu"), None);
        assert!(matches!(device("gpu"), Err(DeviceError::Unknown { .. })));
        for name in ["cuda:x", "cuda:", "cuda:99999999", "cpu+f32", "cuda+f16", ""] {
            assert!(matches!(device(name), Err(DeviceError::Unknown { .. })), "{name}");
        }
        #[cfg(not(feature = "cuda"))]
        for name in ["cuda", "cuda:1", "cuda:1+f32"] {
            assert!(matches!(device(name), Err(DeviceError::NotBuilt { .. })), "{name}");
        }
    }

    #[test]
    fn processes_of_a_machine_have_a_gpu_each_as_far_as_there_are_enough() {
        let of_six = |gpus| (0..6).map(|rank| own_gpu(rank, gpus)).collect::<Vec<usize>>();
        assert_eq!(of_six(8), [0, 1, 2, 3, 4, 5]);
        assert_eq!(of_six(4), [0, 1, 2, 3, 0, 1]);
        assert_eq!(of_six(1), [0; 6]);
        assert_eq!(own_gpu(2, 0), 0, "the error of a machine without a GPU comes later");
    }
}
