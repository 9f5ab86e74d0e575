//! Whether an account may begin a request now: arithmetic alone, with the time as an argument.
//!
//! The key decision: a request begins while anything is left, and is charged with what it really used. So nobody
//! has to guess how long an answer will be; the last one may go over, and what it went over by is waited for
//! (a minute's allowance goes below zero and fills at its rate) or is simply used (a day's). What a minute allows
//! is a bucket that is full at first and again after a restart; days, months and totals are kept on the disk.

use serde::{Deserialize, Serialize};
use yushan_abi::Counts;
use yushan_server::{Allowance, Denial};

use super::limits::Limits;

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;
/// When to come again if others must end first: nobody knows.
const SOON: u64 = 1000;

/// What was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spent {
    pub(crate) requests: u64,
    pub(crate) prompt: u64,
    /// Of the prompts, what the prefix cache had.
    pub(crate) cached: u64,
    pub(crate) generated: u64,
}

impl Spent {
    pub(crate) fn of(counts: Counts) -> Spent {
        Spent {
            requests: 0,
            prompt: counts.prompt as u64,
            cached: counts.cached.min(counts.prompt) as u64,
            generated: counts.generated as u64,
        }
    }

    pub(crate) fn add(&mut self, other: Spent) {
        self.requests = self.requests.saturating_add(other.requests);
        self.prompt = self.prompt.saturating_add(other.prompt);
        self.cached = self.cached.saturating_add(other.cached);
        self.generated = self.generated.saturating_add(other.generated);
    }

    /// Tokens that count against limits.
    pub(crate) fn tokens(&self, limits: &Limits) -> u64 {
        let free = if limits.cached_free { self.cached } else { 0 };
        self.prompt.saturating_sub(free).saturating_add(self.generated)
    }
}

/// A day of UTC, counted from 1970.
pub(crate) fn day(now_ms: u64) -> u64 {
    now_ms / DAY
}

/// A day as `2026-11-24`; its month is the first seven letters.
pub(crate) fn date(day: u64) -> String {
    let mut date = yushan_server::rfc3339(day * DAY / 1000);
    date.truncate(10);
    date
}

fn same_month(a: u64, b: u64) -> bool {
    date(a)[..7] == date(b)[..7]
}

/// What can be had within a minute: fills at the limit's rate, up to the limit.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at_ms: u64,
}

impl Bucket {
    const FULL: Bucket = Bucket { left: f64::INFINITY, at_ms: 0 };

    fn fill(&mut self, limit: u64, now_ms: u64) {
        // A clock that was set back fills nothing until it has caught up.
        let passed = now_ms.saturating_sub(self.at_ms) as f64;
        self.at_ms = self.at_ms.max(now_ms);
        let limit = limit as f64;
        self.left = (self.left + passed * limit / MINUTE as f64).min(limit);
    }

    /// Milliseconds until so much is there.
    fn wait(&self, limit: u64, wanted: f64) -> u64 {
        let missing = (wanted - self.left).max(0.0);
        (missing * MINUTE as f64 / limit as f64).ceil() as u64
    }

    fn allowance(&self, limit: u64) -> Allowance {
        Allowance {
            limit,
            left: self.left.max(0.0) as u64,
            full_ms: self.wait(limit, limit as f64),
        }
    }
}

/// A key or a user: limits and what was used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    pub(crate) limits: Limits,
    pub(crate) today: Spent,
    pub(crate) month: Spent,
    pub(crate) total: Spent,
    day: u64,
    running: u64,
    requests: Bucket,
    tokens: Bucket,
}

impl Account {
    /// One that has used nothing yet.
    pub(crate) fn new(day: u64) -> Account {
        let none = Spent::default();
        Account {
            limits: Limits::default(),
            today: none,
            month: none,
            total: none,
            day,
            running: 0,
            requests: Bucket::FULL,
            tokens: Bucket::FULL,
        }
    }

    /// Adds what it used on some day up to the present one.
    pub(crate) fn remember(&mut self, day: u64, spent: Spent) {
        self.total.add(spent);
        if day == self.day {
            self.today.add(spent);
        }
        if same_month(day, self.day) {
            self.month.add(spent);
        }
    }

