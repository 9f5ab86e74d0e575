//! The attempts themselves.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::calls::{call, fork, text};
use super::{Attempt, Ends, Outside, Probe};

const SCRATCH: &str = "mine";

/// Stopped, if it failed.
fn refused<T>(done: io::Result<T>) -> Attempt {
    match done {
        Ok(_) => Attempt::WentThrough("it was allowed".into()),
        Err(error) => Attempt::Stopped(error.to_string()),
    }
}

/// Stopped, if all failed.
fn all_refused<T>(done: impl IntoIterator<Item = io::Result<T>>) -> Attempt {
    let mut why = String::from("nothing was tried");
    for (at, done) in done.into_iter().enumerate() {
        match done {
            Ok(_) => return Attempt::WentThrough(format!("way {} was allowed", at + 1)),
            Err(error) => why = error.to_string(),
        }
    }
    Attempt::Stopped(why)
}

fn syscall(number: libc::c_long, arguments: [libc::c_long; 5]) -> Attempt {
    refused(call(number, arguments))
}

/// What stands in a file, if it can be read: then the secret is out.
fn leak(path: impl AsRef<Path>) -> Attempt {
    match fs::read_to_string(path) {
        Ok(text) => Attempt::WentThrough(text),
        Err(error) => Attempt::Stopped(error.to_string()),
    }
}

const fn probe(
    name: &'static str,
    what: &'static str,
    ends: Ends,
    attempt: fn(&Outside) -> Attempt,
) -> Probe {
    Probe { name, what, attempt, ends }
}

const fn refuse(name: &'static str, what: &'static str, attempt: fn(&Outside) -> Attempt) -> Probe {
    probe(name, what, Ends::Refused, attempt)
}

