//! The energy and the memory of a GPU, as NVIDIA's management library (NVML) reports them.

use std::process;

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::{Device, Nvml};

/// Reads what this process uses of a GPU.
#[derive(Debug)]
pub(crate) struct GpuMeter {
    nvml: Nvml,
    /// The address of the GPU, such as `00000000:3B:00.0`.
    bus_id: String,
    /// Millijoules at the start; `None` if the GPU does not count its energy, as those before Volta.
    start: Option<u64>,
}

impl GpuMeter {
    /// Opens the GPU at the PCI address `bus_id`; `None` where there is no NVML, or it does not know this GPU.
    pub fn open(bus_id: String) -> Option<Self> {
        Self::with(Nvml::init().ok()?, bus_id)
    }

    fn with(nvml: Nvml, bus_id: String) -> Option<Self> {
        nvml.device_by_pci_bus_id(bus_id.as_str()).ok()?;
        let mut meter = Self { nvml, bus_id, start: None };
        meter.start = meter.millijoules();
        Some(meter)
    }

    /// Returns whether the GPU counts its energy.
    pub fn counts_energy(&self) -> bool {
        self.start.is_some()
    }

    /// Returns the joules of the GPU since the meter was opened, those of other processes included; `None` if the counter
    /// cannot be read any more, or began anew.
    pub fn joules(&self) -> Option<f64> {
        Some(self.millijoules()?.checked_sub(self.start?)? as f64 * 1e-3)
    }

    /// Returns the bytes of GPU memory that this process holds, those that Burn keeps for later allocations included;
    /// `None` if NVML does not list this process, as in a container with process numbers of its own.
    pub fn memory(&self) -> Option<u64> {
        let processes = self.device()?.running_compute_processes().ok()?;
        match processes.iter().find(|found| found.pid == process::id())?.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        }
    }

    /// The millijoules that the GPU has used since its driver was loaded.
    fn millijoules(&self) -> Option<u64> {
        self.device()?.total_energy_consumption().ok()
    }

    fn device(&self) -> Option<Device<'_>> {
        self.nvml.device_by_pci_bus_id(self.bus_id.as_str()).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use super::*;

    /// The functions of NVML that are called, for one GPU. Its energy is read from a file; 3 is "not supported", 6 is "not
    /// found", 7 is "the array is too small". Two processes compute on it: another one, and the one that calls.
    const NVML: &str = r#"
        #include <stdio.h>
        #include <string.h>
        #include <unistd.h>
        int nvmlInit_v2(void) { return 0; }
        int nvmlShutdown(void) { return 0; }
        int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **device) {
            *device = (void *)1;
            return strcmp(bus_id, "00000000:3B:00.0") ? 6 : 0;
        }
        int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy) {
            FILE *file = fopen(ENERGY, "r");
            if (!file) return 3;
            int found = fscanf(file, "%llu", energy);
            fclose(file);
            return found == 1 ? 0 : 3;
        }
        struct process { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; };
        int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process *found) {
            unsigned room = *count;
            *count = 2;
            if (room < 2) return 7;
            found[0] = (struct process){1, 1000, 0, 0};
            found[1] = (struct process){getpid(), 123456789, 0, 0};
            return 0;
        }
    "#;

    /// Compiles a library that counts what the file `energy` in the same directory says.
    fn library(home: &Path) -> PathBuf {
        let (source, library) = (home.join("nvml.c"), home.join("libnvidia-ml.so.1"));
        fs::write(&source, NVML).unwrap();
        let energy = format!("-DENERGY=\"{}\"", home.join("energy").display());
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", &energy, "-o"]).args([&library, &source]);
        assert!(compiler.status().unwrap().success());
        library
    }

    #[test]
    fn energy_of_a_gpu_is_counted_from_the_start() {
        let home = tempfile::tempdir().unwrap();
        let library = library(home.path());
        let put = |millijoules: &str| fs::write(home.path().join("energy"), millijoules).unwrap();
        let gpu = || "00000000:3B:00.0".to_owned();
        let nvml = || Nvml::builder().lib_path(library.as_os_str()).init().unwrap();
        let open = |bus_id: String| GpuMeter::with(nvml(), bus_id);
        let silent = open(gpu()).unwrap();
        assert!(!silent.counts_energy(), "a GPU that does not count its energy");
        assert_eq!(silent.joules(), None);
        put("4000000");
        assert!(open("00000000:5E:00.0".to_owned()).is_none(), "there is no such GPU");
        let meter = open(gpu()).unwrap();
        assert!(meter.counts_energy());
        assert_eq!(meter.joules(), Some(0.0));
        put("4001500");
        assert_eq!(meter.joules(), Some(1.5));
        put("nothing");
        assert_eq!(meter.joules(), None, "a counter that is gone says nothing");
        put("3999999");
        assert_eq!(meter.joules(), None, "a driver that was loaded again counts anew");
    }

    #[test]
    fn the_memory_of_this_process_is_read_and_not_that_of_others() {
        let home = tempfile::tempdir().unwrap();
        let nvml = Nvml::builder().lib_path(library(home.path()).as_os_str()).init().unwrap();
        let meter = GpuMeter::with(nvml, "00000000:3B:00.0".to_owned()).unwrap();
        assert_eq!(meter.memory(), Some(123_456_789));
    }
}
