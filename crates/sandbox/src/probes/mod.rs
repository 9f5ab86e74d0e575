//! Attempts to get out, made from inside on this very machine, and what came of them.
//!
//! The key decision: a wall is believed when somebody has run against it. Each attempt is a few lines of this program, started
//! in a sandbox as any command is; what it says of itself counts as little as any command's word where the outside
//! can look: secrets are compared, listeners listen, processes are counted, time is taken.

mod attempts;
mod calls;

use std::io::{self, Read};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::{End, Error, Jail, Outcome, Tier};

/// What starts an attempt: `PROGRAM sandbox-probe NAME`.
pub(crate) const ARGUMENT: &str = "sandbox-probe";
/// What an attempt exits with that was stopped, and one that was not.
const STOPPED: i32 = 40;
const WENT_THROUGH: i32 = 41;
/// What nobody inside may read.
const SECRET: &str = "the secret of the outside";
/// How much longer than its time a command may take to end, on a machine that is busy with other things.
const GRACE: Duration = Duration::from_secs(5);
/// The time of attempts that never end by themselves.
const SHORT: Duration = Duration::from_millis(1500);

/// An attempt.
pub struct Probe {
    /// Its name.
    pub name: &'static str,
    /// What is tried.
    pub what: &'static str,
    /// Made inside.
    attempt: fn(&Outside) -> Attempt,
    /// How it may end.
    ends: Ends,
}

/// How an attempt that is contained ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// It is refused, and says so.
    Refused,
    /// It is refused or killed.
    RefusedOrKilled,
    /// It is refused, or its time ends it.
    RefusedOrLate,
    /// Its time ends it.
    Deadline,
    /// Its output ends it.
    Output,
}

/// What an attempt came to, by its own account.
enum Attempt {
    Stopped(String),
    WentThrough(String),
}

/// What attempts know of the outside; they get it in their environment.
struct Outside {
    folder: PathBuf,
    home: PathBuf,
    parent: i32,
    port: u16,
    name: String,
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Of the probe.
    pub name: &'static str,
    /// What was tried.
    pub what: &'static str,
    /// Whether it was contained.
    pub contained: bool,
    /// How, or what went wrong.
    pub why: String,
}

/// All of them.
pub fn all() -> &'static [Probe] {
    attempts::ALL
}

/// Makes all attempts on this tier; `progress` hears of each. An error: nothing can be started on it at all.
pub fn run(tier: Tier, mut progress: impl FnMut(&Finding)) -> Result<Vec<Finding>, Error> {
    let stage = Stage::set()?;
    stage.jail(tier, "nothing")?.run(b"")?;
    let find = |probe: &Probe| {
        let (contained, why) = match stage.make(tier, probe) {
            Ok(why) => (true, why),
            Err(why) => (false, why),
        };
        let finding = Finding { name: probe.name, what: probe.what, contained, why };
        progress(&finding);
        finding
    };
    Ok(all().iter().map(find).collect())
}

/// Inside: makes the attempt, and tells the code to exit with.
pub(crate) fn attempt(name: &str) -> i32 {
    let Some(probe) = all().iter().find(|probe| probe.name == name) else { return 0 };
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    let outside = Outside {
        folder: of("FOLDER").into(),
        home: of("HOME").into(),
        parent: of("PARENT").parse().unwrap_or(1),
        port: of("PORT").parse().unwrap_or(1),
        name: of("NAME"),
    };
    match (probe.attempt)(&outside) {
        Attempt::Stopped(why) => {
            print!("{why}");
            STOPPED
        }
        Attempt::WentThrough(how) => {
            print!("{how}");
            WENT_THROUGH
        }
    }
}

/// The outside: a folder with a secret, and listeners.
struct Stage {
    folder: PathBuf,
    scratch: PathBuf,
    tcp: TcpListener,
    abstract_name: String,
    names: [UnixListener; 2],
}