    /// A new day begins.
    pub(crate) fn turn_to(&mut self, day: u64) {
        if day > self.day {
            if !same_month(day, self.day) {
                self.month = Spent::default();
            }
            self.today = Spent::default();
            self.day = day;
        }
    }

    /// Whether a request may begin; `who` is named if not.
    pub(crate) fn check(&mut self, who: &str, now_ms: u64) -> Result<(), Denial> {
        self.check_tokens(who, now_ms)?;
        if let Some(limit) = self.limits.requests_per_minute {
            self.requests.fill(limit, now_ms);
            check_bucket(limit, self.requests, "requests", who)?;
        }
        match self.limits.concurrent {
            Some(limit) if self.running >= limit => {
                let granted = format!("{limit} requests at once for {who}");
                Err(Denial::Rate { granted, after_ms: SOON })
            }
            _ => Ok(()),
        }
    }

    /// Whether more tokens may be used: by a request, or the next turn of a process.
    pub(crate) fn check_tokens(&mut self, who: &str, now_ms: u64) -> Result<(), Denial> {
        self.turn_to(day(now_ms));
        let Limits { tokens_per_day, tokens_per_month, tokens_total, .. } = self.limits;
        for (limit, spent, span, more) in [
            (tokens_total, self.total, "in all", None),
            (tokens_per_month, self.month, "a month", Some(until_month(now_ms))),
            (tokens_per_day, self.today, "a day", Some(DAY - now_ms % DAY)),
        ] {
            let tokens = spent.tokens(&self.limits);
            if let Some(limit) = limit.filter(|&limit| tokens >= limit) {
                let granted = format!("{limit} tokens {span} for {who}, {tokens} used");
                return Err(Denial::Quota { granted, after_ms: more });
            }
        }
        if let Some(limit) = self.limits.tokens_per_minute {
            self.tokens.fill(limit, now_ms);
            check_bucket(limit, self.tokens, "tokens", who)?;
        }
        Ok(())
    }

    /// A request begins.
    pub(crate) fn begin(&mut self) {
        self.running += 1;
        if self.limits.requests_per_minute.is_some() {
            self.requests.left -= 1.0;
        }
    }

