//! Runs a short program or a thread as another user. The program is started by std, whose function to set the groups is not stable.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread::Builder;

use super::Identity;
use super::raw::call;

/// Makes the program of this command run as this user with these groups only. The directory is changed before, as the current user.
pub fn become_user(command: &mut Command, identity: Identity) {
    // SAFETY: between fork and exec the closure only makes system calls, and allocates nothing.
    unsafe { command.pre_exec(move || change(&identity)) };
}

/// Runs `body` on a thread with this user and these groups only, and waits for its result. Use it only in a process that exits soon: the
/// kernel then treats the process as one that changed its user (proc(5), PR_SET_DUMPABLE).
///
/// # Errors
/// No thread could be started, or this process may not change its user.
pub fn as_user<T: Send>(identity: &Identity, body: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = Builder::new().name("ratoon-as-user".to_owned()).spawn_scoped(scope, || {
            change(identity)?;
            Ok(body())
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Sets groups and user of the calling thread by system call; the C library would change all threads.
fn change(identity: &Identity) -> io::Result<()> {
    let failed = io::Error::from_raw_os_error;
    let (groups, uid, gid) = (&identity.groups, identity.uid as usize, identity.gid as usize);
    // SAFETY: the list lives during the calls, and the other arguments are numbers.
    unsafe {
        call(libc::SYS_setgroups, [groups.len(), groups.as_ptr().addr()]).map_err(failed)?;
        call(libc::SYS_setresgid, [gid, gid, gid]).map_err(failed)?;
        call(libc::SYS_setresuid, [uid, uid, uid]).map_err(failed)?;
    }
    Ok(())
}
