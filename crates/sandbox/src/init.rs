//! The process that builds the walls, and the one that waits in them.
//!
//! Three processes: the *supervisor*, which this program is when it has been started under another name, ends with the program
//! that started it; the *first process* of the new process namespace builds the root, collects the dead, and takes
//! all others with it when it ends; the third becomes the command. On [`Tier::Narrow`] there is no first process.

use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    DumpableBehavior, Gid, Pid, PidfdFlags, Signal, Uid, WaitOptions, WaitStatus, getpid, getppid,
    getuid, kill_process, kill_process_group, pidfd_open, set_child_subreaper,
    set_dumpable_behavior, set_parent_process_death_signal, setpgid, setsid, wait, waitpid,
};
use rustix::thread::{UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde::{Deserialize, Serialize};

use crate::seccomp::Filters;
use crate::usage::memory;
use crate::{Held, Jail, Tier, confine, group, probes, root};

/// The name under which this program is started to build walls, and where it finds what to do.
pub(crate) const NAME: &str = "yushan-sandbox";
pub(crate) const ORDER: &str = "YUSHAN_SANDBOX";
/// What its report begins with: what holds, or what failed. Then come four digits, its length in bytes, and the text: it is read in
/// two steps, without a byte of what the command says after it.
pub(crate) const READY: &str = "ready ";
pub(crate) const FAILED: &str = "fails ";
pub(crate) const HEAD: usize = READY.len() + 4;
/// The exit code of a command that could not be started.
const NO_COMMAND: i32 = 127;
/// Numbers of users that nobody has, when the walls are built by root.
const USERS: u32 = 0x6000_0000;
/// The user's number in a namespace of its own.
const INSIDE: u32 = 1000;

/// How often the memory of all together is looked at.
const LOOK: Duration = Duration::from_millis(50);

static ENTERED: AtomicBool = AtomicBool::new(false);

/// What the supervisor is to do.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) jail: Jail,
    /// Who started it.
    pub(crate) parent: u32,
    pub(crate) groups: Vec<PathBuf>,
    pub(crate) controllers: Vec<String>,
}

/// What it says when the walls stand.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) held: Held,
    /// The command's process, and the number of its group, as the command sees them.
    pub(crate) leader: i32,
}

/// Must be the first call of `main` in a program that starts sandboxes: in a process that was started to
/// build one it does that, and never returns.
pub fn enter() {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    if name == NAME {
        supervise();
    }
    if arguments.next().is_some_and(|first| first == probes::ARGUMENT) {
        let probe = arguments.next().unwrap_or_default();
        std::process::exit(probes::attempt(&probe.to_string_lossy()));
    }
    ENTERED.store(true, Ordering::Relaxed);
}

/// Whether [`enter`] was called.
pub(crate) fn is_entered() -> bool {
    ENTERED.load(Ordering::Relaxed)
}

fn supervise() -> ! {
    let code = match begin() {
        Ok(code) => code,
        Err(why) => {
            say(FAILED, &why);
            NO_COMMAND
        }
    };
    std::process::exit(code)
}

/// What the program reads that asked for this.
fn say(kind: &str, text: &str) {
    let text = &text[..text.floor_char_boundary(9999)];
    let report = format!("{kind}{:04}{text}", text.len());
    let _ = io::stderr().write_all(report.as_bytes()); // if nobody listens, nobody waits
}

type Done<T> = Result<T, String>;

/// An error, and what was being done.
fn at<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}

