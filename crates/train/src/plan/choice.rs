//! The size that a machine should train in the time that there is.
//!
//! The key decision: no formula for the optimum, but every depth of the dial with the tokens that this machine gets
//! through, judged by one law, since small models are slow for their FLOPs and a corpus ends: what the compute-optimal
//! size ignores. Text that is seen again counts less each time (Muennighoff et al., arXiv 2305.16264, eq. 5).

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::dial::{self, DEEPEST, Defaults, Overrides};
use super::sizes::Convention;
use crate::scaling::Law;
use crate::scaling::ladder::{EPOCHS, Speed};
use crate::{Error, Result};

/// R*, at which repeating has lost 1 - 1/e of its worth (arXiv 2305.16264, section 6).
const REPEATS: f64 = 15.387756;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// Hours of the machine.
    pub hours: f64,
    /// The law, of all parameters ([`Convention::All`]).
    pub law: Law,
    /// How fast the machine trains.
    pub speed: Speed,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Tokens in the corpus.
    pub corpus_tokens: Option<u64>,
    /// What is set by hand for every depth.
    pub set: Overrides,
}

/// A depth and what the time allows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// All that the run would need.
    pub settings: Defaults,
    /// All parameters.
    pub parameters: f64,
    /// Times that the corpus is read.
    pub epochs: Option<f64>,
    /// Hours that it takes.
    pub hours: f64,
    /// Loss by the law, nats a token.
    pub loss: f64,
}

impl Choice {
    /// FLOPs that it takes.
    pub fn flops(&self) -> f64 {
        self.settings.shape().flops_per_token() * self.settings.tokens as f64
    }
}

/// What tokens are worth of which `fresh` are different: all of them up to one time through, then less and less.
pub fn worth(tokens: f64, fresh: f64) -> f64 {
    if tokens <= fresh {
        return tokens;
    }
    let again = tokens / fresh - 1.0;
    fresh + fresh * REPEATS * (1.0 - (-again / REPEATS).exp())
}

/// Every depth that gets at least a token a parameter, shallowest first.
///
/// # Errors
/// Hours that are no positive number, too few for any depth, or as [`Speed::tokens_per_second`].
pub fn all(request: &Request) -> Result<Vec<Choice>> {
    let hours = request.hours;
    if !(hours.is_finite() && hours > 0.0) {
        return Err(Error::bad("hours", format!("{hours}; a positive number is needed")));
    }
    let mut choices = Vec::new();
    for depth in 1..=DEEPEST {
        let one = choice(request, depth)?;
        if (one.settings.tokens as f64) < one.parameters {
            break;
        }
        choices.push(one);
    }
    if choices.is_empty() {
        let detail = "too few for one token a parameter of the smallest model; give more";
        return Err(Error::bad("hours", format!("{hours}: {detail}")));
    }
    Ok(choices)
}

fn choice(request: &Request, depth: usize) -> Result<Choice> {
    let shape = dial::with(depth, request.vocabulary, &request.set)?.shape();
    let speed = request.speed.tokens_per_second(shape.flops_per_token())?;
    let most = request.corpus_tokens.map_or(f64::INFINITY, |corpus| EPOCHS * corpus as f64);
    let tokens = (3600.0 * request.hours * speed).min(most);
    let set = Overrides { tokens: Some(tokens as u64), ..request.set.clone() };
    let settings = dial::with(depth, request.vocabulary, &set)?;
    let (parameters, tokens) = (shape.counted(Convention::All) as f64, settings.tokens as f64);
    let fresh = request.corpus_tokens.map_or(tokens, |corpus| corpus as f64);
    Ok(Choice {
        parameters,
        epochs: request.corpus_tokens.map(|corpus| tokens / corpus as f64),
        hours: tokens / speed / 3600.0,
        loss: request.law.loss(parameters, worth(tokens, fresh)),
        settings,
    })
}

/// The lowest loss; `None` of nothing.
pub fn best(choices: &[Choice]) -> Option<&Choice> {
    choices.iter().min_by(|a, b| a.loss.total_cmp(&b.loss))
}

/// The choices as text, the best one marked.
pub fn table(choices: &[Choice]) -> String {
    let mut text = format!(
        "{:>5} {:>6} {:>10} {:>12} {:>7} {:>7} {:>8} {:>8} {:>7}\n",
        "depth", "dim", "N (all)", "tokens", "D/N", "epochs", "rate", "hours", "loss"
    );
    let best = best(choices);
    for one in choices {
        let s = &one.settings;
        let epochs = one.epochs.map_or("-".into(), |epochs| format!("{epochs:.2}"));
        let _ = writeln!(
            text,
            "{:>5} {:>6} {:>10.3e} {:>12} {:>7.1} {epochs:>7} {:>8.1e} {:>8.2} {:>7.3}{}",
            s.depth,
            s.dim,
            one.parameters,
            s.tokens,
            s.tokens as f64 / one.parameters,
            s.learning_rate,
            one.hours,
            one.loss,
            if best == Some(one) { "  best" } else { "" }
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(hours: f64, corpus_tokens: Option<u64>) -> Request {
        Request {
            hours,
            law: Law::BESIROGLU,
            speed: Speed::Flops(1e11),
            vocabulary: 4096,
            corpus_tokens,
            set: Overrides::default(),
        }
    }

    #[test]
    fn more_time_takes_a_larger_model() {
        let depth = |hours| {
            let choices = all(&request(hours, None)).unwrap();
            for one in &choices {
                assert!((0.95..=1.0001).contains(&(one.hours / hours)), "{one:?}");
            }
            assert!(table(&choices).matches("  best").count() == 1);
            best(&choices).unwrap().settings.depth
        };
        let depths = [0.3, 3.0, 30.0, 300.0].map(depth);
        assert!(depths.is_sorted_by(|a, b| a < b), "{depths:?}");
    }

    #[test]
    fn a_corpus_that_ends_makes_the_model_no_smaller_and_is_read_four_times_at_most() {
        let plain = all(&request(3.0, None)).unwrap();
        let ends = all(&request(3.0, Some(5_000_000))).unwrap();
        assert!(best(&ends).unwrap().settings.depth >= best(&plain).unwrap().settings.depth);
        for (one, plain) in ends.iter().zip(&plain) {
            assert!(one.epochs.unwrap() <= EPOCHS && one.loss >= plain.loss);
        }
    }

    #[test]
    fn repeated_text_is_worth_less_each_time() {
        let worths: Vec<f64> = (1..=100).map(|times| worth(f64::from(times), 1.0)).collect();
        assert_eq!(worths[0], 1.0);
        let gains: Vec<f64> = worths.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gains.is_sorted_by(|a, b| a > b) && gains[0] > 0.9 && gains[0] < 1.0, "{gains:?}");
        // Four times through is nearly as good as fresh text (figure 1 there).
        assert!(worths[3] > 3.6, "{}", worths[3]);
    }

    #[test]
    fn hours_that_give_nothing_are_refused() {
        for hours in [0.0, -1.0, f64::NAN, 1e-9] {
            assert!(all(&request(hours, None)).unwrap_err().to_string().starts_with("hours"));
        }
    }
}
