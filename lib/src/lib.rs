//! The vocabulary that llima-box's tools share: the name of an environment, its record, the
//! place where it lives, exit statuses and error reports, the options common to all tools.
//!
//! Small mechanisms live here as well where several tools need them: the system calls that no crate
//! wraps ([`sys`]), the step to another place or to root ([`step`]), and what passes to an ssh agent
//! ([`agent`]). Everything else belongs to one tool.

#[cfg(all(feature = "broken", not(debug_assertions)))]
compile_error!("tools that are broken on purpose are for tests: no release build has them");

pub mod agent;
pub mod caller;
pub mod cli;
pub mod config;
pub mod failure;
pub mod layer;
pub mod name;
pub mod operand;
pub mod path;
pub mod place;
pub mod record;
pub mod selection;
pub mod snapshot;
pub mod step;

#[cfg(target_os = "linux")]
pub mod cgroup;
#[cfg(target_os = "linux")]
pub mod data;
#[cfg(target_os = "linux")]
pub mod holder;
#[cfg(target_os = "linux")]
pub mod sys;
#[cfg(target_os = "linux")]
pub mod user;

/// musl's own allocator goes to the kernel far more often, and threads wait for each other there.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

pub use failure::{Failure, Result};
pub use name::Name;
pub use place::Place;
pub use record::Record;
