//! Energy of a GPU, as NVIDIA's management library (NVML) reports it for Volta and newer.

use nvml_wrapper::Nvml;

/// Counts the energy of a GPU since it was opened.
#[derive(Debug)]
pub(crate) struct GpuEnergyMeter {
    nvml: Nvml,
    /// The address of the GPU, such as `00000000:3B:00.0`.
    bus_id: String,
    /// Millijoules at the start.
    start: u64,
}

impl GpuEnergyMeter {
    /// Opens the counter of the GPU at the PCI address `bus_id`; `None` where there is no NVML, or it does not count the
    /// energy of this GPU.
    pub fn open(bus_id: String) -> Option<Self> {
        Self::with(Nvml::init().ok()?, bus_id)
    }

    fn with(nvml: Nvml, bus_id: String) -> Option<Self> {
        let start = read(&nvml, &bus_id)?;
        Some(Self { nvml, bus_id, start })
    }

    /// Returns the joules since the meter was opened; `None` if the counter cannot be read any more, or began anew.
    pub fn joules(&self) -> Option<f64> {
        let now = read(&self.nvml, &self.bus_id)?;
        Some(now.checked_sub(self.start)? as f64 * 1e-3)
    }
}

/// Returns the millijoules that the GPU has used since its driver was loaded.
fn read(nvml: &Nvml, bus_id: &str) -> Option<u64> {
    nvml.device_by_pci_bus_id(bus_id).ok()?.total_energy_consumption().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use super::*;

    /// The functions of NVML that are called, for one GPU. Its energy is read from a file; 3 is "not supported", 6 is "not
    /// found".
    const NVML: &str = r#"
        #include <stdio.h>
        #include <string.h>
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
        let open = |bus_id: String| GpuEnergyMeter::with(nvml(), bus_id);
        assert!(open(gpu()).is_none(), "a GPU that does not count its energy");
        put("4000000");
        assert!(open("00000000:5E:00.0".to_owned()).is_none(), "there is no such GPU");
        let meter = open(gpu()).unwrap();
        assert_eq!(meter.joules(), Some(0.0));
        put("4001500");
        assert_eq!(meter.joules(), Some(1.5));
        put("nothing");
        assert_eq!(meter.joules(), None, "a counter that is gone says nothing");
        put("3999999");
        assert_eq!(meter.joules(), None, "a driver that was loaded again counts anew");
    }
}
