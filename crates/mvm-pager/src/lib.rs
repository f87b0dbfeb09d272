//! Guest memory as pages: the file in which a sleeping guest's memory lies, and the server that a
//! woken guest's page faults are answered by (SPEC §8).
//!
//! ```text
//!  sleep:  plain memory on a tmpfs ─ compose() ─► pages ─ write() ─► page file, sealed
//!  wake:   Firecracker ─ userfaultfd ─► serve: removed? zero : in the delta? its chunk : base? : zero
//! ```
//!
//! A page file holds only some pages of a guest, packed into chunks in the order in which they will
//! probably be wanted, each chunk compressed and sealed alone, so that any one of them is read without
//! the others. What is not in it comes from the base (a plain file that shares one page cache), or is
//! zero. A page that does not verify is an error and ends the server, never a wrong page.
//!
//! - [`index`] — which page lies in which chunk; the bytes of that, and what is refused.
//! - [`seal`] — the cipher of one file.
//! - [`mod@compose`] — which pages a page file has; [`mod@write`] and [`read`] — page files in and out.
//! - [`base`] — the plain memory beneath, and what proves it.
//! - [`uffd`] — the kernel's interface, the only unsafe code; [`handshake`] — what Firecracker sends.
//! - [`serve`] — the fault loop, which allocates nothing.
//! - [`spec`] — what the program `mvm-pager` is started with; [`sandbox`] — what it may do.
//!
//! This crate refuses to know tenants, directories, when a guest sleeps, and Firecracker's API.
//! Read next: [`serve`].

pub mod base;
pub mod bits;
pub mod compose;
pub mod handshake;
pub mod index;
mod place;
pub mod read;
pub mod sandbox;
pub mod seal;
pub mod serve;
mod sparse;
pub mod spec;
pub mod uffd;
pub mod write;

pub use base::{Base, BaseError};
pub use compose::{Composition, Memory, Woken, compose};
pub use index::{CHUNK, CHUNK_PAGES, Codec, PAGE};
pub use read::{PageFile, Scratch};
pub use seal::Cipher;
pub use serve::{End, Server, Stats};
pub use write::{Written, write};
