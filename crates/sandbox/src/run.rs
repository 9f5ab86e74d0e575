//! The side of the program that asked: starts a command, reads what it says, ends it.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::group::Groups;
use crate::init::{self, FAILED, HEAD, NAME, ORDER, Order, READY, Report};
use crate::{Error, Held, Jail, usage};

/// How often an end is looked for.
const LOOK: Duration = Duration::from_millis(1);

/// How often it is looked for before the supervisor itself is ended.
const TRIES: usize = 500;

/// A command that runs. It and all that it started are ended when this is dropped.
pub struct Prisoner {
    child: Child,
    /// What it reads.
    pub stdin: Option<ChildStdin>,
    /// What it says.
    pub stdout: Option<ChildStdout>,
    /// What it complains about.
    pub stderr: Option<ChildStderr>,
    held: Held,
    /// The group of processes that has all of it, where no namespace has.
    group: Option<Pid>,
    deadline: Instant,
    /// Removed after the child has ended.
    _groups: Groups,
}

/// Why a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code; 128 and a signal's number, if by a signal.
    Exit(i32),
    /// Its time was over.
    Deadline,
    /// It said more than is kept.
    Output,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why it ended.
    pub end: End,
    /// What it said.
    pub stdout: Vec<u8>,
    /// What it complained about.
    pub stderr: Vec<u8>,
}

impl Jail {
    /// Builds the walls and starts the command.
    pub fn start(&self) -> Result<Prisoner, Error> {
        if !init::is_entered() {
            return Err(Error::NotEntered);
        }
        let mut groups = Groups::create(&self.limits);
        let order = Order {
            jail: self.clone(),
            parent: std::process::id(),
            groups: groups.folders.clone(),
            controllers: std::mem::take(&mut groups.controllers),
        };
        let order = serde_json::to_string(&order).map_err(io::Error::from)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0(NAME).env_clear().env(ORDER, order).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let deadline = Instant::now() + self.limits.wall;
        let mut child = command.spawn()?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let held =
            Held { namespaces: false, landlock: String::new(), groups: vec![], own_user: false };
        // From here on whatever fails ends the child.
        let mut prisoner =
            Prisoner { child, stdin, stdout, stderr, held, group: None, deadline, _groups: groups };
        let report = prisoner.report()?;
        prisoner.group = Pid::from_raw(report.leader).filter(|_| !report.held.namespaces);
        prisoner.held = report.held;
        Ok(prisoner)
    }

    /// Runs it to its end, with this to read.
    pub fn run(&self, input: &[u8]) -> Result<Outcome, Error> {
        Ok(self.start()?.finish(input, self.limits.output)?)
    }
}

impl Prisoner {
    /// Which walls stand.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// The number of the process that holds the others.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Processor time of it and all that it started.
    pub fn cpu(&self) -> Duration {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        pid.map(usage::cpu).unwrap_or_default()
    }

    /// The report comes first: everything after it is the command's own.
    fn report(&mut self) -> Result<Report, Error> {
        let stderr = self.stderr.as_mut().ok_or_else(|| io::Error::other("no stream"))?;
        let ended = |text: &[u8]| {
            let text = String::from_utf8_lossy(text);
            Error::Unavailable(format!("the process that builds it ended: {text:?}"))
        };
        let mut head = [0; HEAD];
        stderr.read_exact(&mut head).map_err(|_| ended(&head))?;
        let (kind, length) = head.split_at(READY.len());
        let length = str::from_utf8(length).ok().and_then(|digits| digits.parse().ok());
        let mut text = vec![0; length.ok_or_else(|| ended(&head))?];
        stderr.read_exact(&mut text).map_err(|_| ended(&head))?;
        match kind {
            kind if kind == READY.as_bytes() => {
                Ok(serde_json::from_slice(&text).map_err(io::Error::from)?)
            }
            kind if kind == FAILED.as_bytes() => {
                Err(Error::Unavailable(String::from_utf8_lossy(&text).into_owned()))
            }
            _ => Err(ended(&head)),
        }
    }

    /// Ends it with all that it started; on return nothing of it is left.
    pub fn kill(&mut self) {
        // The supervisor ends the others, waits for them and goes. It does what it is told: the command cannot reach it.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        for _ in 0..TRIES {
            match (self.child.try_wait(), pid) {
                (Ok(None), Some(pid)) => {
                    let _ = kill_process(pid, Signal::TERM); // it may have ended just now
                    std::thread::sleep(LOOK);
                }
                _ => return,
            }
        }
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL); // perhaps nobody is left
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> io::Result<Option<i32>> {
        Ok(self.child.try_wait()?.map(|status| status.code().unwrap_or(-1)))
    }

    /// Waits for its end, with this to read; what it says is kept up to so many bytes a stream.
    pub fn finish(mut self, input: &[u8], output: usize) -> io::Result<Outcome> {
        let (sender, full) = mpsc::channel();
        let readers = [
            self.stdout.take().map(|stream| reader(stream, output, sender.clone())),
            self.stderr.take().map(|stream| reader(stream, output, sender)),
        ];
        let (input, stdin) = (input.to_vec(), self.stdin.take());
        std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&input))); // it may not want it
        let end = loop {
            if let Some(code) = self.ended()? {
                break End::Exit(code);
            }
            match full.recv_timeout(LOOK) {
                Ok(()) => break End::Output,
                // Both streams are closed: only its end is missing.
                Err(mpsc::RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= self.deadline {
                break End::Deadline;
            }
        };
        self.kill();
        let [stdout, stderr] =
            readers.map(|reader| reader.and_then(|reader| reader.join().ok()).unwrap_or_default());
        // A stream may have been filled in the last moment.
        let over = stdout.len() > output || stderr.len() > output;
        let end = if over { End::Output } else { end };
        let cut = |mut bytes: Vec<u8>| {
            bytes.truncate(output);
            bytes
        };
        Ok(Outcome { end, stdout: cut(stdout), stderr: cut(stderr) })
    }
}

impl Drop for Prisoner {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads one byte more than is kept, and says so.
fn reader(
    stream: impl Read + Send + 'static,
    most: usize,
    full: mpsc::Sender<()>,
) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What cannot be read any more has been cut off with the command.
        let _ = stream.take(most as u64 + 1).read_to_end(&mut bytes);
        if bytes.len() > most {
            let _ = full.send(());
        }
        bytes
    })
}