    /// A request has ended.
    pub(crate) fn end(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Something was used.
    pub(crate) fn charge(&mut self, spent: Spent, now_ms: u64) {
        self.turn_to(day(now_ms));
        for sum in [&mut self.today, &mut self.month, &mut self.total] {
            sum.add(spent);
        }
        if let Some(limit) = self.limits.tokens_per_minute {
            self.tokens.fill(limit, now_ms);
            self.tokens.left -= spent.tokens(&self.limits) as f64;
        }
    }

    /// What is left of the minute's requests and tokens.
    pub(crate) fn left(&self) -> [Option<Allowance>; 2] {
        let of = |limit: Option<u64>, bucket: Bucket| limit.map(|limit| bucket.allowance(limit));
        [
            of(self.limits.requests_per_minute, self.requests),
            of(self.limits.tokens_per_minute, self.tokens),
        ]
    }
}

/// Whether a minute's allowance has anything left.
fn check_bucket(limit: u64, bucket: Bucket, what: &str, who: &str) -> Result<(), Denial> {
    if bucket.left >= 1.0 {
        return Ok(());
    }
    let granted = format!("{limit} {what} a minute for {who}");
    Err(Denial::Rate { granted, after_ms: bucket.wait(limit, 1.0) })
}

/// Milliseconds until the next month.
fn until_month(now_ms: u64) -> u64 {
    let today = day(now_ms);
    let next = (today + 1..).find(|&day| !same_month(day, today)).unwrap_or(today + 1);
    next * DAY - now_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-24, 22:00.
    const NOW: u64 = 1_795_557_600_000;

    fn account(limits: Limits) -> Account {
        Account { limits, ..Account::new(day(NOW)) }
    }

    fn tokens(prompt: u64, generated: u64) -> Spent {
        Spent { prompt, generated, ..Spent::default() }
    }

    #[test]
    fn a_minute_fills_at_its_rate_and_debts_are_waited_for() {
        let mut account = account(Limits { tokens_per_minute: Some(600), ..Limits::default() });
        assert_eq!(account.check("ann", NOW), Ok(()));
        account.charge(tokens(900, 300), NOW);
        // 600 below zero, at ten a second.
        let denial = account.check("ann", NOW);
        let granted = "600 tokens a minute for ann".to_string();
        assert_eq!(denial, Err(Denial::Rate { granted, after_ms: 60_100 }));
        assert!(account.check("ann", NOW + 60_099).is_err());
        assert_eq!(account.check("ann", NOW + 60_100), Ok(()));
        assert_eq!(account.left()[1], Some(Allowance { limit: 600, left: 1, full_ms: 59_900 }));
        assert_eq!(account.check("ann", NOW + 3_600_000), Ok(()));
        assert_eq!(account.left()[1], Some(Allowance { limit: 600, left: 600, full_ms: 0 }));
        // A clock that is set back gives nothing away and takes nothing.
        account.charge(tokens(600, 0), NOW + 3_600_000);
        assert!(account.check("ann", NOW).is_err());
    }

    #[test]
    fn requests_are_limited_by_the_minute_and_at_once() {
        let limits =
            Limits { requests_per_minute: Some(3), concurrent: Some(2), ..Limits::default() };
        let mut account = account(limits);
        let at = |account: &mut Account, after: u64| {
            account.check("ann", NOW + after).map(|()| account.begin())
        };
        assert_eq!(at(&mut account, 0), Ok(()));
        assert_eq!(at(&mut account, 0), Ok(()));
        let granted = "2 requests at once for ann".to_string();
        assert_eq!(at(&mut account, 0), Err(Denial::Rate { granted, after_ms: 1000 }));
        account.end();
        assert_eq!(at(&mut account, 0), Ok(()));
        account.end();
        let granted = "3 requests a minute for ann".to_string();
        assert_eq!(at(&mut account, 0), Err(Denial::Rate { granted, after_ms: 20_000 }));
        assert_eq!(at(&mut account, 20_000), Ok(()));
    }

    #[test]
    fn days_months_and_totals_are_quotas() {
        const HOUR: u64 = 3_600_000;
        let day = |n| Limits { tokens_per_day: Some(n), ..Limits::default() };
        let month = |n| Limits { tokens_per_month: Some(n), ..Limits::default() };
        let all = |n| Limits { tokens_total: Some(n), ..Limits::default() };
        for (limits, more) in
            [(day(100), Some(2 * HOUR)), (month(100), Some((6 * 24 + 2) * HOUR)), (all(100), None)]
        {
            let mut account = account(limits);
            account.charge(tokens(60, 39), NOW);
            assert_eq!(account.check("ann", NOW), Ok(()));
            account.charge(tokens(0, 6), NOW);
            match account.check("ann", NOW) {
                Err(Denial::Quota { granted, after_ms }) => {
                    assert!(granted.ends_with("for ann, 105 used"), "{granted}");
                    assert_eq!(after_ms, more);
                }
                other => panic!("{other:?}"),
            }
            if let Some(more) = more {
                assert!(account.check("ann", NOW + more - 1).is_err());
                assert_eq!(account.check("ann", NOW + more), Ok(()));
            }
        }
    }

    #[test]
    fn cached_tokens_cost_what_the_limits_say() {
        let spent = Spent { requests: 1, prompt: 100, cached: 80, generated: 5 };
        for (cached_free, expected) in [(false, 105), (true, 25)] {
            assert_eq!(spent.tokens(&Limits { cached_free, ..Limits::default() }), expected);
        }
    }

    #[test]
    fn what_is_remembered_counts_where_it_belongs() {
        let mut account = account(Limits::default());
        let today = day(NOW);
        for (day, prompt) in [(today, 1), (today - 1, 10), (today - 23, 100), (today - 24, 1000)] {
            account.remember(day, tokens(prompt, 0));
        }
        let prompts = [account.today.prompt, account.month.prompt, account.total.prompt];
        assert_eq!(prompts, [1, 111, 1111]);
    }
}
