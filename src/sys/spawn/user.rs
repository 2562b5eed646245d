//! Another user for a short program that std starts: its groups too, which std keeps to itself.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::Identity;
use super::raw::call;

/// Lets the program of this command run with these rights alone. The directory is changed before, with our own rights.
pub fn become_user(command: &mut Command, identity: Identity) {
    let failed = io::Error::from_raw_os_error;
    let change = move || {
        let groups = &identity.groups;
        let (uid, gid) = (identity.uid as usize, identity.gid as usize);
        // By system call: the C library would change all threads of the parent that it remembers.
        // SAFETY: the list lives in this closure, the rest are numbers.
        unsafe {
            call(libc::SYS_setgroups, [groups.len(), groups.as_ptr().addr()]).map_err(failed)?;
            call(libc::SYS_setresgid, [gid, gid, gid]).map_err(failed)?;
            call(libc::SYS_setresuid, [uid, uid, uid]).map_err(failed)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(change) };
}
