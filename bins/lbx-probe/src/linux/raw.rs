//! Raw system calls: attacks make them with arguments that no wrapper would let through.
#![allow(unsafe_code)]

use libc::c_long;
use nix::errno::Errno;

/// A system call with arguments as wide as registers: a filter sees no less.
macro_rules! call {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        $crate::linux::raw::make($number as libc::c_long, &[$($argument as libc::c_long),*])
    };
}
pub(crate) use call;

/// Makes system call `number`.
pub(crate) fn make(number: c_long, arguments: &[c_long]) -> Result<c_long, Errno> {
    let mut a: [c_long; 6] = [0; 6];
    for (to, from) in a.iter_mut().zip(arguments) {
        *to = *from;
    }
    // SAFETY: every pointer among the arguments is to what lives across the call and is as large as the
    // call takes it to be; what else it does, it does to a process that ends with the attack.
    match unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) } {
        -1 => Err(Errno::last()),
        result => Ok(result),
    }
}

/// System call `number` of 32-bit programs, through their own door.
#[cfg(target_arch = "x86_64")]
pub(crate) fn call_i386(number: c_long) -> Result<c_long, Errno> {
    let result: c_long;
    // SAFETY: a call without pointers; rbx, which the compiler keeps to itself, is given back.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {zero}", "int 0x80", "xchg rbx, {zero}",
            zero = inout(reg) 0 as c_long => _, inlateout("rax") number => result,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    match result as i32 {
        error @ -4095..=-1 => Err(Errno::from_raw(-error)),
        _ => Ok(result),
    }
}
