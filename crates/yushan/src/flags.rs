//! Flags that several commands take: how the engine is set up, and how tokens are drawn.

use clap::{Args, ValueEnum};
use yushan_abi::{Sampling, TokenId};
use yushan_model::ModelFile;
use yushan_model::engine::Options;
use yushan_tensor::KvType;

/// How the engine is set up.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Engine")]
pub(crate) struct Engine {
    /// Threads to compute with [default: all processors]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub(crate) threads: Option<usize>,
    /// Tokens the context window holds [default: what the model was trained for, at most 4096]
    #[arg(long, short = 'c', value_name = "N", value_parser = positive)]
    pub(crate) context: Option<usize>,
    /// How keys and values are stored
    #[arg(long, value_enum, default_value_t = Kv::F16)]
    pub(crate) kv: Kv,
}

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kv {
    /// Half precision
    F16,
    /// Eight bits: half the memory, slightly less exact
    #[value(name = "q8_0")]
    Q8_0,
    /// Single precision: for comparisons with other implementations
    F32,
}

impl Engine {
    /// Whether any flag asks for something.
    pub(crate) fn is_given(&self) -> bool {
        self.threads.is_some() || self.context.is_some() || !matches!(self.kv, Kv::F16)
    }

    /// The options for a file: its defaults where no flag says otherwise.
    pub(crate) fn options(&self, file: &ModelFile) -> Options {
        let mut options = Options::for_file(file);
        options.threads = self.threads.unwrap_or(options.threads);
        options.context = self.context.unwrap_or(options.context);
        options.kv = match self.kv {
            Kv::F16 => KvType::F16,
            Kv::Q8_0 => KvType::Q8_0,
            Kv::F32 => KvType::F32,
        };
        options
    }
}

/// How the next token is drawn. What is not given keeps the library's default.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct Drawing {
    /// 0 always takes the likeliest token; higher is more varied [default: 0.8]
    #[arg(long, short = 't', value_name = "T", value_parser = at_least_zero, allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Keep the K likeliest tokens; 0 keeps all [default: 40]
    #[arg(long, value_name = "K", value_parser = count)]
    top_k: Option<usize>,
    /// Keep the likeliest tokens that together have probability P [default: 0.95]
    #[arg(long, value_name = "P", value_parser = probability)]
    top_p: Option<f32>,
    /// Keep tokens at least P times as likely as the likeliest [default: 0.05]
    #[arg(long, value_name = "P", value_parser = probability)]
    min_p: Option<f32>,
    /// Keep the tokens nearest to the expected surprise that together have probability P [default: 1]
    #[arg(long, value_name = "P", value_parser = probability)]
    typical: Option<f32>,
    /// Divide the logits of tokens that came lately by R [default: 1]
    #[arg(long, value_name = "R", value_parser = above_zero)]
    repeat_penalty: Option<f32>,
    /// How many tokens count as lately [default: 64]
    #[arg(long, value_name = "N", value_parser = count)]
    repeat_last_n: Option<usize>,
    /// Take R off the logit of a token for each time it came lately [default: 0]
    #[arg(long, value_name = "R", value_parser = finite, allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,
    /// Take R off the logit of a token that came lately [default: 0]
    #[arg(long, value_name = "R", value_parser = finite, allow_negative_numbers = true)]
    presence_penalty: Option<f32>,
    /// Add V to the logit of token ID; -inf forbids it (may be given again)
    #[arg(long, value_name = "ID=V", value_parser = bias)]
    logit_bias: Vec<(TokenId, f32)>,
    /// The same seed gives the same text [default: another one each time; --stats shows it]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl Drawing {
    /// The sampling these flags ask for; without `--seed` with a new seed on every call.
    pub(crate) fn sampling(&self) -> Sampling {
        let default = Sampling::llama_cpp();
        Sampling {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            typical_p: self.typical.unwrap_or(default.typical_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(default.repeat_penalty),
            repeat_last_n: self.repeat_last_n.unwrap_or(default.repeat_last_n),
            frequency_penalty: self.frequency_penalty.unwrap_or(default.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(default.presence_penalty),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed.unwrap_or_else(fresh_seed),
        }
    }
}

/// A seed nobody chose, short enough to be typed again.
fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(()) >> 32
}

/// A whole number. Bounded, so that sizes computed from it stay far from overflow.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    let number = text.parse::<u32>();
    number.map(|n| n as usize).map_err(|_| format!("expected a whole number up to {}", u32::MAX))
}

/// A whole number above 0.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match count(text)? {
        0 => Err("expected a whole number above 0".into()),
        number => Ok(number),
    }
}

