//! The law L(N, D) = E + A / N^alpha + B / D^beta, and where it puts the optimum.
//!
//! The key decision: a law is five plain numbers and everything follows by formula, so that a published law
//! and one of our own are used alike. It does not know its own error; see [`super::bootstrap`].

use serde::{Deserialize, Serialize};

/// L(N, D) = E + A / N^alpha + B / D^beta in nats a token (Hoffmann et al., arXiv 2203.15556, eq. 2).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Law {
    /// Entropy of text: what no model gets below.
    pub e: f64,
    /// Weight of the size term.
    pub a: f64,
    /// Weight of the data term.
    pub b: f64,
    /// Exponent of the size.
    pub alpha: f64,
    /// Exponent of the data.
    pub beta: f64,
}

impl Law {
    /// Hoffmann et al. as printed in the body of arXiv 2203.15556.
    pub const HOFFMANN_PRINTED: Law = Law { e: 1.69, a: 406.4, b: 410.7, alpha: 0.34, beta: 0.28 };
    /// The same with the exponents of the paper's TeX source, which the printed ones round.
    pub const HOFFMANN_TEX: Law = Law { e: 1.69, a: 406.4, b: 410.7, alpha: 0.3392, beta: 0.2849 };
    /// Besiroglu et al., arXiv 2404.10102. Standard errors in their table 1: E 0.03, A 124.58, B 1293.23, alpha 0.02, beta 0.02.
    pub const BESIROGLU: Law =
        Law { e: 1.8172, a: 482.01, b: 2085.43, alpha: 0.3478, beta: 0.3658 };

    /// Expected loss of N parameters after D tokens.
    pub fn loss(&self, parameters: f64, tokens: f64) -> f64 {
        self.e + self.a * parameters.powf(-self.alpha) + self.b * tokens.powf(-self.beta)
    }

    /// (N, D) of the lowest loss with 6ND = `flops` (eq. 4 of the paper).
    pub fn optimum(&self, flops: f64) -> (f64, f64) {
        let scale =
            (self.alpha * self.a / (self.beta * self.b)).powf(1.0 / (self.alpha + self.beta));
        let n = scale * (flops / 6.0).powf(self.exponent());
        (n, flops / (6.0 * n))
    }

    /// a of N ∝ C^a: beta / (alpha + beta).
    pub fn exponent(&self) -> f64 {
        self.beta / (self.alpha + self.beta)
    }

    /// Tokens that N parameters need for a loss, or `None` if they never reach it.
    pub fn tokens_for(&self, parameters: f64, loss: f64) -> Option<f64> {
        let left = loss - self.e - self.a * parameters.powf(-self.alpha);
        (left > 0.0).then(|| (self.b / left).powf(1.0 / self.beta))
    }

    /// Whether loss falls with size and with data and stays above nothing.
    pub fn plausible(&self) -> bool {
        [self.e, self.a, self.b, self.alpha, self.beta].iter().all(|x| x.is_finite() && *x > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optima_are_the_published_ones() {
        // Tokens a parameter at Chinchilla's budget, and the exponent a, for each law.
        for (law, ratio, exponent) in [
            (Law::HOFFMANN_PRINTED, 92.6, 0.452),
            (Law::HOFFMANN_TEX, 59.1, 0.456),
            (Law::BESIROGLU, 18.3, 0.513),
        ] {
            let (n, d) = law.optimum(5.76e23);
            assert!((d / n / ratio - 1.0).abs() < 0.01, "{} for {ratio}", d / n);
            assert!((law.exponent() - exponent).abs() < 6e-4, "{}", law.exponent());
        }
        let (n, d) = Law::BESIROGLU.optimum(5.76e23);
        assert!((n / 7.2e10 - 1.0).abs() < 0.02 && (d / 1.33e12 - 1.0).abs() < 0.02, "{n:e} {d:e}");
    }

    #[test]
    fn the_optimum_is_lower_than_its_neighbours_and_tokens_invert_the_loss() {
        let law = Law::BESIROGLU;
        let (n, d) = law.optimum(1e20);
        for factor in [0.5, 0.9, 1.1, 2.0] {
            assert!(law.loss(n * factor, d / factor) > law.loss(n, d));
        }
        let tokens = law.tokens_for(n, law.loss(n, d)).unwrap();
        assert!((tokens / d - 1.0).abs() < 1e-9);
        assert_eq!(law.tokens_for(n, 1.8), None);
    }
}
