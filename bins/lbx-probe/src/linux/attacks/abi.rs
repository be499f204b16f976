//! System calls by the numbers of other ABIs, which a filter must know.

use super::Attack;
#[cfg(target_arch = "x86_64")]
use super::attack;
#[cfg(target_arch = "x86_64")]
use crate::linux::{
    line::{Answer, name_of},
    raw::{call, call_i386},
};

#[cfg(not(target_arch = "x86_64"))]
pub(super) const ATTACKS: &[Attack] = &[];

/// It is killed where the filter sees it: this is what is left to say.
#[cfg(target_arch = "x86_64")]
pub(super) const ATTACKS: &[Attack] = &[
    attack("abi-x32", "seccomp(2), x32", "calls by the numbers of x32", |_| {
        match call!(0x4000_0000 | libc::SYS_getpid) {
            Err(e) => Answer::through("getpid of x32", format!("{}, not killed", name_of(e))),
            Ok(_) => Answer::through("getpid of x32", "done"),
        }
    }),
    attack("abi-i386", "seccomp(2), int 0x80", "calls by the numbers of 32-bit programs", |_| {
        const GETPID: i64 = 20;
        match call_i386(GETPID) {
            Err(e) => Answer::through("getpid of i386", format!("{}, not killed", name_of(e))),
            Ok(_) => Answer::through("getpid of i386", "done"),
        }
    }),
];