fn begin() -> Done<i32> {
    close_others().map_err(at("closing files"))?;
    let order = std::env::var(ORDER).map_err(at("the order"))?;
    let order: Order = serde_json::from_str(&order).map_err(at("the order"))?;
    let parent = i32::try_from(order.parent).ok().and_then(Pid::from_raw);
    let parent = parent.ok_or("the order names no parent")?;
    let parent = pidfd_open(parent, PidfdFlags::empty()).map_err(at("the parent"))?;
    if getppid().map(Pid::as_raw_nonzero).map(|pid| pid.get().cast_unsigned()) != Some(order.parent)
    {
        return Err("the program that asked is gone".into());
    }
    let joined = order.groups.iter().all(|folder| group::join(folder).is_ok());
    let controllers = if joined { order.controllers } else { Vec::new() };
    setsid().map_err(at("a session"))?;
    let jail = &order.jail;
    let is_root = getuid().is_root();
    let user = is_root.then(|| USERS + getpid().as_raw_nonzero().get().cast_unsigned());
    let mut held = Held {
        namespaces: jail.tier == Tier::Full,
        landlock: String::new(),
        groups: controllers,
        own_user: jail.tier == Tier::Full,
    };
    let asked = Asked::listen().map_err(at("signals"))?;
    let first = match jail.tier {
        Tier::Full => {
            unshare(is_root)?;
            fork().map_err(at("the first process"))?
        }
        Tier::Narrow => {
            set_child_subreaper(Some(getpid())).map_err(at("adopting"))?;
            fork().map_err(at("the command's process"))?
        }
    };
    let Some(first) = first else {
        asked.ignore().map_err(at("signals"))?;
        let end = match jail.tier {
            Tier::Full => first_process(jail, user, &mut held),
            Tier::Narrow => command(jail, None, &mut held),
        };
        let Err(why) = end else { std::process::exit(0) };
        say(FAILED, &why);
        std::process::exit(NO_COMMAND);
    };
    close_streams();
    guard(first, &parent, &asked, jail, &held)
}

/// Waits for the end: of the command, of the program that wants it, or of its memory.
fn guard(first: Pid, parent: &OwnedFd, asked: &Asked, jail: &Jail, held: &Held) -> Done<i32> {
    let child = pidfd_open(first, PidfdFlags::empty()).map_err(at("waiting"))?;
    let mut watched = [
        PollFd::new(&child, PollFlags::IN),
        PollFd::new(parent, PollFlags::IN),
        PollFd::new(&asked.descriptor, PollFlags::IN),
    ];
    // The root is shared with the first process, and so are the names of processes there. Elsewhere orphans are this one's.
    let seen = if jail.tier == Tier::Full { Pid::INIT } else { getpid() };
    // Where no cgroup bounds the memory of all together, somebody looks.
    let is_bounded = held.groups.iter().any(|name| name.starts_with("memory"));
    let look = (!is_bounded).then(|| Timespec::try_from(LOOK)).transpose();
    let look = look.map_err(at("waiting"))?;
    loop {
        match poll(&mut watched, look.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("waiting: {error}")),
            Ok(0) if memory(seen) <= jail.limits.memory => {}
            Ok(_) => break,
        }
    }
    if watched[0].revents().is_empty() {
        let _ = kill_process(first, Signal::KILL); // nobody wants it any more
    }
    let status = waitpid(Some(first), WaitOptions::empty()).map_err(at("waiting"))?;
    if jail.tier == Tier::Narrow {
        end_all(first);
    }
    Ok(status.map_or(NO_COMMAND, |(_, status)| code(status)))
}

/// As a shell says it.
fn code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => NO_COMMAND,
    }
}

/// Ends what the command left behind, where no namespace does it. None of them can leave the command's group.
fn end_all(leader: Pid) {
    let _ = kill_process_group(leader, Signal::KILL); // perhaps nobody is left
    // Orphans are this process's children now.
    while wait(WaitOptions::empty()).is_ok() {}
}

/// SIGTERM as something to wait for: who is asked to end waits for the others first.
struct Asked {
    set: libc::sigset_t,
    descriptor: OwnedFd,
}

