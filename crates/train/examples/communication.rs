//! The tables of `docs/SCALE.md`: what 1 to 6,000 ranks cost each other, from `plan::communication`.
//!
//! `communication SECONDS_PER_TOKEN UPDATE_SECONDS LATENCY BANDWIDTH` replaces the measured figures of the
//! first table by those of another machine (seconds, seconds, seconds, bytes a second).

use yushan_train::plan::communication::{
    Load, Network, critical_batch, extra_tokens, least_tokens, state_bytes, step,
};

const RANKS: [f64; 9] = [1.0, 2.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 2048.0, 6000.0];

struct Case {
    name: &'static str,
    load: Load,
    network: Network,
    /// Nats a token near the end of the run, for the critical batch.
    loss: f64,
    /// Tokens of a step over all ranks, where that is what is held.
    batch: Option<f64>,
    /// Most ranks that there can be.
    most: f64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given: Result<Vec<f64>, _> = std::env::args().skip(1).map(|word| word.parse()).collect();
    // As docs/SCALE.md says.
    let (per_token, update, latency, bandwidth) = match given?[..] {
        [per_token, update, latency, bandwidth] => (per_token, update, latency, bandwidth),
        _ => (1.0 / 800.0, 0.06, 4e-6, 1e9),
    };
    let small = Load {
        parameters: 27.4e6,
        gradient_bytes: 4.0,
        parameter_bytes: 4.0,
        seconds_per_token: per_token,
        tokens: 8192.0,
        update,
        overlap: 0.0,
    };
    // 6 N operations a token at 40 % of 312 Tflop/s; AdamW's 28 bytes a parameter at 1.5 TB/s.
    let large = Load {
        parameters: 7e9,
        gradient_bytes: 2.0,
        parameter_bytes: 2.0,
        seconds_per_token: 6.0 * 7e9 / (0.4 * 312e12),
        tokens: 16_384.0,
        update: 28.0 * 7e9 / 1.5e12,
        overlap: 0.8,
    };
    let ethernet = Network { latency: 30e-6, bandwidth: 1.25e9 };
    let infiniband = Network { latency: 5e-6, bandwidth: 25e9 };
    let memory = Network { latency, bandwidth };
    let case = |name, load, network, loss, batch| {
        let most = if network == memory { 4.0 } else { 6000.0 };
        Case { name, load, network, loss, batch, most }
    };
    for case in [
        case("27 M, ranks on one machine", small, memory, 3.0, None),
        case("27 M, 10 Gb/s Ethernet", small, ethernet, 3.0, None),
        case("27 M, 10 Gb/s Ethernet, batch held", small, ethernet, 3.0, Some(524_288.0)),
        case("7 B, 200 Gb/s InfiniBand", large, infiniband, 1.8, None),
        case(
            "7 B, 200 Gb/s InfiniBand, batch held",
            large,
            infiniband,
            1.8,
            Some(4.0 * 1_048_576.0),
        ),
    ] {
        table(&case);
    }
    Ok(())
}

fn table(case: &Case) {
    println!("\n**{}**\n", case.name);
    println!(
        "| ranks | tokens a rank | batch | compute s | sum s | exposed s | gather s | efficiency | tokens/s | state GB a rank | fewest tokens a rank, 80 % | extra tokens |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let critical = critical_batch(case.loss);
    for ranks in RANKS.into_iter().filter(|ranks| *ranks <= case.most) {
        let tokens = case.batch.map_or(case.load.tokens, |batch| batch / ranks);
        let load = Load { tokens, ..case.load };
        let at = step(load, case.network, ranks);
        let batch = tokens * ranks;
        println!(
            "| {ranks} | {tokens:.0} | {batch:.3e} | {:.3} | {:.3} | {:.3} | {:.3} | {:.0} % | {:.3e} | {:.2} | {:.0} | × {:.2} |",
            at.compute,
            at.reduce,
            at.exposed,
            at.gather,
            100.0 * at.efficiency(),
            batch / at.total(),
            state_bytes(load.parameters, ranks) / 1e9,
            least_tokens(load, case.network, ranks, 0.8),
            extra_tokens(batch, critical),
        );
    }
}
