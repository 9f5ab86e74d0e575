//! The file system that a command sees: what was named, read-only; a folder in memory; a few devices.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, pivot_root};

/// Where the new root is put together: a folder that every system has.
const BASE: &str = "/tmp";
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];
/// Files and folders that the scratch folder may hold: each takes memory, even an empty one.
const FILES: u32 = 10_000;
/// The user that programs look up.
const PASSWD: &str = "user:x:1000:1000:user:/scratch:/bin/sh\n";
const GROUP: &str = "user:x:1000:\n";

/// A part of the old root that is to be seen in the new one.
enum Part {
    /// A copy of the mounts there, in no file system yet.
    Tree(PathBuf, OwnedFd, bool),
    Link(PathBuf, PathBuf),
}

/// Builds the new root and goes there. The caller has a mount namespace, and may mount.
pub(crate) fn enter(readable: &[PathBuf], scratch: u64) -> io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // All are taken before anything is covered.
    let mut parts: Vec<Part> = readable.iter().map(|path| part(path)).collect::<io::Result<_>>()?;
    let devices =
        DEVICES.iter().map(|path| tree(Path::new(path))).collect::<io::Result<Vec<_>>>()?;
    // A folder before what lies in it.
    parts.sort_by_key(|part| match part {
        Part::Tree(path, ..) | Part::Link(path, _) => path.components().count(),
    });

    let quiet = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", BASE, "tmpfs", quiet, c"size=1m,mode=0755")?;
    for part in &parts {
        match part {
            Part::Tree(path, tree, is_folder) => {
                restrict(tree)?;
                attach(path, tree, *is_folder)?;
            }
            Part::Link(path, to) => {
                let link = inside(path);
                folder(link.parent().unwrap_or(Path::new(BASE)))?;
                symlink(to, &link)?;
            }
        }
    }
    for (path, device) in DEVICES.iter().zip(&devices) {
        attach(Path::new(path), device, false)?;
    }
    for name in ["scratch", "proc", "etc"] {
        folder(&inside(Path::new(name)))?;
    }
    fs::write(inside(Path::new("etc/passwd")), PASSWD)?;
    fs::write(inside(Path::new("etc/group")), GROUP)?;
    let data = std::ffi::CString::new(format!("size={scratch},nr_inodes={FILES},mode=1777"))?;
    mount("tmpfs", inside(Path::new("scratch")), "tmpfs", quiet | MountFlags::NOEXEC, &*data)?;
    symlink("scratch", inside(Path::new("tmp"))).or_else(exists)?;
    let flags = quiet | MountFlags::NOEXEC;
    // The numbers of its own processes, and nothing of the machine.
    mount("proc", inside(Path::new("proc")), "proc", flags, c"subset=pid")?;

    chdir(BASE)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    mount_remount("/", quiet | MountFlags::RDONLY | MountFlags::BIND, c"")?;
    Ok(chdir("/scratch")?)
}

fn part(path: &Path) -> io::Result<Part> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_symlink() {
        return Ok(Part::Link(path.into(), fs::read_link(path)?));
    }
    Ok(Part::Tree(path.into(), tree(path)?, kind.is_dir()))
}

fn tree(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, path, flags)?)
}

/// Read-only, without devices and without programs that change the user.
#[allow(unsafe_code)] // no crate has this call
fn restrict(tree: &OwnedFd) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the descriptor is open, the path is an empty C string, and the attributes outlive the call, which is told
    // their size.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn attach(path: &Path, tree: &OwnedFd, is_folder: bool) -> io::Result<()> {
    let at = inside(path);
    if is_folder {
        folder(&at)?;
    } else {
        folder(at.parent().unwrap_or(Path::new(BASE)))?;
        fs::File::options().append(true).create(true).open(&at)?;
    }
    Ok(move_mount(tree.as_fd(), "", CWD, &at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn inside(path: &Path) -> PathBuf {
    Path::new(BASE).join(path.strip_prefix("/").unwrap_or(path))
}

fn folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn exists(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}