pub(super) const ALL: &[Probe] = &[
    // Files.
    refuse("read-secret", "read a file outside", |outside| leak(outside.folder.join("secret"))),
    refuse("read-home", "list the home of whoever runs this", |outside| {
        match fs::read_dir(&outside.home) {
            Err(error) => Attempt::Stopped(error.to_string()),
            // The way to this program may lead through it.
            Ok(entries) => match entries.flatten().count() {
                0 | 1 => Attempt::Stopped("there is nothing but the way to the program".into()),
                count => Attempt::WentThrough(format!("{count} entries")),
            },
        }
    }),
    refuse("read-by-link", "read it through a symbolic link", |outside| {
        let _ = symlink(outside.folder.join("secret"), "link"); // it may be there
        leak("link")
    }),
    refuse("read-by-hard-link", "read it through a hard link", |outside| {
        refused(fs::hard_link(outside.folder.join("secret"), "hard"))
    }),
    refuse("link-race", "read it while a link changes under the check", link_race),
    refuse("read-upwards", "read it by going up", |outside| {
        let up = Path::new("../../../../../../../..");
        leak(up.join(outside.folder.strip_prefix("/").unwrap_or(&outside.folder)).join("secret"))
    }),
    refuse("read-by-root-of-1", "read it through the root of process 1", |outside| {
        leak(
            Path::new("/proc/1/root")
                .join(outside.folder.strip_prefix("/").unwrap_or(Path::new("x")))
                .join("secret"),
        )
    }),
    refuse("read-by-cwd-of-parent", "read it through the parent's files", |outside| {
        let of = format!("/proc/{}", outside.parent);
        all_refused(
            ["cwd", "root", "fd", "exe"]
                .map(|name| fs::read_link(format!("{of}/{name}")).map(|_| ())),
        )
    }),
    refuse("write-secret", "write to a file outside", |outside| {
        refused(File::options().append(true).open(outside.folder.join("secret")))
    }),
    refuse("write-beside", "make a file outside", |outside| {
        refused(File::create(outside.folder.join("written")))
    }),
    refuse("write-system", "change the system's programs", |_| {
        all_refused(
            ["/usr/bin/ls", "/bin/sh", "/etc/passwd"]
                .map(|path| File::options().append(true).open(path)),
        )
    }),
    refuse("write-root", "make a file in the root", |_| refused(File::create("/here"))),
    refuse("open-by-handle", "open a file by its number on the disk", |_| {
        syscall(libc::SYS_open_by_handle_at, [-100, 0, 0, 0, 0])
    }),
    refuse("make-device", "make a device", |_| {
        syscall(
            libc::SYS_mknodat,
            [libc::c_long::from(libc::AT_FDCWD), text(c"device"), 0o060_644, 0x0800, 0],
        )
    }),
    refuse("open-devices", "open the machine's devices", |_| {
        let open = |path| File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        all_refused(
            ["/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/tty", "/dev/kvm", "/dev/fuse"]
                .map(open),
        )
    }),
    refuse("run-own-file", "run a program written just now", |_| {
        let wrote = fs::copy("/bin/true", SCRATCH);
        let Err(error) = wrote.and_then(|_| std::process::Command::new("./mine").status()) else {
            return Attempt::WentThrough("it ran".into());
        };
        Attempt::Stopped(error.to_string())
    }),
    refuse("open-files", "use files that were left open", |_| {
        let open: Vec<_> =
            (3..1024).filter(|fd| call(libc::SYS_fcntl, [*fd, 1, 0, 0, 0]).is_ok()).collect();
        match open.as_slice() {
            [] => Attempt::Stopped("none is open".into()),
            open => Attempt::WentThrough(format!("{open:?} are open")),
        }
    }),
    refuse("environment", "find secrets in the environment", |_| {
        let known = ["PATH", "LANG", "HOME", "FOLDER", "PARENT", "PORT", "NAME"];
        match std::env::vars().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Attempt::Stopped("it has what was given".into()),
            Some((name, _)) => Attempt::WentThrough(name),
        }
    }),
    // The kernel's files.
    refuse("proc-sys", "change the kernel's settings", |_| {
        let files =
            ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper"];
        all_refused(files.map(|path| File::options().write(true).open(path)))
    }),
    refuse("proc-kernel", "read the kernel's memory and keys", |_| {
        all_refused(["/proc/kcore", "/proc/keys", "/proc/kallsyms", "/proc/cmdline"].map(fs::read))
    }),
    refuse("proc-parent", "read the parent's memory and environment", |outside| {
        let of = |name| format!("/proc/{}/{name}", outside.parent);
        all_refused(["mem", "environ", "maps"].map(|name| {
            File::open(of(name)).and_then(|mut file| {
                let mut byte = [0];
                io::Read::read(&mut file, &mut byte)
            })
        }))
    }),
    refuse("proc-1", "read the memory of the first process", |_| {
        all_refused(["/proc/1/mem", "/proc/1/environ"].map(fs::read))
    }),
    refuse("cgroup", "leave the cgroup", |_| {
        let files = [
            "/sys/fs/cgroup/cgroup.procs",
            "/sys/fs/cgroup/memory/cgroup.procs",
            "/sys/fs/cgroup/pids/cgroup.procs",
        ];
        all_refused(files.map(|path| File::options().write(true).open(path)))
    }),
    // The network.
    refuse("tcp", "reach a server on this machine", |outside| {
        refused(TcpStream::connect(("127.0.0.1", outside.port)))
    }),
    refuse("metadata", "reach the cloud's metadata address", |_| {
        let address = ([169, 254, 169, 254], 80).into();
        refused(TcpStream::connect_timeout(&address, Duration::from_millis(300)))
    }),
    refuse("udp", "ask a name server", |_| {
        refused(UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"?", "8.8.8.8:53")))
    }),
    refuse("listen", "listen on a port", |_| refused(std::net::TcpListener::bind("0.0.0.0:0"))),
    refuse("raw-socket", "open a raw socket", |_| {
        let kinds = [
            (libc::AF_INET, libc::SOCK_RAW, 1),
            (libc::AF_PACKET, libc::SOCK_RAW, 3),
            (libc::AF_INET6, libc::SOCK_RAW, 58),
        ];
        all_refused(kinds.map(|(family, kind, protocol)| {
            call(libc::SYS_socket, [family.into(), kind.into(), protocol, 0, 0])
        }))
    }),
    refuse("odd-socket", "open netlink, vsock, key and Bluetooth sockets", |_| {
        let families =
            [libc::AF_NETLINK, libc::AF_VSOCK, libc::AF_KEY, libc::AF_BLUETOOTH, libc::AF_ALG];
        all_refused(
            families.map(|family| {
                call(libc::SYS_socket, [family.into(), libc::SOCK_RAW.into(), 0, 0, 0])
            }),
        )
    }),
    refuse("unix-socket", "reach a Unix socket by its path", |outside| {
        refused(UnixStream::connect(outside.folder.join("socket")))
    }),
    refuse("abstract-socket", "reach an abstract Unix socket", |outside| {
        refused(
            SocketAddr::from_abstract_name(&outside.name)
                .and_then(|address| UnixStream::connect_addr(&address)),
        )
    }),
    refuse("datagram-pair", "address a datagram from a pair of sockets", |_| {
        let mut pair = [0_i32; 2];
        let at = pair.as_mut_ptr() as libc::c_long;
        syscall(libc::SYS_socketpair, [libc::AF_UNIX.into(), libc::SOCK_DGRAM.into(), 0, at, 0])
    }),
    refuse("io-uring", "open sockets through a ring", |_| {
        let mut parameters = [0_u8; 120];
        syscall(libc::SYS_io_uring_setup, [8, parameters.as_mut_ptr() as libc::c_long, 0, 0, 0])
    }),
    // Rights.
    refuse("become-root", "become root", |_| {
        all_refused([
            call(libc::SYS_setuid, [0; 5]),
            call(libc::SYS_setresuid, [0; 5]),
            call(libc::SYS_setgid, [0; 5]),
            call(libc::SYS_setgroups, [0; 5]),
            call(libc::SYS_capset, [0; 5]),
        ])
    }),
    refuse("new-privileges", "gain rights by a program", |_| {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let none = call(libc::SYS_prctl, [libc::PR_GET_NO_NEW_PRIVS.into(), 0, 0, 0, 0]);
        match status.lines().any(|line| line.starts_with("NoNewPrivs:\t0")) || matches!(none, Ok(0))
        {
            true => Attempt::WentThrough("programs may add rights".into()),
            false => Attempt::Stopped("no program adds rights".into()),
        }
    }),
    refuse("user-namespace", "get all rights in a new user namespace", |_| {
        let new = libc::c_long::from(libc::CLONE_NEWUSER);
        all_refused([
            call(libc::SYS_unshare, [new, 0, 0, 0, 0]),
            call(libc::SYS_clone, [new | libc::c_long::from(libc::SIGCHLD), 0, 0, 0, 0]),
            call(libc::SYS_clone3, [0; 5]),
        ])
    }),
    refuse("enter-namespace", "enter another's namespaces", |_| {
        all_refused([
            call(libc::SYS_setns, [0, 0, 0, 0, 0]),
            File::open("/proc/1/ns/net").map(|_| 0),
        ])
    }),
    refuse("mount", "mount a file system", |_| {
        all_refused([
            call(libc::SYS_mount, [text(c"x"), text(c"/scratch"), text(c"tmpfs"), 0, 0]),
            call(libc::SYS_fsopen, [text(c"tmpfs"), 0, 0, 0, 0]),
            call(libc::SYS_umount2, [text(c"/proc"), 0, 0, 0, 0]),
        ])
    }),
    refuse("change-root", "change the root", |_| {
        all_refused([
            call(libc::SYS_chroot, [text(c"."), 0, 0, 0, 0]),
            call(libc::SYS_pivot_root, [text(c"."), text(c"."), 0, 0, 0]),
        ])
    }),
    refuse("raise-limits", "raise its own limits", |_| {
        let much = [u64::MAX; 2];
        let much = much.as_ptr() as libc::c_long;
        all_refused([
            call(libc::SYS_prlimit64, [0, libc::RLIMIT_NPROC.into(), much, 0, 0]),
            call(libc::SYS_prlimit64, [0, libc::RLIMIT_AS.into(), much, 0, 0]),
        ])
    }),
    refuse("realtime", "take the processor for itself", |_| {
        let first = [1_i32];
        all_refused([
            call(
                libc::SYS_sched_setscheduler,
                [0, libc::SCHED_FIFO.into(), first.as_ptr() as libc::c_long, 0, 0],
            ),
            call(libc::SYS_setpriority, [0, 0, -20, 0, 0]),
        ])
    }),
    // Other processes.
    refuse("ptrace", "take over another process", |outside| {
        let ways = [1, outside.parent];
        all_refused(
            ways.map(|pid| {
                call(libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), pid.into(), 0, 0, 0])
            }),
        )
    }),
    refuse("process-memory", "read another process's memory", |outside| {
        let ways = [1, outside.parent];
        all_refused(ways.map(|pid| call(libc::SYS_process_vm_readv, [pid.into(), 0, 0, 0, 0])))
    }),
    refuse("signal-parent", "stop the program that started it", |outside| {
        all_refused([
            call(libc::SYS_kill, [outside.parent.into(), 0, 0, 0, 0]),
            call(libc::SYS_tgkill, [outside.parent.into(), outside.parent.into(), 0, 0, 0]),
        ])
    }),
    refuse("take-descriptor", "take another process's open file", |_| {
        all_refused([
            call(libc::SYS_pidfd_open, [1, 0, 0, 0, 0]),
            call(libc::SYS_pidfd_getfd, [0, 0, 0, 0, 0]),
        ])
    }),
    refuse("shared-memory", "share memory with others", |_| {
        all_refused([
            call(libc::SYS_shmget, [0x1234, 4096, 0o1666, 0, 0]),
            call(libc::SYS_msgget, [0x1234, 0o1666, 0, 0, 0]),
            call(libc::SYS_mq_open, [text(c"queue"), 0o102, 0o666, 0, 0]),
        ])
    }),
    refuse("push-input", "type into the terminal", |_| {
        let letter = [b'x'];
        syscall(
            libc::SYS_ioctl,
            [0, libc::TIOCSTI.cast_signed(), letter.as_ptr() as libc::c_long, 0, 0],
        )
    }),
    // The kernel.
    refuse("kernel-programs", "load programs and modules into the kernel", |_| {
        all_refused([
            call(libc::SYS_bpf, [0; 5]),
            call(libc::SYS_init_module, [0; 5]),
            call(libc::SYS_finit_module, [0; 5]),
            call(libc::SYS_kexec_load, [0; 5]),
        ])
    }),
    refuse("watch-kernel", "watch the machine", |_| {
        all_refused([
            call(libc::SYS_perf_event_open, [0; 5]),
            call(libc::SYS_userfaultfd, [0; 5]),
            call(libc::SYS_fanotify_init, [0; 5]),
            call(libc::SYS_syslog, [2, 0, 0, 0, 0]),
        ])
    }),
    refuse("keyring", "use the kernel's keys", |_| {
        all_refused([
            call(libc::SYS_add_key, [text(c"user"), text(c"x"), text(c"y"), 1, -3]),
            call(libc::SYS_keyctl, [0, -3, 1, 0, 0]),
            call(libc::SYS_request_key, [text(c"user"), text(c"x"), 0, 0, 0]),
        ])
    }),
    refuse("machine", "change the machine's name and clock, or restart it", |_| {
        all_refused([
            call(libc::SYS_sethostname, [text(c"x"), 1, 0, 0, 0]),
            call(libc::SYS_clock_settime, [0; 5]),
            call(libc::SYS_reboot, [0; 5]),
            call(libc::SYS_swapoff, [text(c"/x"), 0, 0, 0, 0]),
        ])
    }),
    refuse("personality", "switch protections off", |_| {
        syscall(libc::SYS_personality, [0x004_0000, 0, 0, 0, 0])
    }),
    // Too much.
    probe("fork-bomb", "start processes without end", Ends::RefusedOrKilled, |_| {
        bomb(100_000, || match fork() {
            Ok(None) => {
                std::thread::sleep(Duration::from_secs(60));
                std::process::exit(0)
            }
            other => other.map(|_| ()),
        })
    }),
    probe("thread-bomb", "start threads without end", Ends::RefusedOrKilled, |_| {
        bomb(100_000, || {
            let sleep = || std::thread::sleep(Duration::from_secs(60));
            std::thread::Builder::new().stack_size(16 << 10).spawn(sleep).map(|_| ())
        })
    }),
    probe("memory-bomb", "take 64 GB of memory", Ends::RefusedOrKilled, |_| {
        let mut all: Vec<Vec<u8>> = Vec::new();
        bomb(64, || {
            let mut more = Vec::new();
            more.try_reserve_exact(1 << 30).map_err(io::Error::other)?;
            more.resize(1 << 30, 1);
            all.push(more);
            Ok(())
        })
    }),
    probe(
        "memory-by-processes",
        "take three times its memory in many processes",
        Ends::RefusedOrKilled,
        memory_by_processes,
    ),
    refuse("descriptor-bomb", "open files without end", |_| {
        let mut all = Vec::new();
        bomb(100_000, || File::open("/dev/null").map(|file| all.push(file)))
    }),
    probe("big-file", "write a file of 10 GB", Ends::RefusedOrKilled, |_| {
        let block = vec![1_u8; 1 << 20];
        match File::create(SCRATCH) {
            Err(error) => Attempt::WentThrough(format!("no file could be made at all: {error}")),
            Ok(mut file) => bomb(10 << 10, || file.write_all(&block)),
        }
    }),
    probe("many-files", "write a million files", Ends::RefusedOrLate, |_| {
        let mut at = 0;
        bomb(1_000_000, || {
            at += 1;
            File::create(format!("file{at}")).map(|_| ())
        })
    }),
    probe("endless-output", "say something without end", Ends::Output, |_| {
        loop {
            if let Err(error) = io::stdout().write_all(&[b'x'; 4096]) {
                return Attempt::Stopped(error.to_string());
            }
        }
    }),
    probe("endless-loop", "never end", Ends::Deadline, |_| {
        loop {
            std::hint::spin_loop();
        }
    }),
    probe("ignore-signals", "never end, and ignore what could end it", Ends::Deadline, |_| {
        let ignore = [1_usize, 0, 0, 0];
        for signal in 1..32 {
            // It is refused for those that cannot be ignored.
            let _ =
                call(libc::SYS_rt_sigaction, [signal, ignore.as_ptr() as libc::c_long, 0, 8, 0]);
        }
        std::thread::sleep(Duration::from_secs(60));
        Attempt::WentThrough("it slept for a minute".into())
    }),
    refuse("stay-behind", "leave a process behind", |_| {
        match fork() {
            Ok(None) => {
                let _ = call(libc::SYS_setsid, [0; 5]);
                let _ = call(libc::SYS_close, [1, 0, 0, 0, 0]);
                std::thread::sleep(Duration::from_secs(60));
                std::process::exit(0)
            }
            // Whether it is gone is seen from outside.
            other => Attempt::Stopped(format!("one was left: {}", other.is_ok())),
        }
    }),
];

