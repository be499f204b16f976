//! Keys that the kernel keeps.

use std::time::Duration;

use libc::c_long;

use super::{Attack, all_refused, attack, refused};
use crate::linux::inside::until_unread;
use crate::linux::line::Answer;
use crate::linux::raw::call;

/// The name of the attack that is judged outside, when the attacker has ended.
pub(crate) const SESSION_KEYRING: &str = "session-keyring";

const KEYCTL_GET_KEYRING_ID: c_long = 0;
const KEYCTL_DESCRIBE: c_long = 6;
const KEYCTL_READ: c_long = 11;
const KEY_SPEC_PROCESS_KEYRING: c_long = -2;
const KEY_SPEC_SESSION_KEYRING: c_long = -3;
const KEY_SPEC_USER_KEYRING: c_long = -4;
/// How long a process is left behind at most.
const LEFT: Duration = Duration::from_secs(3);

pub(super) const ATTACKS: &[Attack] = &[
    attack("key-add", "add_key(2), CVE-2016-0728", "fills or overruns the kernel's keyrings", |inside| {
        let name = super::c_path(inside.told.outside.token.as_ref());
        let (kind, key) = (c"user".as_ptr(), name.as_ptr());
        refused("add_key", call!(libc::SYS_add_key, kind, key, key, 1, KEY_SPEC_PROCESS_KEYRING))
    }),
    attack("key-request", "request_key(2)", "has the kernel run a program for a key", |inside| {
        let name = super::c_path(inside.told.outside.token.as_ref());
        refused("request_key", call!(libc::SYS_request_key, c"user".as_ptr(), name.as_ptr(), 0, 0))
    }),
    attack("key-rings", "keyctl(2), keyrings(7)", "opens keyrings that are shared by all of a user", |_| {
        let of = |ring: c_long| call!(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, ring, 0);
        all_refused(
            "keyctl of the session's and the user's keyrings",
            [("session", of(KEY_SPEC_SESSION_KEYRING)), ("user", of(KEY_SPEC_USER_KEYRING))],
        )
    }),
    attack("key-bait", "keyctl(2)", "reads a key of the caller's by its number", |inside| {
        let Some(key) = inside.told.outside.key else {
            return Answer::skipped("keyctl KEYCTL_READ", "there are no keyrings here");
        };
        let mut buffer = [0u8; 64];
        let mut on = |what: c_long| call!(libc::SYS_keyctl, what, key, &raw mut buffer, size_of_val(&buffer));
        all_refused("keyctl of the key laid outside", [("read", on(KEYCTL_READ)), ("describe", on(KEYCTL_DESCRIBE))])
    }),
    attack(SESSION_KEYRING, "session-keyring(7)", "keeps the caller's session keyring", |_| {
        let tried = "leave a process behind, and look who has the caller's keyring";
        match lbx::sys::fork() {
            Ok(None) => {
                let _ = call!(libc::SYS_setsid);
                // not what the attacker waits for
                let _ = lbx::sys::close_between(3, u32::MAX);
                until_unread(LEFT);
                lbx::sys::exit_now(0)
            }
            Ok(Some(_)) => Answer::found(tried, ""),
            Err(e) => Answer::skipped(tried, format!("no process can be started: {e}")),
        }
    }),
];
