//! Bills: what turns have used is charged to whoever pays for their processes.
//!
//! The key decision: a turn that is over is owed until what follows from it begins, and charged then: before the next
//! turn is judged, and never before the journal was handed the turn. A system that is killed within the commit
//! may charge a turn that it does again; one that is not killed charges each once.

use yushan_abi::Counts;

use super::engine::Runtime;
use crate::job::Job;
use crate::life::Life;
use crate::process::Pid;

impl Runtime {
    /// Charges what is owed for turns that were handed to the journal.
    pub(super) fn settle(&mut self, pid: Pid) {
        if let Some(job) = self.jobs.get_mut(&pid) {
            let owed = std::mem::take(&mut job.owed);
            self.bill(pid, owed);
        }
    }

    fn bill(&self, pid: Pid, used: Counts) {
        if let Some(job) = self.jobs.get(&pid) {
            self.bill_job(job, used);
        }
    }

    fn bill_job(&self, job: &Job, used: Counts) {
        if let (Some(billing), Some(payer)) = (&self.world.billing, &job.payer)
            && used.prompt + used.generated > 0
        {
            billing.bill(payer, used);
        }
    }

    /// Charges a process that ends for all that is not charged yet.
    pub(super) fn bill_rest(&self, job: &Job) {
        self.bill_job(job, job.owed);
        self.bill_job(job, under_way(job));
    }

    /// Charges what no later start of the system will charge.
    pub(super) fn bill_at_stop(&self, job: &Job) {
        match job.life {
            // Its turn goes on after the next start, and is charged then.
            Some(_) => self.bill_job(job, job.owed),
            None => self.bill_rest(job),
        }
    }
}

/// What was read and written of a turn that is not over.
fn under_way(job: &Job) -> Counts {
    match (&job.writer, job.life.as_deref()) {
        (Some(_), _) => {
            let Counts { prompt, cached, generated, .. } = job.counts;
            // What was written had all of the prompt before it; what was cached alone has cost nothing yet.
            let prompt = match job.fed {
                _ if generated > 0 => prompt,
                fed if fed <= cached => 0,
                fed => fed.min(prompt),
            };
            Counts { prompt, cached: cached.min(prompt), generated, ..Counts::default() }
        }
        // Written before the system stopped, and not gone on with.
        (None, Some(Life { written, .. })) => {
            Counts { generated: written.len(), ..Counts::default() }
        }
        (None, None) => Counts::default(),
    }
}
