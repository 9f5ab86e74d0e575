//! The scheduler: which rows the next step of the engine takes.
//!
//! Decoding many sequences costs a step little more than decoding one, so all jobs in a *slot* decode
//! in every step, and what is shared out is slots and the rows of prefill. The fair policy is weighted
//! fair queueing on tokens (Demers, Keshav, Shenker 1989): a job's virtual time grows by the tokens it
//! was given over its weight, and the job that is furthest behind comes first. A job that arrives
//! starts at the present, so nobody can save up; one that waits ages towards the front. Classes are
//! weights, not walls: batch work is slow beside conversations, and never starves.
//!
//! The key decision: the scheduler is a pure function of what it was told, in whole numbers. FIFO and
//! round robin are the same code with another order, so that a comparison compares orders alone.

use std::collections::BTreeMap;

use yushan_abi::Class;

use crate::Pid;

/// Virtual time of one token at weight 1.
const TOKEN: u64 = 1 << 20;

/// Virtual time that a millisecond of waiting is worth.
const AGE: u64 = TOKEN / 256;

/// Tokens a job keeps its slot for before one that is further behind may take it.
const QUANTUM: u64 = 16;

/// Tokens of a turn in round robin.
const TURN: u64 = 64;

/// In which order jobs are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Weighted fair queueing.
    #[default]
    Fair,
    /// First come, first served, to the end: for comparison.
    Fifo,
    /// Turns of 64 tokens in a circle: for comparison.
    RoundRobin,
}

/// What a step can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Jobs that may be at work at once.
    pub slots: usize,
    /// Rows of a step.
    pub rows: usize,
    /// Rows of prefill in a step while others decode: bounds how long they wait for it.
    pub prefill_beside: usize,
}

#[derive(Clone, Debug)]
struct Job {
    class: Class,
    weight: u32,
    /// When it came, in milliseconds and among others.
    arrived: (u64, u64),
    virtual_time: u64,
    /// Tokens since it has its slot.
    turn: u64,
    /// When it was last served or came.
    served_ms: u64,
    /// Tokens that wait to be fed; 1 while it decodes.
    pending: usize,
    in_slot: bool,
}

impl Job {
    /// Weight with its class: a conversation counts as four agents or sixteen batch jobs.
    fn share(&self) -> u64 {
        let class = match self.class {
            Class::Interactive => 16,
            Class::Agent => 4,
            Class::Batch => 1,
        };
        class * u64::from(self.weight.max(1))
    }
}

/// What the next step does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Jobs and how many of their tokens are fed, in the order of their turn.
    pub rows: Vec<(Pid, usize)>,
}

/// Jobs that can run, and their places in line.
#[derive(Clone, Debug)]
pub struct Scheduler {
    order: Order,
    limits: Limits,
    jobs: BTreeMap<Pid, Job>,
    arrivals: u64,
    /// The virtual time of who was served last: where newcomers start.
    present: u64,
    /// Who had the slots in the last step.
    seated: Vec<Pid>,
    /// Where the line is put in order, kept for its memory.
    line: Vec<(Place, Pid)>,
}

/// The sort key of a job.
type Place = (u64, u64, u64);

impl Scheduler {
    /// An empty line.
    pub fn new(order: Order, limits: Limits) -> Scheduler {
        Scheduler {
            order,
            limits,
            jobs: BTreeMap::new(),
            arrivals: 0,
            present: 0,
            seated: Vec::new(),
            line: Vec::new(),
        }
    }

    /// A step takes so many rows from now on.
    pub fn set_rows(&mut self, rows: usize) {
        self.limits.rows = rows;
    }

    /// A job has `pending` tokens to be fed. One that is known keeps its place.
    pub fn ready(&mut self, pid: Pid, class: Class, weight: u32, pending: usize, now_ms: u64) {
        let (arrivals, present) = (self.arrivals, self.present);
        let job = self.jobs.entry(pid).or_insert_with(|| Job {
            class,
            weight,
            arrived: (now_ms, arrivals),
            virtual_time: present,
            turn: 0,
            served_ms: now_ms,
            pending,
            in_slot: false,
        });
        self.arrivals += 1;
        (job.class, job.weight, job.pending) = (class, weight, pending);
    }

    /// A job has nothing to run for now, or is over. Its place is lost.
    pub fn remove(&mut self, pid: Pid) {
        self.jobs.remove(&pid);
    }

    /// Rows that were planned for a job were not run: they cost nothing.
    pub fn refund(&mut self, pid: Pid, rows: usize) {
        if let Some(job) = self.jobs.get_mut(&pid) {
            let cost = rows as u64 * TOKEN / job.share();
            job.virtual_time = job.virtual_time.saturating_sub(cost);
            job.turn = job.turn.saturating_sub(rows as u64);
        }
    }

