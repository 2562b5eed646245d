//! System calls that do not set errno: errno belongs to the calling thread, and a child that shares the master's memory
//! ([`super::make`]) runs as that thread. On architectures without instructions here the C library makes the calls; there no child
//! shares the memory.

use std::ffi::c_long;

/// Whether this architecture makes system calls without the C library.
pub(super) const BARE: bool = cfg!(target_arch = "x86_64");

/// Makes a system call; returns its result or the errno.
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
    // SAFETY: the kernel preserves all registers except these three.
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
/// None: the argument is a number. The function is unsafe like all of this module, which is only for children.
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
