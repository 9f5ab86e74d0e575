//! What data-parallel ranks cost each other: bytes, seconds, memory, and where more of them stop helping.
//!
//! The key decision: four closed formulas and nothing fitted. A message costs a latency and its bytes
//! (Hockney 1994); a sum over R ranks moves 2(R-1)/R of the vector through every rank in 2(R-1)
//! messages (Thakur, Rabenseifner and Gropp 2005, section 4), which no algorithm can beat in bytes. What
//! goes in is measured, or an assumption that the caller prints. `docs/SCALE.md` has the figures. Not here:
//! congestion, stragglers, failures, model parallelism.

/// A network as one rank sees it while all ranks use it at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Network {
    /// Seconds a message takes however short it is.
    pub latency: f64,
    /// Bytes a second in each direction.
    pub bandwidth: f64,
}

/// One step of training on every rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Parameters of the model.
    pub parameters: f64,
    /// Bytes of a gradient as it travels, and of a parameter: 4 each in this project.
    pub gradient_bytes: f64,
    /// See `gradient_bytes`.
    pub parameter_bytes: f64,
    /// Seconds a rank computes for a token, forward and backward.
    pub seconds_per_token: f64,
    /// Tokens of a rank in a step.
    pub tokens: f64,
    /// Seconds one rank takes to update all parameters.
    pub update: f64,
    /// Share of backward behind which communication can hide, 0 to 1.
    pub overlap: f64,
}

/// Where the time of a step goes, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Forward and backward.
    pub compute: f64,
    /// Summing gradients, hidden or not.
    pub reduce: f64,
    /// The part of it that does not hide behind backward.
    pub exposed: f64,
    /// The optimizer on a rank's share (ZeRO-1).
    pub update: f64,
    /// Gathering the updated parameters.
    pub gather: f64,
}

/// Backward's share of forward and backward: twice the products.
const BACKWARD: f64 = 2.0 / 3.0;

/// Bytes of a bucket of gradients when `ranks` share it: 16 MiB, or 256 KiB for each rank where that is
/// more, so that the pieces take longer than a latency. As `collective` cuts them.
pub fn bucket_bytes(ranks: f64) -> f64 {
    f64::max(16.0 * 1_048_576.0, 262_144.0 * ranks)
}

/// Bytes that every rank sends to add up a vector of `bytes` over `ranks`, and as many it receives.
pub fn all_reduce_bytes(bytes: f64, ranks: f64) -> f64 {
    2.0 * all_gather_bytes(bytes, ranks)
}

/// Bytes that every rank sends to gather a vector of `bytes`; the same for a reduce-scatter.
pub fn all_gather_bytes(bytes: f64, ranks: f64) -> f64 {
    bytes * (ranks - 1.0).max(0.0) / ranks.max(1.0)
}

/// Seconds to add up a vector of `bytes` over `ranks`, in `buckets` pieces.
pub fn all_reduce_seconds(network: Network, bytes: f64, ranks: f64, buckets: f64) -> f64 {
    let messages = 2.0 * (ranks - 1.0).max(0.0) * buckets;
    messages * network.latency + all_reduce_bytes(bytes, ranks) / network.bandwidth
}

/// Seconds to gather a vector of `bytes` from `ranks`.
pub fn all_gather_seconds(network: Network, bytes: f64, ranks: f64) -> f64 {
    (ranks - 1.0).max(0.0) * network.latency + all_gather_bytes(bytes, ranks) / network.bandwidth
}

/// The time of one step on `ranks` ranks.
pub fn step(load: Load, network: Network, ranks: f64) -> Step {
    let compute = load.tokens * load.seconds_per_token;
    let bytes = load.parameters * load.gradient_bytes;
    let buckets = (bytes / bucket_bytes(ranks)).ceil().max(1.0);
    let reduce = all_reduce_seconds(network, bytes, ranks, buckets);
    // The last bucket is ready when backward ends: it cannot hide.
    let hidden = load.overlap.clamp(0.0, 1.0) * BACKWARD * compute;
    let exposed = (reduce - hidden).max(reduce / buckets);
    let gather = all_gather_seconds(network, load.parameters * load.parameter_bytes, ranks);
    Step { compute, reduce, exposed, update: load.update / ranks.max(1.0), gather }
}

impl Step {
    /// Seconds from step to step.
    pub fn total(&self) -> f64 {
        self.compute + self.exposed + self.update + self.gather
    }

    /// The share of the time in which the model is computed.
    pub fn efficiency(&self) -> f64 {
        self.compute / self.total()
    }
}

/// Fewest tokens a rank must have in a step to spend `efficiency` (0 to 1, exclusive) of its time
/// computing: below it the run is bound by the network. The other fields of `load` are used.
pub fn least_tokens(load: Load, network: Network, ranks: f64, efficiency: f64) -> f64 {
    let enough = |tokens| step(Load { tokens, ..load }, network, ranks).efficiency() >= efficiency;
    let mut high = 1.0;
    while !enough(high) {
        if high > 1e15 {
            return f64::INFINITY;
        }
        high *= 2.0;
    }
    let mut low = 0.0;
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if enough(middle) { high = middle } else { low = middle }
    }
    high
}