/// Bytes: `4GB`, `512 MiB`, `1.5G` (powers of 1000 unless an `i` says 1024), or a plain number.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "expected a size, for example 4GB, 512MiB or a number of bytes".to_string();
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = text[digits..].trim_start();
    let unit = unit.strip_suffix('b').unwrap_or(unit);
    let (prefix, base) = match unit.strip_suffix('i') {
        Some(prefix) => (prefix, 1024_f64),
        None => (unit, 1000.0),
    };
    let power = match prefix {
        "" if base == 1000.0 => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(wrong()),
    };
    let bytes = number * base.powi(power);
    if (1.0..1e18).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

/// Most threads anyone may ask for: far above any machine, far below where starting them takes minutes.
const MOST_THREADS: usize = 1024;

/// Fewest tokens that `score` takes for a window.
pub(crate) const SHORTEST_WINDOW: usize = 4;

/// Tokens of a window of `score`.
pub(crate) fn window(text: &str) -> Result<usize, String> {
    let number = positive(text)?;
    let good = (number >= SHORTEST_WINDOW).then_some(number);
    good.ok_or_else(|| format!("expected at least {SHORTEST_WINDOW} tokens"))
}

/// A number of threads.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    let number = positive(text)?;
    let good = (number <= MOST_THREADS).then_some(number);
    good.ok_or_else(|| format!("expected at most {MOST_THREADS} threads"))
}

/// Numbers of threads: `1,2,4` or `1-4`.
pub(crate) fn thread_list(text: &str) -> Result<Vec<usize>, String> {
    let numbers = list(text)?;
    let good = numbers.iter().all(|&number| number <= MOST_THREADS).then_some(numbers);
    good.ok_or_else(|| format!("expected at most {MOST_THREADS} threads"))
}

/// Whole numbers above 0: `1,2,4` or `1-4`.
pub(crate) fn list(text: &str) -> Result<Vec<usize>, String> {
    let mut numbers = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (positive(first.trim())?, positive(last.trim())?);
        if first > last || last - first > 4096 {
            return Err(format!("{part:?} is no range; expected for example 1,2,4 or 1-4"));
        }
        for number in first..=last {
            if !numbers.contains(&number) {
                numbers.push(number);
            }
        }
    }
    Ok(numbers)
}

fn number(text: &str, expected: &str, good: impl Fn(f32) -> bool) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(number) if good(number) => Ok(number),
        _ => Err(format!("expected {expected}")),
    }
}

fn at_least_zero(text: &str) -> Result<f32, String> {
    number(text, "a number of at least 0", |n| n.is_finite() && n >= 0.0)
}

fn above_zero(text: &str) -> Result<f32, String> {
    number(text, "a number above 0", |n| n.is_finite() && n > 0.0)
}

fn probability(text: &str) -> Result<f32, String> {
    number(text, "a probability between 0 and 1", |n| (0.0..=1.0).contains(&n))
}

fn finite(text: &str) -> Result<f32, String> {
    number(text, "a number", f32::is_finite)
}

fn bias(text: &str) -> Result<(TokenId, f32), String> {
    let expected = "expected a token id, '=' and a number, for example 13=-inf";
    let (id, value) = text.split_once('=').ok_or(expected)?;
    let id = id.trim().parse().map_err(|_| expected)?;
    Ok((id, number(value.trim(), "a number after '='", |n| !n.is_nan())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        for (text, expected) in [
            ("1", Some(vec![1])),
            ("1,2,8", Some(vec![1, 2, 8])),
            ("1-3, 8", Some(vec![1, 2, 3, 8])),
            ("2,1,2", Some(vec![2, 1])),
            ("0", None),
            ("3-1", None),
            ("1-999999999", None),
            ("", None),
            ("a", None),
        ] {
            assert_eq!(list(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("1", Some(1)),
            ("4GB", Some(4_000_000_000)),
            ("4g", Some(4_000_000_000)),
            ("1.5 GiB", Some(3 << 29)),
            ("512MiB", Some(512 << 20)),
            ("2k", Some(2000)),
            ("0", None),
            ("-1", None),
            ("4iB", None),
            ("4X", None),
            ("", None),
            ("nan", None),
            ("999999999t", None),
        ] {
            assert_eq!(bytes(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn biases() {
        for (text, expected) in [
            ("13=-inf", Some((13, f32::NEG_INFINITY))),
            ("0=1.5", Some((0, 1.5))),
            ("13", None),
            ("-1=2", None),
            ("1=nan", None),
        ] {
            assert_eq!(bias(text).ok(), expected, "{text:?}");
        }
    }
}
