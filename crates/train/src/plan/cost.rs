//! What a run takes: FLOPs, memory, hours, money, energy, and what its ranks say to each other.
//!
//! The key decision: first principles with every assumption on the table. Time is FLOPs over peak times a
//! share of it (model FLOPs utilisation, which as published includes waiting for the network); what the network
//! takes is computed beside it, so that a share that cannot be is seen. Memory is counted for ZeRO-1, and if that
//! does not fit the model is split over as many ranks as it needs. It does not know stragglers or failures.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::communication::{Load, Network, all_gather_bytes, all_reduce_bytes, step};
use super::device::Device;
use super::sizes::Convention;
use crate::decoder::Shape;
use crate::{Error, Result};

/// What is to be trained, and on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The model.
    pub shape: Shape,
    /// Training tokens.
    pub tokens: f64,
    /// What a rank is, with its price, watts and utilisation.
    pub device: Device,
    /// Ranks.
    pub ranks: usize,
    /// Tokens between two updates, of all ranks together.
    pub batch_tokens: f64,
    /// Rows that a rank computes at once.
    pub micro_batch: usize,
    /// Whether activations are computed again in the backward pass.
    pub checkpointing: bool,
    /// Share of backward that hides communication.
    pub overlap: f64,
    /// Power of the building over power of the devices.
    pub pue: f64,
    /// UTF-8 bytes of text in a token.
    pub bytes_per_token: f64,
}

impl Request {
    /// A request with the usual assumptions: four million tokens a batch, or a hundredth of the run if that is
    /// less; one row at a time, checkpointing on GPUs, 0.9 of backward hides communication, 4.5 bytes a token.
    pub fn new(shape: Shape, tokens: f64, device: Device, ranks: usize) -> Request {
        let checkpointing = device.weight_bytes == 2;
        Request {
            shape,
            tokens,
            device,
            ranks,
            batch_tokens: (tokens / 100.0).min(4e6).max(shape.context as f64),
            micro_batch: 1,
            checkpointing,
            overlap: 0.9,
            pue: 1.1,
            bytes_per_token: 4.5,
        }
    }
}

/// Bytes on one rank.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Ranks over which one copy of the model is split (1: every rank has it whole).
    pub split: usize,
    /// Weights.
    pub weights: f64,
    /// Their gradients.
    pub gradients: f64,
    /// Moments and, for bf16, the f32 master: a share of each (ZeRO-1).
    pub optimizer: f64,
    /// What the backward pass needs.
    pub activations: f64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.weights + self.gradients + self.optimizer + self.activations
    }
}

/// What a run takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// What was asked.
    pub request: Request,
    /// All parameters.
    pub parameters: f64,
    /// FLOPs of the run.
    pub flops: f64,
    /// Those of attention among them.
    pub attention_flops: f64,
    /// The rule of thumb: 6 N D with all parameters.
    pub six_nd: f64,
    /// Hours of one device, of all together.
    pub device_hours: f64,
    /// Hours by the clock.
    pub hours: f64,
    /// Tokens a second of all ranks.
    pub tokens_per_second: f64,
    /// Updates.
    pub steps: f64,
    /// Dollars.
    pub money: f64,
    /// Kilowatt hours.
    pub energy: f64,
    /// Bytes on a rank.
    pub memory: Memory,
    /// Whether it fits.
    pub fits: bool,
    /// Bytes of text.
    pub text_bytes: f64,
    /// Bytes of the finished weights in bf16.
    pub weights_bytes: f64,
    /// Bytes of a whole checkpoint: f32 master, moments.
    pub checkpoint_bytes: f64,
    /// Bytes that a rank sends in an update: gradients summed, parameters gathered.
    pub sent_bytes: f64,
    /// Seconds of an update by computing alone.
    pub compute_seconds: f64,
    /// Seconds that the network adds and computing cannot hide.
    pub network_seconds: f64,
    /// What should be known before it starts.
    pub warnings: Vec<String>,
}

/// Part of the memory that can be used: the rest goes to kernels, buffers and holes.
const USABLE: f64 = 0.9;