    /// Where a job stands in line, if it does: smaller comes first.
    pub fn place_of(&self, pid: Pid, now_ms: u64) -> Option<(u64, u64, u64)> {
        self.jobs.get(&pid).map(|job| self.place(job, now_ms))
    }

    /// Class and weight of a job, changed.
    pub fn renice(&mut self, pid: Pid, class: Class, weight: u32) {
        if let Some(job) = self.jobs.get_mut(&pid) {
            (job.class, job.weight) = (class, weight);
        }
    }

    /// Jobs in line.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether nobody is in line.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Chooses the rows of the next step and charges for them.
    pub fn plan(&mut self, now_ms: u64) -> Plan {
        self.seat(now_ms);
        let line = std::mem::take(&mut self.seated);
        let decoding = line.iter().filter(|pid| self.jobs[pid].pending == 1).count();
        let mut prefill = match decoding {
            0 => self.limits.rows,
            _ => self.limits.prefill_beside.min(self.limits.rows.saturating_sub(decoding)),
        };
        let mut plan = Plan::default();
        for &pid in &line {
            let Some(job) = self.jobs.get_mut(&pid) else { continue };
            let rows = match job.pending {
                1 => 1,
                pending => pending.min(prefill),
            };
            if job.pending > 1 {
                prefill -= rows;
            }
            if rows == 0 {
                continue;
            }
            self.present = self.present.max(job.virtual_time);
            job.virtual_time += rows as u64 * TOKEN / job.share();
            job.turn += rows as u64;
            job.served_ms = now_ms;
            job.pending -= rows;
            plan.rows.push((pid, rows));
        }
        self.seated = line;
        plan
    }

    /// Gives the slots to the first in line. Only these are put in order: a thousand may wait.
    fn seat(&mut self, now_ms: u64) {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        line.extend(self.jobs.iter().map(|(&pid, job)| (self.place(job, now_ms), pid)));
        let slots = self.limits.slots.min(self.limits.rows);
        if slots < line.len() {
            line.select_nth_unstable(slots);
            line.truncate(slots);
        }
        line.sort_unstable();
        for pid in &self.seated {
            let keeps = line.iter().any(|(_, other)| other == pid);
            if let Some(job) = self.jobs.get_mut(pid).filter(|_| !keeps) {
                (job.in_slot, job.turn) = (false, 0);
            }
        }
        self.seated.clear();
        for &(_, pid) in &line {
            if let Some(job) = self.jobs.get_mut(&pid).filter(|job| !job.in_slot) {
                (job.in_slot, job.turn) = (true, 0);
            }
            self.seated.push(pid);
        }
        self.line = line;
    }

