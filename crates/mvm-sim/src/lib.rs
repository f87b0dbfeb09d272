//! A whole machine in memory: the simulated host, its faults, its invariants, and the suite that
//! holds it to the real one.
//!
//! - [`world`] — what the machine is: kernel objects, processes, guests, a disk that forgets.
//! - [`host`], [`guest`] — the ports over it, with the semantics that each effect documents.
//! - [`clock`], [`locks`] — time that is told, and locks that die with their process.
//! - [`process`] — one simulated `mvm`: every port call passes its gate, where it may die.
//! - [`turns`] — several of them, one at a time, in an order from a seed.
//! - [`fault`] — what goes wrong and at which call.
//! - [`invariant`] — what must hold after every port call, and at rest.
//! - [`conformance`] — one suite for every implementation of the host, real or not.
//!
//! It never ships and nothing normal-depends on it. It knows no plan: what should be done next is
//! for the engine to say, and whether that was safe is for the invariants.

pub mod chance;
pub mod clock;
pub mod conformance;
pub mod disk;
pub mod fault;
pub mod guest;
pub mod host;
pub mod invariant;
pub mod locks;
pub mod process;
pub mod turns;
pub mod world;