/// Goes on until it is refused, at most so often.
fn bomb(most: usize, mut once: impl FnMut() -> io::Result<()>) -> Attempt {
    for count in 0..most {
        if let Err(error) = once() {
            return Attempt::Stopped(format!("after {count}: {error}"));
        }
    }
    Attempt::WentThrough(format!("{most} were allowed"))
}

/// Each takes less than one may have.
fn memory_by_processes(_: &Outside) -> Attempt {
    let mut children = Vec::new();
    for _ in 0..8 {
        match fork() {
            Ok(None) => {
                let mut bytes: Vec<u8> = Vec::new();
                if bytes.try_reserve_exact(192 << 20).is_err() {
                    std::process::exit(1);
                }
                bytes.resize(192 << 20, 1);
                std::thread::sleep(Duration::from_secs(2));
                std::process::exit(i32::from(bytes.len() != 192 << 20));
            }
            Ok(Some(pid)) => children.push(pid),
            Err(_) => break,
        }
    }
    let mut grown = 0;
    for pid in children {
        let mut status = 0_i32;
        let at = (&raw mut status) as libc::c_long;
        let waited = call(libc::SYS_wait4, [pid.into(), at, 0, 0, 0]);
        grown += usize::from(waited.is_ok() && status == 0);
    }
    match grown {
        8 => Attempt::WentThrough("all had their memory at once".into()),
        grown => Attempt::Stopped(format!("{grown} of 8 had theirs")),
    }
}

/// One thread swaps a link between a file of its own and the secret, the other opens it.
fn link_race(outside: &Outside) -> Attempt {
    let (secret, own) = (outside.folder.join("secret"), Path::new("own"));
    let done = AtomicBool::new(false);
    let found = std::thread::scope(|scope| {
        scope.spawn(|| {
            for at in 0..usize::MAX {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let to = if at % 2 == 0 { secret.as_path() } else { own };
                let _ = fs::remove_file("race"); // the other one's
                let _ = symlink(to, "race");
            }
        });
        let found = (0..20_000)
            .find_map(|_| fs::read_to_string("race").ok().filter(|text| !text.is_empty()));
        done.store(true, Ordering::Relaxed);
        found
    });
    match found {
        Some(text) => Attempt::WentThrough(text),
        None => Attempt::Stopped("never".into()),
    }
}
