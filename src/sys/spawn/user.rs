//! Another user's rights: for a short program that std starts (with its groups, which std keeps to itself), and for a thread that
//! looks at files.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread::Builder;

use super::Identity;
use super::raw::call;

/// Lets the program of this command run with these rights alone. The directory is changed before, with our own rights.
pub fn become_user(command: &mut Command, identity: Identity) {
    // SAFETY: between fork and exec it makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(move || change(&identity)) };
}

/// Does something on a thread that has these rights alone, and waits for it. For a process that ends soon: the kernel takes such a
/// process for one that changed its user (proc(5), PR_SET_DUMPABLE).
///
/// # Errors
/// No thread, or no right to change.
pub fn as_user<T: Send>(identity: &Identity, body: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = Builder::new().name("ratoon-as-user".to_owned()).spawn_scoped(scope, || {
            change(identity)?;
            Ok(body())
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// By system call: it changes the calling thread, where the C library would change all.
fn change(identity: &Identity) -> io::Result<()> {
    let failed = io::Error::from_raw_os_error;
    let (groups, uid, gid) = (&identity.groups, identity.uid as usize, identity.gid as usize);
    // SAFETY: the list lives as long as the call, the rest are numbers.
    unsafe {
        call(libc::SYS_setgroups, [groups.len(), groups.as_ptr().addr()]).map_err(failed)?;
        call(libc::SYS_setresgid, [gid, gid, gid]).map_err(failed)?;
        call(libc::SYS_setresuid, [uid, uid, uid]).map_err(failed)?;
    }
    Ok(())
}
