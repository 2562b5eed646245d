//! System calls that leave nothing behind: no errno, which is the calling thread's, and a child that shares the master's
//! memory ([`super::pad`]) runs as that thread. Where the instructions are not written down here, by the C library: then
//! no child shares the memory.

use std::ffi::c_long;

/// Whether calls are made without the C library.
pub(super) const BARE: bool = cfg!(target_arch = "x86_64");

/// A system call: its result, or the errno.
///
/// # Safety
/// As for the call.
pub(super) unsafe fn call<const N: usize>(number: c_long, arguments: [usize; N]) -> Result<usize, i32> {
    let mut six = [0; 6];
    six[..N].copy_from_slice(&arguments);
    // SAFETY: as for this function.
    unsafe { call6(number, six) }
}

#[cfg(target_arch = "x86_64")]
unsafe fn call6(number: c_long, [a, b, c, d, e, f]: [usize; 6]) -> Result<usize, i32> {
    let result: isize;
    // SAFETY: the kernel keeps all registers but these three.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    if (-4095..0).contains(&result) { Err(-result as i32) } else { Ok(result as usize) }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn call6(number: c_long, [a, b, c, d, e, f]: [usize; 6]) -> Result<usize, i32> {
    // SAFETY: as for this function; the address of this thread's errno is always valid.
    unsafe {
        match libc::syscall(number, a, b, c, d, e, f) {
            -1 => Err(*libc::__errno_location()),
            result => Ok(result as usize),
        }
    }
}

/// stat(2).
///
/// # Safety
/// The path ends with a NUL.
pub(super) unsafe fn stat(path: *const std::ffi::c_char) -> Result<libc::stat, i32> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: as for this function; the buffer is large enough, and all zeroes is a valid one.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        call(libc::SYS_stat, [path.addr(), stat.as_mut_ptr().addr()])?;
        #[cfg(not(target_arch = "x86_64"))]
        if libc::stat(path, stat.as_mut_ptr()) != 0 {
            return Err(*libc::__errno_location());
        }
        Ok(stat.assume_init())
    }
}

/// The inode of an open file, and the magic number of its filesystem.
///
/// # Safety
/// None: it is a number. It is unsafe as all of this module, which is for a child alone.
pub(super) unsafe fn inode(fd: usize) -> Result<(u64, u64), i32> {
    let mut filesystem = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the buffers are of the types that the calls fill, and all zeroes is a valid one.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        {
            call(libc::SYS_fstatfs, [fd, filesystem.as_mut_ptr().addr()])?;
            call(libc::SYS_fstat, [fd, stat.as_mut_ptr().addr()])?;
        }
        #[cfg(not(target_arch = "x86_64"))]
        if libc::fstatfs(fd as i32, filesystem.as_mut_ptr()) != 0 || libc::fstat(fd as i32, stat.as_mut_ptr()) != 0 {
            return Err(*libc::__errno_location());
        }
        Ok((stat.assume_init_ref().st_ino, filesystem.assume_init_ref().f_type as u64))
    }
}