impl Asked {
    #[allow(unsafe_code)] // there is no safe one
    fn listen() -> io::Result<Asked> {
        // SAFETY: the set is made by the C library before it is read, and outlives the calls; the descriptor is new and owned by
        // nobody else.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC) {
                -1 => Err(io::Error::last_os_error()),
                descriptor => Ok(Asked { set, descriptor: OwnedFd::from_raw_fd(descriptor) }),
            }
        }
    }

    /// As it is in every new process.
    #[allow(unsafe_code)] // there is no safe one
    fn ignore(self) -> io::Result<()> {
        // SAFETY: the set was made in `listen`.
        match unsafe {
            libc::sigprocmask(libc::SIG_UNBLOCK, &raw const self.set, std::ptr::null_mut())
        } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The namespaces. Root needs none for users: its command gets a user that nobody else has.
fn unshare(is_root: bool) -> Done<()> {
    let flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    let users = if is_root { UnshareFlags::empty() } else { UnshareFlags::NEWUSER };
    let (uid, gid) = (getuid().as_raw(), rustix::process::getgid().as_raw());
    unshare_thread(flags | users).map_err(at("namespaces"))?;
    if !is_root {
        fs::write("/proc/self/setgroups", "deny").map_err(at("groups"))?;
        fs::write("/proc/self/uid_map", format!("{INSIDE} {uid} 1")).map_err(at("users"))?;
        fs::write("/proc/self/gid_map", format!("{INSIDE} {gid} 1")).map_err(at("groups"))?;
    }
    rustix::system::sethostname(b"sandbox").map_err(at("the host's name"))
}

#[allow(unsafe_code)] // the call is unsafe for what it could do to other threads
fn unshare_thread(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: no file table is unshared, and this process has one thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Number one of the namespace: builds the root, starts the command, collects the dead.
fn first_process(jail: &Jail, user: Option<u32>, held: &mut Held) -> Done<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(at("ending together"))?;
    root::enter(&jail.readable, jail.limits.scratch).map_err(at("a root of its own"))?;
    let Some(third) = fork().map_err(at("the command's process"))? else {
        return command(jail, user, held);
    };
    close_streams();
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == third => std::process::exit(code(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => std::process::exit(NO_COMMAND),
        }
    }
}

/// Gives up everything, and becomes the command.
fn command(jail: &Jail, user: Option<u32>, held: &mut Held) -> Done<()> {
    if jail.tier == Tier::Full {
        setsid().map_err(at("a session"))?;
    } else {
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(at("ending together"))?;
        setpgid(None, None).map_err(at("a group"))?;
        let scratch = jail.scratch.as_ref().ok_or("this tier needs a scratch folder")?;
        std::env::set_current_dir(scratch).map_err(at("the scratch folder"))?;
    }
    let filters = Filters::compile().map_err(at("the filter"))?;
    let (program, arguments, environment) = words(jail).map_err(at("the command line"))?;
    confine::limit(jail).map_err(at("limits"))?;
    confine::bound_capabilities();
    if let Some(user) = user {
        let (user, of) = (Uid::from_raw(user), Gid::from_raw(user));
        set_thread_groups(&[]).map_err(at("groups"))?;
        set_thread_res_gid(of, of, of).map_err(at("the group"))?;
        set_thread_res_uid(user, user, user).map_err(at("the user"))?;
    }
    confine::drop_capabilities().map_err(at("capabilities"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(at("dumps"))?;
    held.landlock = confine::restrict(jail).map_err(at("Landlock"))?.to_string();
    let report = Report { held: held.clone(), leader: getpid().as_raw_nonzero().get() };
    say(READY, &serde_json::to_string(&report).map_err(at("the report"))?);
    // From here on it speaks in the command's place.
    let why = match filters.apply() {
        Ok(()) => execute(&program, &arguments, &environment).to_string(),
        Err(error) => format!("the filter: {error}"),
    };
    let _ = writeln!(io::stderr(), "{}: {why}", jail.program.display());
    std::process::exit(NO_COMMAND)
}

type Words = (CString, Vec<CString>, Vec<CString>);

fn words(jail: &Jail) -> Result<Words, std::ffi::NulError> {
    let program = CString::new(jail.program.as_os_str().as_bytes())?;
    let mut arguments = vec![program.clone()];
    for argument in &jail.arguments {
        arguments.push(CString::new(argument.as_str())?);
    }
    let environment = jail.environment.iter();
    let environment = environment.map(|(name, value)| CString::new(format!("{name}={value}")));
    Ok((program, arguments, environment.collect::<Result<_, _>>()?))
}

/// Returns only if it fails.
#[allow(unsafe_code)] // the standard library's way starts another process first
fn execute(program: &CString, arguments: &[CString], environment: &[CString]) -> io::Error {
    let list = |words: &[CString]| -> Vec<*const libc::c_char> {
        words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (list(arguments), list(environment));
    // SAFETY: both lists are arrays of pointers to C strings that outlive the call, and end with null.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// `None` in the child.
#[allow(unsafe_code)] // there is no safe one
fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: this process has one thread, so no lock can be held by another.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Whatever was left open by whoever started this.
#[allow(unsafe_code)] // there is no safe one
fn close_others() -> io::Result<()> {
    // SAFETY: nothing in this process owns a descriptor above the three streams yet.
    match unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The streams are the command's: who only waits must not keep them open.
#[allow(unsafe_code)] // there is no safe one
fn close_streams() {
    for stream in 0..3 {
        // SAFETY: nothing is read from or written to these streams from here on but an error's line, which then fails.
        unsafe { libc::close(stream) };
    }
}