/// Computes the cost.
///
/// # Errors
/// Values that are not positive numbers; the message names the first.
pub fn of(request: &Request) -> Result<Cost> {
    check(request)?;
    let Request { shape, tokens, device, ranks, batch_tokens, .. } = request;
    let parameters = shape.counted(Convention::All) as f64;
    let per_token = shape.flops_per_token();
    let flops = per_token * tokens;
    let rate = device.peak * device.utilisation;
    let device_hours = flops / rate / 3600.0;
    let memory = memory(request, parameters);
    let (split, copies) = (memory.split as f64, *ranks as f64 / memory.split as f64);
    let load = Load {
        parameters: parameters / split,
        gradient_bytes: device.weight_bytes as f64,
        parameter_bytes: device.weight_bytes as f64,
        seconds_per_token: per_token / rate / split,
        tokens: batch_tokens / copies,
        // Read and write weights, gradients and moments once.
        update: parameters / split * 28.0 / device.bandwidth,
        overlap: request.overlap,
    };
    let step = step(load, Network { latency: 1e-5, bandwidth: device.network }, copies);
    let bytes = parameters / split * device.weight_bytes as f64;
    let mut cost = Cost {
        request: request.clone(),
        parameters,
        flops,
        attention_flops: shape.attention_flops() * tokens,
        six_nd: 6.0 * parameters * tokens,
        device_hours,
        hours: device_hours / *ranks as f64,
        tokens_per_second: rate * *ranks as f64 / per_token,
        steps: (tokens / batch_tokens).ceil(),
        money: device_hours * device.price,
        energy: device_hours * device.watts * request.pue / 1000.0,
        fits: memory.total() <= USABLE * device.memory,
        memory,
        text_bytes: tokens * request.bytes_per_token,
        weights_bytes: 2.0 * parameters,
        checkpoint_bytes: 12.0 * parameters,
        sent_bytes: all_reduce_bytes(bytes, copies) + all_gather_bytes(bytes, copies),
        compute_seconds: step.compute,
        network_seconds: step.exposed + step.gather,
        warnings: Vec::new(),
    };
    cost.warnings = warnings(&cost);
    Ok(cost)
}

fn check(request: &Request) -> Result<()> {
    let d = &request.device;
    let s = &request.shape;
    for (name, value) in [
        ("tokens", request.tokens),
        ("batch_tokens", request.batch_tokens),
        ("ranks", request.ranks as f64),
        ("micro_batch", request.micro_batch as f64),
        ("pue", request.pue),
        ("bytes_per_token", request.bytes_per_token),
        ("peak", d.peak),
        ("memory", d.memory),
        ("bandwidth", d.bandwidth),
        ("network", d.network),
        ("utilisation", d.utilisation),
        ("dim", s.dim as f64),
        ("layers", s.layers as f64),
        ("context", s.context as f64),
        ("vocabulary", s.vocabulary as f64),
    ] {
        if !(value.is_finite() && value > 0.0) {
            return Err(Error::bad(
                "plan",
                format!("{name} is {value}; a positive number is needed"),
            ));
        }
    }
    for (name, value) in [("price", d.price), ("watts", d.watts)] {
        if !(value.is_finite() && value >= 0.0) {
            return Err(Error::bad(
                "plan",
                format!("{name} is {value}; a number that is not negative is needed"),
            ));
        }
    }
    if d.utilisation > 1.0 {
        return Err(Error::bad(
            "plan",
            format!(
                "utilisation is {}; it is a share of the peak, 0 to 1 (0.4 is usual on GPUs)",
                d.utilisation
            ),
        ));
    }
    Ok(())
}

/// Memory with the model split over the fewest ranks (a power of two) that let it fit; over all if none do.
fn memory(request: &Request, parameters: f64) -> Memory {
    let Request { shape: s, device, ranks, .. } = request;
    let element = device.weight_bytes as f64;
    // Elements a token that one layer keeps: two inputs of norms and their outputs, q, k, v, attention's output, gate, up and their product.
    let layer = (4 * s.dim + 2 * (s.heads + s.kv_heads) * s.head_dim + 3 * s.ffn) as f64;
    let kept = if request.checkpointing {
        (s.layers * s.dim) as f64 + layer
    } else {
        s.layers as f64 * layer
    };
    let activations = kept * element * (request.micro_batch * s.context) as f64;
    let at = |split: usize| {
        let (part, copies) = (parameters / split as f64, (*ranks as f64 / split as f64).max(1.0));
        let optimizer = if device.weight_bytes == 2 { 12.0 } else { 8.0 };
        Memory {
            split,
            weights: element * part,
            gradients: element * part,
            optimizer: optimizer * part / copies,
            activations: activations / split as f64,
        }
    };
    let mut split = 1;
    while at(split).total() > USABLE * device.memory && 2 * split <= *ranks {
        split *= 2;
    }
    at(split)
}