    /// The sort key of a job: smaller comes first, and no two are equal.
    fn place(&self, job: &Job, now_ms: u64) -> Place {
        let arrived = job.arrived.1;
        match self.order {
            Order::Fifo => (u64::from(!job.in_slot), job.arrived.0, arrived),
            Order::RoundRobin => {
                // Whoever has turn left keeps it; then who waited longest.
                let goes_on = job.in_slot && job.turn < TURN;
                (u64::from(!goes_on), job.served_ms, arrived)
            }
            Order::Fair => {
                let waited = now_ms.saturating_sub(job.served_ms);
                let aged = job.virtual_time.saturating_sub(waited.saturating_mul(AGE));
                // Changing places costs a little, so who has just begun goes on.
                let begun = job.in_slot && job.turn < QUANTUM;
                let kept = if begun { QUANTUM * TOKEN / job.share() } else { 0 };
                (aged.saturating_sub(kept), job.arrived.0, arrived)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { slots: 4, rows: 512, prefill_beside: 64 };

    #[test]
    fn a_step_shrinks_with_the_narrowest_engine() {
        let mut scheduler = Scheduler::new(Order::Fair, LIMITS);
        for rows in [3, 100] {
            scheduler.set_rows(rows);
            (0..8).for_each(|pid| {
                scheduler.ready(Pid(pid), Class::Agent, 1, 1 + 20 * pid as usize, 0)
            });
            let plan = scheduler.plan(0);
            let planned: usize = plan.rows.iter().map(|(_, rows)| rows).sum();
            assert!(planned > 0 && planned <= rows, "{rows}: {plan:?}");
        }
    }

    /// Serves everybody who always has one more token to decode; tokens by job.
    fn serve(order: Order, jobs: &[(Class, u32)], steps: u64) -> Vec<u64> {
        let mut scheduler = Scheduler::new(order, LIMITS);
        let mut tokens = vec![0; jobs.len()];
        for now in 0..steps {
            for (i, &(class, weight)) in jobs.iter().enumerate() {
                scheduler.ready(Pid(i as u64), class, weight, 1, now);
            }
            for (pid, rows) in scheduler.plan(now).rows {
                tokens[pid.0 as usize] += rows as u64;
            }
        }
        tokens
    }

    /// Jain's index of fairness: 1 when all are equal.
    fn jain(shares: &[f64]) -> f64 {
        let (sum, squares) = shares.iter().fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
        sum * sum / (shares.len() as f64 * squares)
    }

    #[test]
    fn equals_get_equal_shares_and_weights_and_classes_count() {
        let equal = serve(Order::Fair, &[(Class::Agent, 1); 12], 6000);
        let shares: Vec<f64> = equal.iter().map(|&tokens| tokens as f64).collect();
        assert!(jain(&shares) > 0.99, "{equal:?}");
        let mut jobs = vec![(Class::Agent, 1); 8];
        jobs.push((Class::Agent, 2));
        let tokens = serve(Order::Fair, &jobs, 9000);
        let ratio = tokens[8] as f64 / tokens[0] as f64;
        assert!((1.5..2.5).contains(&ratio), "{tokens:?}");
    }

    #[test]
    fn a_short_request_passes_long_ones_except_in_fifo() {
        for (order, most) in [(Order::Fair, 1), (Order::RoundRobin, 80), (Order::Fifo, u64::MAX)] {
            let mut scheduler = Scheduler::new(order, LIMITS);
            let long = (0..4).map(Pid);
            let mut first = None;
            for now in 0..1000 {
                long.clone().for_each(|pid| scheduler.ready(pid, Class::Agent, 1, 1, now));
                if now >= 500 {
                    scheduler.ready(Pid(9), Class::Interactive, 1, 1, now);
                }
                if scheduler.plan(now).rows.iter().any(|(pid, _)| *pid == Pid(9)) {
                    first = first.or(Some(now - 500));
                }
            }
            match order {
                Order::Fifo => assert_eq!(first, None),
                _ => assert!(first.is_some_and(|steps| steps <= most), "{order:?} {first:?}"),
            }
        }
    }

    #[test]
    fn prefill_beside_decoding_is_bounded() {
        let mut scheduler = Scheduler::new(Order::Fair, LIMITS);
        scheduler.ready(Pid(1), Class::Interactive, 1, 5000, 0);
        assert_eq!(scheduler.plan(0).rows, [(Pid(1), 512)]);
        scheduler.ready(Pid(2), Class::Interactive, 1, 1, 1);
        let rows: BTreeMap<Pid, usize> = scheduler.plan(1).rows.into_iter().collect();
        assert_eq!((rows[&Pid(1)], rows[&Pid(2)]), (64, 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Nobody starves: with any classes and weights, everybody who waits is served again within a
        /// bounded number of steps.
        #[test]
        fn nobody_starves(jobs in prop::collection::vec((0..3usize, 1..8u32), 1..24)) {
            let classes = [Class::Interactive, Class::Agent, Class::Batch];
            let jobs: Vec<(Class, u32)> = jobs.into_iter().map(|(c, w)| (classes[c], w)).collect();
            let mut scheduler = Scheduler::new(Order::Fair, LIMITS);
            let mut last = vec![0; jobs.len()];
            for now in 0..6_000 {
                for (i, &(class, weight)) in jobs.iter().enumerate() {
                    scheduler.ready(Pid(i as u64), class, weight, 1, now);
                }
                for (pid, _) in scheduler.plan(now).rows {
                    last[pid.0 as usize] = now;
                }
                prop_assert!(last.iter().all(|&served| now - served < 3000), "{:?}", last);
            }
        }

        /// A step never holds more than its limits, nobody stands in it twice, and work is never left
        /// while there is room.
        #[test]
        fn plans_keep_their_limits(
            jobs in prop::collection::vec((1..600usize, 0..3usize), 0..20),
            slots in 1..8usize,
        ) {
            let limits = Limits { slots, ..LIMITS };
            for order in [Order::Fair, Order::Fifo, Order::RoundRobin] {
                let mut scheduler = Scheduler::new(order, limits);
                for (i, &(pending, class)) in jobs.iter().enumerate() {
                    let class = [Class::Interactive, Class::Agent, Class::Batch][class];
                    scheduler.ready(Pid(i as u64), class, 1, pending, 0);
                }
                let plan = scheduler.plan(0);
                let pids: std::collections::BTreeSet<Pid> = plan.rows.iter().map(|row| row.0).collect();
                prop_assert_eq!(pids.len(), plan.rows.len());
                prop_assert!(pids.len() <= slots);
                prop_assert!(plan.rows.iter().map(|row| row.1).sum::<usize>() <= limits.rows);
                prop_assert_eq!(plan.rows.is_empty(), jobs.is_empty());
            }
        }
    }
}
