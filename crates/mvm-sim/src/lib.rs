//! A whole machine in memory: the simulated host, its faults, its invariants, and the suite that
//! holds it to the real one.
//!
//! - [`world`] — what the machine is: kernel objects, processes, guests, a disk that forgets.
//! - [`host`], [`guest`] — the ports over it, with the semantics that each effect documents.
//! - [`clock`], [`locks`] — time that is told, and locks that die with their process.
//! - [`conformance`] — one suite for every implementation of the host, real or not.
//!
//! It never ships and nothing normal-depends on it. It knows no plan: what should be done next is
//! for the engine to say, and whether that was safe is for the invariants.

pub mod chance;
pub mod clock;
pub mod conformance;
pub mod disk;
pub mod guest;
pub mod host;
pub mod locks;
pub mod world;
