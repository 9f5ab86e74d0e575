//! What a key or a user may use: the limits, the flags that set them, and how they are shown.

use serde::{Deserialize, Serialize};

/// Limits; what is absent is not limited. Those of a user hold for all keys of the user together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requests_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens_per_day: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens_per_month: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens_total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) concurrent: Option<u64>,
    /// Whether tokens that the prefix cache gave count for nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) cached_free: bool,
}

/// Limits as they are typed; `none` takes one away.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct LimitFlags {
    /// Requests that may begin in a minute
    #[arg(long, value_name = "N", value_parser = cap)]
    requests_per_minute: Option<Cap>,
    /// Tokens a minute, of prompts and answers together
    #[arg(long, value_name = "N", value_parser = cap)]
    tokens_per_minute: Option<Cap>,
    /// Tokens a day (days and months are those of UTC)
    #[arg(long, value_name = "N", value_parser = cap)]
    tokens_per_day: Option<Cap>,
    /// Tokens a month
    #[arg(long, value_name = "N", value_parser = cap)]
    tokens_per_month: Option<Cap>,
    /// Tokens in all, ever
    #[arg(long, value_name = "N", value_parser = cap)]
    tokens_total: Option<Cap>,
    /// Requests at once
    #[arg(long, value_name = "N", value_parser = cap)]
    concurrent: Option<Cap>,
    /// What tokens cost whose keys and values the prefix cache has
    #[arg(long, value_name = "COST")]
    cached: Option<Cached>,
}

/// What a cached token costs.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Cached {
    /// As much as any other.
    Counted,
    /// Nothing.
    Free,
}

/// A limit, or that there shall be none.
#[derive(Clone, Copy, Debug)]
struct Cap(Option<u64>);

fn cap(text: &str) -> Result<Cap, String> {
    match text.parse() {
        _ if text == "none" => Ok(Cap(None)),
        Ok(count @ 1..=1_000_000_000_000_000) => Ok(Cap(Some(count))),
        _ => Err("expected a whole number from 1 to 10^15, or none".into()),
    }
}

impl LimitFlags {
    /// Whether nothing was typed.
    pub(crate) fn is_empty(&self) -> bool {
        let caps = [
            self.requests_per_minute,
            self.tokens_per_minute,
            self.tokens_per_day,
            self.tokens_per_month,
            self.tokens_total,
            self.concurrent,
        ];
        caps.iter().all(Option::is_none) && self.cached.is_none()
    }

    /// Limits with those that were typed in place of what they were.
    pub(crate) fn over(&self, old: Limits) -> Limits {
        let cap = |new: Option<Cap>, old| new.map_or(old, |Cap(new)| new);
        Limits {
            requests_per_minute: cap(self.requests_per_minute, old.requests_per_minute),
            tokens_per_minute: cap(self.tokens_per_minute, old.tokens_per_minute),
            tokens_per_day: cap(self.tokens_per_day, old.tokens_per_day),
            tokens_per_month: cap(self.tokens_per_month, old.tokens_per_month),
            tokens_total: cap(self.tokens_total, old.tokens_total),
            concurrent: cap(self.concurrent, old.concurrent),
            cached_free: match self.cached {
                None => old.cached_free,
                Some(cost) => matches!(cost, Cached::Free),
            },
        }
    }
}

impl std::fmt::Display for Limits {
    /// On one line: `10000 tokens/min, 3 at once`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts: Vec<String> = [
            (self.requests_per_minute, "requests/min"),
            (self.tokens_per_minute, "tokens/min"),
            (self.tokens_per_day, "tokens/day"),
            (self.tokens_per_month, "tokens/month"),
            (self.tokens_total, "tokens in all"),
            (self.concurrent, "at once"),
        ]
        .into_iter()
        .filter_map(|(limit, unit)| limit.map(|limit| format!("{limit} {unit}")))
        .collect();
        if self.cached_free {
            parts.push("cached free".into());
        }
        if parts.is_empty() {
            parts.push("no limits".into());
        }
        f.write_str(&parts.join(", "))
    }
}