fn warnings(cost: &Cost) -> Vec<String> {
    let (r, d) = (&cost.request, &cost.request.device);
    let mut warnings = Vec::new();
    if !cost.fits {
        warnings.push(format!(
            "does not fit: {} a rank of {} usable, even split over {} ranks; take more ranks, a smaller model or more memory",
            bytes(cost.memory.total()), bytes(USABLE * d.memory), cost.memory.split
        ));
    }
    if cost.memory.split > 1 {
        warnings.push(format!(
            "ZeRO-1 alone does not fit: each copy of the model is split over {} ranks (tensor or pipeline parallel), which this project does not do{}",
            cost.memory.split,
            if cost.memory.split > d.per_machine { ", and these are more than a machine has" } else { "" }
        ));
    }
    let rows = r.batch_tokens / r.shape.context as f64 * cost.memory.split as f64 / r.ranks as f64;
    if rows < 1.0 {
        warnings.push(format!("{:.2} rows of {} tokens for a copy of the model in a batch: ranks idle; take a larger batch or fewer ranks", rows, r.shape.context));
    }
    if cost.network_seconds > 0.25 * cost.compute_seconds {
        warnings.push(format!(
            "the network adds {:.0} % to computing that nothing hides; the utilisation of {:.0} % must already hold this, or the run takes longer",
            100.0 * cost.network_seconds / cost.compute_seconds, 100.0 * d.utilisation
        ));
    }
    warnings
}

impl Cost {
    /// The cost as text: what was asked, what it takes, and every assumption.
    pub fn table(&self) -> String {
        let (r, d, s) = (&self.request, &self.request.device, &self.request.shape);
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<22} {value}");
        };
        line(
            "model",
            format!(
                "{:.4e} parameters (all), {} layers of {}, context {}",
                self.parameters, s.layers, s.dim, s.context
            ),
        );
        line(
            "data",
            format!(
                "{:.3e} tokens, {} of text, {:.1} tokens a parameter",
                r.tokens,
                bytes(self.text_bytes),
                r.tokens / self.parameters
            ),
        );
        line(
            "FLOPs",
            format!(
                "{:.3e}, attention {:.1} % of it; 6 N D gives {:.3e}",
                self.flops,
                100.0 * self.attention_flops / self.flops,
                self.six_nd
            ),
        );
        line("on", format!("{} x {}", r.ranks, d.name));
        line(
            "time",
            format!(
                "{}, {} device hours, {:.3e} tokens/s, {:.0} updates",
                duration(self.hours),
                grouped(self.device_hours),
                self.tokens_per_second,
                self.steps
            ),
        );
        line("money", format!("${}", grouped(self.money)));
        line("energy", format!("{} kWh", grouped(self.energy)));
        for (name, value) in self.machine_lines() {
            line(name, value);
        }
        for warning in &self.warnings {
            line("WARNING", warning.clone());
        }
        text.push_str("assumptions\n");
        for assumption in self.assumptions() {
            let _ = writeln!(text, "  - {assumption}");
        }
        text
    }

    /// What the machines hold and send.
    fn machine_lines(&self) -> [(&'static str, String); 3] {
        let d = &self.request.device;
        let m = &self.memory;
        let memory = (
            "memory a rank",
            format!(
                "{} of {}: weights {}, gradients {}, optimizer {}, activations {}{}",
                bytes(m.total()),
                bytes(d.memory),
                bytes(m.weights),
                bytes(m.gradients),
                bytes(m.optimizer),
                bytes(m.activations),
                if m.split > 1 {
                    format!("; a copy is split over {}", m.split)
                } else {
                    String::new()
                }
            ),
        );
        let network = (
            "network",
            format!(
                "{} sent by a rank in an update; {:.3} s of computing, {:.3} s more for what does not hide",
                bytes(self.sent_bytes),
                self.compute_seconds,
                self.network_seconds
            ),
        );
        let files = (
            "files",
            format!(
                "weights {} (bf16), a checkpoint {}",
                bytes(self.weights_bytes),
                bytes(self.checkpoint_bytes)
            ),
        );
        [memory, network, files]
    }

    /// Everything that went in and was not asked for.
    pub fn assumptions(&self) -> Vec<String> {
        let (r, d) = (&self.request, &self.request.device);
        vec![
            "FLOPs: 6 for each weight that multiplies (layers and head) and token, 6 x layers x width x context for causal attention; nothing computed twice is counted".into(),
            format!("peak {:.4e} FLOP/s a device ({})", d.peak, d.source),
            format!("utilisation {:.0} % of the peak, network included (Llama 2 70B: 43 % from its published hours; PaLM 46 %, arXiv 2204.02311)", 100.0 * d.utilisation),
            format!("${:.2} an hour a device, {} W, building {:.2} x devices", d.price, d.watts, r.pue),
            format!(
                "{}; ZeRO-1: optimizer state shared by all copies; {}; one row at a time x {}; cross-entropy never holds all logits; {:.0} % of the memory usable",
                if d.weight_bytes == 2 { "weights and gradients in bf16, master and two moments in f32" } else { "everything in f32" },
                if r.checkpointing { "activations of a layer are computed again" } else { "all activations are kept" },
                r.micro_batch, 100.0 * USABLE
            ),
            format!("batch of {:.3e} tokens; network {}/s a device, 10 us a message, {:.0} % of backward hides it", r.batch_tokens, bytes(d.network), 100.0 * r.overlap),
            format!("{} bytes of text a token", r.bytes_per_token),
        ]
    }
}