/// The batch in tokens at which a run takes twice its fewest steps and twice its fewest tokens: `2e8 /
/// loss^(1 / 0.21)`, loss in nats a token (Kaplan et al. 2020, arXiv 2001.08361, section 5.1, after
/// McCandlish et al. 2018, arXiv 1812.06162). An extrapolation from one corpus: an order of magnitude.
pub fn critical_batch(loss: f64) -> f64 {
    2e8 / loss.powf(1.0 / 0.21)
}

/// How many times the fewest possible tokens a run takes at this batch: `1 + B / B_crit`, which follows
/// from `(S / S_min - 1) (E / E_min - 1) = 1` of McCandlish et al. 2018, section 2.
pub fn extra_tokens(batch: f64, critical: f64) -> f64 {
    1.0 + batch / critical
}

/// Bytes of parameters, gradients and moments on a rank: two moments of 4 bytes shared among ranks
/// (Rajbhandari et al. 2019, arXiv 1910.02054, figure 1, with 4 bytes for all).
pub fn state_bytes(parameters: f64, ranks: f64) -> f64 {
    parameters * (4.0 + 4.0 + 8.0 / ranks.max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: Network = Network { latency: 1e-5, bandwidth: 1e10 };
    const LOAD: Load = Load {
        parameters: 1e9,
        gradient_bytes: 4.0,
        parameter_bytes: 4.0,
        seconds_per_token: 1e-4,
        tokens: 1e5,
        update: 0.5,
        overlap: 0.0,
    };

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * b.abs()
    }

    #[test]
    fn a_sum_moves_twice_the_vector_through_every_rank() {
        for (ranks, share) in [(1.0, 0.0), (2.0, 1.0), (4.0, 1.5), (8.0, 1.75)] {
            assert!(near(all_reduce_bytes(1e9, ranks), share * 1e9), "{ranks} ranks");
        }
        // 4 ranks: 6 messages of 10 us, and 1.5 GB at 10 GB/s.
        assert!(near(all_reduce_seconds(NETWORK, 1e9, 4.0, 1.0), 6e-5 + 0.15));
        assert!(near(all_reduce_seconds(NETWORK, 1e9, 4.0, 10.0), 6e-4 + 0.15));
        assert!(near(all_gather_seconds(NETWORK, 1e9, 4.0), 3e-5 + 0.075));
    }

    #[test]
    fn one_rank_pays_nothing_and_more_pay_once() {
        let alone = step(LOAD, NETWORK, 1.0);
        assert_eq!((alone.exposed, alone.gather), (0.0, 0.0));
        assert!(near(alone.total(), 10.5));
        let two = step(LOAD, NETWORK, 2.0);
        assert!(near(two.reduce, 239.0 * 2e-5 + 0.4), "{two:?}"); // 4 GB in buckets of 16 MiB
        assert!(near(two.total(), 10.0 + two.reduce + 0.25 + 0.2 + 1e-5));
    }

    #[test]
    fn what_hides_behind_backward_is_not_paid_but_for_the_last_bucket() {
        let hidden = step(Load { overlap: 1.0, ..LOAD }, NETWORK, 2.0);
        assert!(near(hidden.exposed, hidden.reduce / 239.0));
        let short = step(Load { overlap: 1.0, tokens: 1e3, ..LOAD }, NETWORK, 2.0);
        assert!(near(short.exposed, short.reduce - 0.1 * BACKWARD));
    }

    #[test]
    fn the_fewest_tokens_just_reach_the_efficiency() {
        for ranks in [2.0, 64.0, 6000.0] {
            for overlap in [0.0, 1.0] {
                let load = Load { overlap, ..LOAD };
                let tokens = least_tokens(load, NETWORK, ranks, 0.8);
                let at = |tokens| step(Load { tokens, ..load }, NETWORK, ranks).efficiency();
                assert!(at(tokens) >= 0.8 && at(0.99 * tokens) < 0.8, "{ranks} ranks: {tokens}");
            }
        }
        let never = Network { latency: f64::INFINITY, ..NETWORK };
        assert_eq!(least_tokens(LOAD, never, 2.0, 0.5), f64::INFINITY);
    }

    #[test]
    fn published_figures_come_out() {
        // Kaplan et al. 2020, figure 10: about a million tokens at a loss of 3, 2e8 at 1.
        assert!((1e6..1.2e6).contains(&critical_batch(3.0)));
        assert!(near(critical_batch(1.0), 2e8));
        assert!(near(extra_tokens(1e6, 1e6), 2.0));
        // 16 bytes a parameter on one rank, towards 8 on many.
        assert!(near(state_bytes(7e9, 1.0), 112e9));
        assert!(near(state_bytes(7e9, 64.0), 56.875e9));
    }
}
