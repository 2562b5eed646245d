//! Replaces the program of this process by execve(2): its number, children and parent stay the same.
//!
//! Law: no signal is lost or kills the process meanwhile: all signals are blocked before, and the new program starts with them blocked
//! (see [`super::signals::only`]). If execve(2) fails, nothing has changed.

use std::ffi::CString;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::{FdFlags, fcntl_setfd};

use super::spawn::{block_everything, pointers, restore};

/// Replaces the program of this process. Returns only on failure, with the error.
///
/// The descriptors in `carried` stay open under their numbers; all others of this process are close-on-exec. All other threads end
/// at once. So call it from the thread that started the workers: when such a thread ends, the kernel sends its children their
/// `PR_SET_PDEATHSIG`. The calling thread becomes the first thread of the new program, and the workers stay its children.
pub fn replace(path: &CString, argv: &[CString], env: &[CString], carried: &[BorrowedFd<'_>]) -> io::Error {
    let (argv, env) = (pointers(argv), pointers(env));
    let mask = match block_everything() {
        Ok(mask) => mask,
        Err(error) => return error,
    };
    let set = |flags: FdFlags| carried.iter().try_for_each(|fd| fcntl_setfd(*fd, flags));
    let error = match set(FdFlags::empty()) {
        Ok(()) => {
            // SAFETY: the path and every entry of both lists end with a NUL, the lists with a null; all live until the
            // call returns, if it does.
            unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
            io::Error::last_os_error()
        }
        Err(error) => error.into(),
    };
    let _ = set(FdFlags::CLOEXEC);
    restore(&mask);
    error
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn text(text: &str) -> CString {
        CString::new(text).unwrap()
    }

    #[test]
    fn what_cannot_be_executed_changes_nothing() {
        std::thread::spawn(|| {
            let mask = || std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let blocked = |status: String| status.lines().find(|line| line.starts_with("SigBlk")).unwrap().to_owned();
            let before = blocked(mask());
            let fd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
            let error = replace(&text("/nonexistent/ratoon"), &[text("ratoon")], &[], &[fd.as_fd()]);
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
            assert_eq!(blocked(mask()), before);
            assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(FdFlags::CLOEXEC));
        })
        .join()
        .unwrap();
    }
}