/// Bytes in decimal units.
fn bytes(x: f64) -> String {
    let (unit, scale) = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6)]
        .into_iter()
        .find(|(_, s)| x >= *s)
        .unwrap_or(("kB", 1e3));
    let value = x / scale;
    if value >= 100.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

fn duration(hours: f64) -> String {
    match hours {
        h if h >= 72.0 => format!("{:.1} days", h / 24.0),
        h if h >= 1.0 => format!("{h:.1} hours"),
        h if h >= 1.0 / 60.0 => format!("{:.0} minutes", 60.0 * h),
        h => format!("{:.1} seconds", 3600.0 * h),
    }
}

/// Digits in threes.
fn grouped(x: f64) -> String {
    if x < 1000.0 {
        return format!("{x:.2}");
    }
    let digits = format!("{x:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::device::find;
    use super::*;

    fn llama(dim: usize, layers: usize, kv_heads: usize, ffn: usize) -> Shape {
        Shape::of((32000, 4096, dim, ffn, false), (layers, dim / 128, kv_heads, 128))
    }

    /// Karpathy, "Intro to Large Language Models" (2023): Llama 2 70B, 10 TB of text, 6,000 GPUs, 12 days, about $2M,
    /// 1e24 FLOPs, 140 GB of parameters. Meta, arXiv 2307.09288, table 2: 2 T tokens, 1,720,320 hours of A100 80GB at 400 W,
    /// 291.42 t of CO2.
    #[test]
    fn llama_2_70b_comes_out_as_published() {
        let cost = of(&Request::new(llama(8192, 80, 8, 28672), 2e12, find("a100").unwrap(), 6000))
            .unwrap();
        for (name, value, published, factor) in [
            ("FLOPs", cost.flops, 1e24, 1.25),
            ("device hours", cost.device_hours, 1_720_320.0, 1.15),
            ("days", cost.hours / 24.0, 12.0, 1.15),
            ("dollars", cost.money, 2e6, 1.2),
            ("bytes of text", cost.text_bytes, 1e13, 1.2),
            ("bytes of parameters", cost.weights_bytes, 1.4e11, 1.05),
            ("kWh", cost.energy, 1_720_320.0 * 0.4, 1.25),
        ] {
            let ratio = value / published;
            assert!(ratio < factor && ratio > 1.0 / factor, "{name}: {value:e} for {published:e}");
        }
        // 70 B times four bytes never fits 80 GB: the plan says so.
        assert!(cost.fits && cost.memory.split == 4, "{:?}", cost.memory);
        let table = cost.table();
        for part in [
            "split over 4 ranks",
            "utilisation 40 %",
            "$1.20 an hour",
            "4.5 bytes of text a token",
            "ZeRO-1",
            "days",
        ] {
            assert!(table.contains(part), "{part} in\n{table}");
        }
        eprintln!("{table}");
    }

    #[test]
    fn other_published_runs_come_out() {
        // arXiv 2307.09288, table 2: 184,320 hours for 7B. llm.c discussion 481: GPT-2 124M, 10 B tokens, 8 A100, 90 minutes, $20.
        let seven =
            of(&Request::new(llama(4096, 32, 32, 11008), 2e12, find("a100").unwrap(), 1024))
                .unwrap();
        assert!((0.85..1.15).contains(&(seven.device_hours / 184_320.0)), "{}", seven.device_hours);
        assert!(seven.memory.split == 1 && seven.fits, "{:?}", seven.memory);
        let gpt2 = Shape::of((50257, 1024, 768, 2048, true), (12, 12, 12, 64));
        let small = of(&Request::new(gpt2, 1e10, find("a100").unwrap(), 8)).unwrap();
        let minutes = small.hours * 60.0;
        assert!((45.0..180.0).contains(&minutes), "{minutes}");
        assert!((10.0..30.0).contains(&small.money), "{}", small.money);
    }

    #[test]
    fn more_ranks_share_the_optimizer_and_the_time() {
        let plan = |ranks| {
            of(&Request::new(llama(2048, 16, 16, 5632), 2e10, find("h100").unwrap(), ranks))
                .unwrap()
        };
        let (one, eight) = (plan(1), plan(8));
        assert!(
            (one.hours / eight.hours - 8.0).abs() < 1e-9 && one.device_hours == eight.device_hours
        );
        assert!((one.memory.optimizer / eight.memory.optimizer - 8.0).abs() < 1e-9);
        assert_eq!(one.sent_bytes, 0.0);
        // Ring: 2 x 7/8 of the gradients, 7/8 of the parameters, two bytes each.
        assert!((eight.sent_bytes / (3.0 * 7.0 / 8.0 * 2.0 * eight.parameters) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_will_not_work_is_warned_of() {
        let a100 = || find("a100").unwrap();
        let huge = of(&Request::new(llama(16384, 126, 8, 53248), 1e12, a100(), 4)).unwrap();
        assert!(!huge.fits && huge.table().contains("does not fit"), "{}", huge.table());
        let thin = of(&Request {
            batch_tokens: 1e5,
            ..Request::new(llama(2048, 16, 16, 5632), 1e12, a100(), 4096)
        })
        .unwrap();
        assert!(thin.warnings.iter().any(|w| w.contains("ranks idle")), "{:?}", thin.warnings);
        let slow = of(&Request::new(
            llama(2048, 16, 16, 5632),
            1e12,
            Device { network: 1e8, ..a100() },
            64,
        ))
        .unwrap();
        assert!(
            slow.warnings.iter().any(|w| w.contains("the network adds")),
            "{:?}",
            slow.warnings
        );
    }

    #[test]
    fn values_that_make_no_sense_are_named() {
        let good = Request::new(llama(2048, 16, 16, 5632), 1e12, find("a100").unwrap(), 8);
        let device = |f: fn(&mut Device)| {
            let mut r = good.clone();
            f(&mut r.device);
            r
        };
        for (request, expected) in [
            (Request { tokens: f64::NAN, ..good.clone() }, "tokens is NaN"),
            (Request { ranks: 0, ..good.clone() }, "ranks is 0"),
            (Request { batch_tokens: -1.0, ..good.clone() }, "batch_tokens is -1"),
            (device(|d| d.utilisation = 40.0), "utilisation is 40"),
            (device(|d| d.price = -1.0), "price is -1"),
            (device(|d| d.network = 0.0), "network is 0"),
        ] {
            let error = of(&request).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
