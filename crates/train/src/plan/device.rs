//! What is computed on: peak arithmetic, memory, network, power, price.
//!
//! The key decision: a short table of what makers print, each line with its source, and prices as assumptions
//! that anyone may set. Arithmetic is the dense rate of the format that training uses (bf16 with f32 sums on
//! GPUs, f32 on the CPU), never the doubled "sparse" figure. The machine at hand is measured, not looked up.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One device: a rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// FLOPs a second at most, dense.
    pub peak: f64,
    /// Bytes of memory.
    pub memory: f64,
    /// Bytes a second from memory.
    pub bandwidth: f64,
    /// Bytes a second in each direction to devices in other machines.
    pub network: f64,
    /// Devices in one machine.
    pub per_machine: usize,
    /// Watts at full load.
    pub watts: f64,
    /// Dollars an hour.
    pub price: f64,
    /// Share of the peak that training reaches.
    pub utilisation: f64,
    /// Bytes of a weight while it is used: 2 (bf16 with an f32 master in the optimizer) or 4 (f32).
    pub weight_bytes: usize,
    /// Where the figures come from.
    pub source: String,
}

/// A line of the table: name, TFLOP/s, GB, GB/s of memory, GB/s of network, in a machine, W, $/h, utilisation, source.
type Line = (&'static str, f64, f64, f64, f64, usize, f64, f64, f64, &'static str);

const TABLE: [Line; 7] = [
    (
        "a100",
        312.0,
        80.0,
        2039.0,
        25.0,
        8,
        400.0,
        1.20,
        0.40,
        "NVIDIA A100 data sheet (SXM 80 GB); network: 200 Gb/s a GPU (DGX A100)",
    ),
    (
        "h100",
        989.4,
        80.0,
        3350.0,
        50.0,
        8,
        700.0,
        3.00,
        0.40,
        "NVIDIA H100 data sheet (SXM), half the sparse figure; network: 400 Gb/s a GPU (DGX H100)",
    ),
    (
        "h200",
        989.4,
        141.0,
        4800.0,
        50.0,
        8,
        700.0,
        3.50,
        0.40,
        "NVIDIA H200 data sheet (SXM), half the sparse figure; network as H100",
    ),
    (
        "b200",
        2250.0,
        180.0,
        7700.0,
        50.0,
        8,
        1000.0,
        5.50,
        0.35,
        "NVIDIA DGX B200 data sheet, an eighth of it, half the sparse figure",
    ),
    (
        "rtx3090",
        71.0,
        24.0,
        936.0,
        1.25,
        1,
        350.0,
        0.25,
        0.35,
        "NVIDIA GA102 white paper: bf16 with f32 sums, dense; network: 10 Gb/s Ethernet",
    ),
    (
        "rtx4090",
        165.2,
        24.0,
        1008.0,
        1.25,
        1,
        450.0,
        0.40,
        0.35,
        "NVIDIA Ada white paper: bf16 with f32 sums, dense; network: 10 Gb/s Ethernet",
    ),
    (
        "rtx5090",
        209.5,
        32.0,
        1792.0,
        1.25,
        1,
        575.0,
        0.70,
        0.35,
        "NVIDIA Blackwell white paper: bf16 with f32 sums, dense; network: 10 Gb/s Ethernet",
    ),
];

/// Names in the table, and `cpu` for this machine.
pub fn names() -> Vec<&'static str> {
    TABLE.iter().map(|line| line.0).chain(["cpu"]).collect()
}

/// A device by name; `cpu` measures this machine with all its threads (about a second).
///
/// # Errors
/// A name that is not there; the message has those that are, and the nearest first.
pub fn find(name: &str) -> Result<Device> {
    let wanted = name.to_ascii_lowercase().replace([' ', '-', '_'], "");
    if wanted == "cpu" {
        return Ok(this_machine(std::thread::available_parallelism().map_or(1, usize::from)));
    }
    let Some(&(
        name,
        tflops,
        gb,
        bandwidth,
        network,
        per_machine,
        watts,
        price,
        utilisation,
        source,
    )) = TABLE.iter().find(|line| line.0 == wanted)
    else {
        let mut names = names();
        names.sort_by(|a, b| {
            strsim::jaro_winkler(b, &wanted).total_cmp(&strsim::jaro_winkler(a, &wanted))
        });
        return Err(Error::bad(
            "device",
            format!(
                "{name} is not known; {} are (or give peak, memory and price yourself)",
                names.join(", ")
            ),
        ));
    };
    Ok(Device {
        name: name.into(),
        peak: tflops * 1e12,
        memory: gb * 1e9,
        bandwidth: bandwidth * 1e9,
        network: network * 1e9,
        per_machine,
        watts,
        price,
        utilisation,
        weight_bytes: 2,
        source: source.into(),
    })
}

/// This machine as one rank of so many threads: arithmetic and bandwidth measured now.
pub fn this_machine(threads: usize) -> Device {
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<f64>()
            .ok()?;
        Some(line * 1024.0)
    });
    Device {
        name: format!("this CPU, {threads} threads"),
        peak: yushan_tensor::limits::peak_f32(threads),
        // Where the system does not say: what a small machine has.
        memory: memory.unwrap_or(8e9),
        bandwidth: yushan_tensor::limits::read_bandwidth(threads),
        network: 1e9, per_machine: 1, watts: 10.0 * threads as f64, price: 0.04 * threads as f64, utilisation: 0.6, weight_bytes: 4,
        source: "measured now: f32 fused multiply-adds and reads; watts and price are 10 W and $0.04 a thread, a cloud's list price".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_devices_and_wrong_names_find_the_nearest() {
        for name in names().into_iter().filter(|n| *n != "cpu") {
            let device = find(name).unwrap();
            assert!(
                device.peak > 1e13 && device.memory > 1e10 && !device.source.is_empty(),
                "{device:?}"
            );
        }
        assert_eq!(find("RTX 4090").unwrap().name, "rtx4090");
        let error = find("h10").unwrap_err().to_string();
        assert!(error.contains("h100, "), "{error}");
    }

    #[test]
    fn this_machine_is_measured() {
        let device = find("cpu").unwrap();
        assert!(device.peak > 1e8 && device.bandwidth > 1e8 && device.memory > 1e8, "{device:?}");
    }
}
