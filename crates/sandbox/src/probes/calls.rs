//! System calls as an attacker makes them: by number, with whatever arguments.

use std::io;

/// Makes a call.
#[allow(unsafe_code)] // attempts make calls that nobody wraps
pub(super) fn call(number: libc::c_long, arguments: [libc::c_long; 5]) -> io::Result<libc::c_long> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: every caller passes plain numbers, null, or pointers to C strings and buffers that are static or outlive the call. This
    // is a process that does nothing but the attempt.
    let done = unsafe { libc::syscall(number, a, b, c, d, e) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

/// A text as an argument.
pub(super) fn text(text: &'static std::ffi::CStr) -> libc::c_long {
    text.as_ptr() as libc::c_long
}

/// A child that shares nothing, as `fork` makes it; `None` in the child.
#[allow(unsafe_code)] // there is no safe one
pub(super) fn fork() -> io::Result<Option<i32>> {
    // SAFETY: the process of an attempt has one thread when it forks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}
