//! The C library's own functions behind those of this library (`RTLD_NEXT`, dlsym(3)).

use std::ffi::CStr;
use std::os::raw::{c_int, c_ulong, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{sockaddr, socklen_t};

/// Finds the next definition of a function, once.
fn find(name: &CStr, found: &AtomicPtr<c_void>) -> *mut c_void {
    let known = found.load(Ordering::Acquire);
    if !known.is_null() {
        return known;
    }
    // SAFETY: A NUL-terminated name.
    let function = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if function.is_null() {
        // No C library without these functions could have started the program.
        // SAFETY: Ends the process.
        unsafe { libc::abort() }
    }
    found.store(function, Ordering::Release);
    function
}

macro_rules! next {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(
            /// # Safety
            /// As of the C library's function of this name.
            pub unsafe fn $name($($argument: $type),*) -> $result {
                static FOUND: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
                let name = const {
                    match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                        Ok(name) => name,
                        Err(_) => panic!("a name without NUL"),
                    }
                };
                let function = find(name, &FOUND);
                // SAFETY: The C library's function of this name has this signature.
                let function: unsafe extern "C" fn($($type),*) -> $result = unsafe { std::mem::transmute(function) };
                // SAFETY: The caller's promise.
                unsafe { function($($argument),*) }
            }
        )*
    };
}

next! {
    bind(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int;
    listen(fd: c_int, backlog: c_int) -> c_int;
    accept4(fd: c_int, address: *mut sockaddr, length: *mut socklen_t, flags: c_int) -> c_int;
    fcntl(fd: c_int, command: c_int, argument: usize) -> c_int;
    ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int;
    dup(fd: c_int) -> c_int;
    dup2(fd: c_int, copy: c_int) -> c_int;
}
