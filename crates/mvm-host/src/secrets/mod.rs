//! A tenant's secrets on this host: read, checked, sealed, and put into the drives of guests.
//!
//! ```text
//!  source ─▶ text (checked) ─▶ disk::secrets (sealed, staged, published)
//!                                   │
//!                     text ◀────────┘ opened at every start, wake and live rotation
//!                       └─▶ vmm::secrets: an ext2 image on the jail's tmpfs
//! ```
//! Values exist in memory that is cleared, in sealed files, and in guests' drives on a tmpfs; they
//! pass no effect, record, event, log, error or command line.
//!
//! - `text` — the flat JSON object; `vault` — the `Vault` port.

mod text;
mod vault;

pub use text::{Refusal, Secrets};
pub(crate) use vault::open;
pub use vault::{LocalVault, Variable};
