//! The domain of `mvm`: what exists, what may be asked, what may be done, and the decisions.
//!
//! This crate decides and never acts. It has no file system, no clock, no randomness, no process
//! and no socket; `Cargo.toml` proves it (`cargo xtask check`, rules R1 and R2).
//!
//! # The system in five sentences
//!
//! 1. Everything `mvm` may do to a machine is one closed enum, [`effect::Effect`]; everything that
//!    may be asked of it is one closed enum, [`operation::Operation`].
//! 2. A pure function decides: [`plan::instance::plan`] maps a record and what was observed to the
//!    next [`plan::Step`]s, and to none at rest.
//! 3. A small trait acts: [`port::Host`] executes effects and observes; it has no opinion.
//! 4. Recovery is the ordinary loop: observe, [`plan::truth`], plan, execute, until at rest.
//! 5. The simulated host and the real host pass the same conformance suite.
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | tenant | boundary for quota, network, keys and audit |
//! | pool | homogeneous instances of a tenant |
//! | instance | one microVM, whatever its state |
//! | image | kernel and root file system, named by the hash of all that went in |
//! | revision | an image as a pool's build |
//! | record | what is stored about a subject: what was asked, and the last known state |
//! | want | the state a record asks for |
//! | observed | what the kernel and the disk show |
//! | effect | one idempotent act on the machine |
//! | step | an effect, a word with the guest, or a commit to the store |
//! | plan | the steps from what is observed to what is wanted |
//! | operation | what a person or a program asked |
//! | event | what happened, for the audit log |
//! | sleep, wake | a guest to disk and back; never a thread's pause |
//! | warm | a guest in memory with its vCPUs paused |

pub mod alloc;
pub mod api;
pub mod audit;
pub mod base64;
pub mod desired;
pub mod disk;
pub mod document;
pub mod effect;
pub mod error;
pub mod event;
pub mod id;
pub mod instance;
pub mod integration;
pub mod layout;
pub mod meter;
pub mod moment;
pub mod net;
pub mod observed;
pub mod operation;
pub mod plan;
pub mod pool;
pub mod port;
pub mod publish;
pub mod quota;
pub mod route;
pub mod secrets;
pub mod signed;
pub mod state;
pub mod template;
pub mod tenant;
pub mod units;
pub mod volume;

pub use error::{Error, ErrorKind};
