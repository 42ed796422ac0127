//! Energy of the processors, as Linux reports it for Intel's and AMD's (RAPL, `/sys/class/powercap`). Newer kernels let
//! only root read it.

use std::fs;
use std::path::{Path, PathBuf};

/// Where Linux reports the energy of processors.
const POWERCAP: &str = "/sys/class/powercap";

/// Counts the energy of the machine's processors since it was opened.
#[derive(Debug)]
pub(crate) struct EnergyMeter {
    packages: Vec<Package>,
    /// Microjoules so far.
    total: u64,
}

/// A processor with its counter.
#[derive(Debug)]
struct Package {
    counter: PathBuf,
    /// The counter restarts at 0 after this value, in microjoules: after minutes to hours.
    largest: u64,
    last: u64,
}

impl EnergyMeter {
    /// Opens the counters of all processors; `None` where the machine has none, or this process may not read them.
    pub fn open() -> Option<Self> {
        Self::at(Path::new(POWERCAP))
    }

    fn at(root: &Path) -> Option<Self> {
        let mut packages = Vec::new();
        for entry in fs::read_dir(root).ok()?.flatten() {
            let name = entry.file_name();
            // `intel-rapl:0` is a processor (AMD's too); `intel-rapl:0:1` is a part of it.
            let number = name.to_str().and_then(|name| name.strip_prefix("intel-rapl:"));
            if number.is_none_or(|number| number.parse::<u32>().is_err()) {
                continue;
            }
            let counter = entry.path().join("energy_uj");
            let largest = read(&entry.path().join("max_energy_range_uj"))?;
            packages.push(Package { last: read(&counter)?, counter, largest });
        }
        (!packages.is_empty()).then_some(Self { packages, total: 0 })
    }

    /// Returns the joules since the meter was opened. Must be called at least once in each round of a counter.
    pub fn joules(&mut self) -> f64 {
        for package in &mut self.packages {
            let Some(now) = read(&package.counter) else { continue };
            let rounds = if now < package.last { package.largest } else { 0 };
            self.total += (now + rounds).saturating_sub(package.last);
            package.last = now;
        }
        self.total as f64 * 1e-6
    }
}

fn read(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_is_summed_over_processors_and_rounds_of_their_counters() {
        let home = tempfile::tempdir().unwrap();
        let put = |package: &str, file: &str, value: u64| {
            let directory = home.path().join(package);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(file), format!("{value}\n")).unwrap();
        };
        assert!(EnergyMeter::at(home.path()).is_none());
        for (package, energy) in [("intel-rapl:0", 4_000_000), ("intel-rapl:1", 1_000_000)] {
            put(package, "energy_uj", energy);
            put(package, "max_energy_range_uj", 10_000_000);
        }
        // A part of the first processor, whose energy is counted there.
        put("intel-rapl:0:0", "energy_uj", 1);
        put("intel-rapl:0:0", "max_energy_range_uj", 10_000_000);
        let mut meter = EnergyMeter::at(home.path()).unwrap();
        assert_eq!(meter.joules(), 0.0);
        put("intel-rapl:0", "energy_uj", 9_500_000);
        put("intel-rapl:0:0", "energy_uj", 3_000_000);
        assert_eq!(meter.joules(), 5.5);
        put("intel-rapl:0", "energy_uj", 500_000);
        put("intel-rapl:1", "energy_uj", 2_000_000);
        assert_eq!(meter.joules(), 7.5);
        fs::remove_dir_all(home.path().join("intel-rapl:1")).unwrap();
        assert_eq!(meter.joules(), 7.5, "a counter that is gone adds nothing");
    }
}