impl Stage {
    fn set() -> io::Result<Stage> {
        let folder = std::env::temp_dir().join(format!("yushan-probes-{}", std::process::id()));
        let scratch = folder.join("scratch");
        std::fs::create_dir_all(&scratch)?;
        std::fs::write(folder.join("secret"), SECRET)?;
        let abstract_name = format!("yushan-probe-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name)?;
        let names =
            [UnixListener::bind_addr(&address)?, UnixListener::bind(folder.join("socket"))?];
        let tcp = TcpListener::bind(("127.0.0.1", 0))?;
        tcp.set_nonblocking(true)?;
        for name in &names {
            name.set_nonblocking(true)?;
        }
        Ok(Stage { folder, scratch, tcp, abstract_name, names })
    }

    fn jail(&self, tier: Tier, probe: &str) -> io::Result<Jail> {
        let program = std::env::current_exe()?;
        let mut jail = Jail::new(&program, tier);
        jail.readable.push(program);
        jail.arguments = vec![ARGUMENT.into(), probe.into()];
        jail.scratch = Some(self.scratch.clone());
        jail.environment.extend([
            ("HOME".into(), std::env::var("HOME").unwrap_or_else(|_| "/root".into())),
            ("FOLDER".into(), self.folder.display().to_string()),
            ("PARENT".into(), std::process::id().to_string()),
            ("PORT".into(), self.tcp.local_addr()?.port().to_string()),
            ("NAME".into(), self.abstract_name.clone()),
        ]);
        jail.limits.memory = 512 << 20;
        jail.limits.scratch = 16 << 20;
        jail.limits.wall = Duration::from_secs(20);
        Ok(jail)
    }

    /// How it was contained, or why it was not.
    fn make(&self, tier: Tier, probe: &Probe) -> Result<String, String> {
        let text = |error: Error| error.to_string();
        let mut jail = self.jail(tier, probe.name).map_err(|error| error.to_string())?;
        if matches!(probe.ends, Ends::Deadline | Ends::RefusedOrLate) {
            jail.limits.wall = SHORT;
        }
        let begun = Instant::now();
        let prisoner = jail.start().map_err(text)?;
        let id = prisoner.id();
        let outcome =
            prisoner.finish(b"", jail.limits.output).map_err(|error| error.to_string())?;
        let took = begun.elapsed();
        self.look(id)?;
        if took > jail.limits.wall + GRACE {
            return Err(format!("it ended after {} ms", took.as_millis()));
        }
        let why = judge(probe.ends, &outcome)?;
        let late = took.saturating_sub(jail.limits.wall).as_millis();
        Ok(if outcome.end == End::Deadline { format!("{why}, {late} ms late") } else { why })
    }

    /// What can be seen from outside.
    fn look(&self, id: u32) -> Result<(), String> {
        let entered = |listener: &UnixListener| listener.accept().is_ok();
        if self.tcp.accept().is_ok() || self.names.iter().any(entered) {
            return Err("somebody came out to a listener".into());
        }
        let secret = std::fs::read_to_string(self.folder.join("secret"));
        if secret.ok().as_deref() != Some(SECRET) || self.folder.join("written").exists() {
            return Err("a file outside was changed".into());
        }
        match left_behind(id) {
            0 => Ok(()),
            count => Err(format!("{count} processes were left behind")),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder); // a folder below the temporary one
    }
}

/// Processes of a session or group that should be gone.
fn left_behind(id: u32) -> usize {
    let mark = |entry: io::Result<std::fs::DirEntry>| {
        let mut text = String::new();
        let stat = entry.ok()?.path().join("stat");
        std::fs::File::open(stat).ok()?.read_to_string(&mut text).ok()?;
        // Behind the name: state, parent, group, session.
        let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
        let is_dead = fields.first() == Some(&"Z");
        (!is_dead && fields.get(3)?.parse() == Ok(id)).then_some(())
    };
    let entries = std::fs::read_dir(Path::new("/proc")).into_iter().flatten();
    entries.filter_map(mark).count()
}

fn judge(ends: Ends, outcome: &Outcome) -> Result<String, String> {
    let said = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let is_secret = outcome.stdout.windows(SECRET.len()).any(|part| part == SECRET.as_bytes());
    if is_secret {
        return Err("the secret came out".into());
    }
    match (outcome.end, ends) {
        (End::Exit(WENT_THROUGH), _) => Err(said),
        (End::Exit(STOPPED), Ends::Refused | Ends::RefusedOrKilled | Ends::RefusedOrLate) => {
            Ok(said)
        }
        (End::Exit(code), Ends::RefusedOrKilled) if code > 128 => {
            Ok(format!("killed by signal {}", code - 128))
        }
        (End::Deadline, Ends::Deadline | Ends::RefusedOrLate) => Ok("its time ended it".into()),
        (End::Output, Ends::Output) => Ok("its output ended it".into()),
        (end, _) => {
            let stderr = String::from_utf8_lossy(&outcome.stderr);
            Err(format!("it ended otherwise: {end:?} {said} {}", stderr.trim()))
        }
    }
}
