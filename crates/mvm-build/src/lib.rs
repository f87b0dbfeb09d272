//! Packages and assets into verified, content-addressed files and images.
//!
//! What this crate refuses to know: privilege, tenants, instances. It downloads pinned bytes
//! (`catalogue`, `source`, `fetch`), puts a virtual machine monitor in place (`assets`), and turns
//! Debian packages, a guest agent and a kernel into an image (`deb` → `tree` → `rootfs`, `kernel`
//! and `initramfs`; driven by `image`, named by `recipe`, kept by `store`).
//!
//! Nothing here retries, prints, or runs anything that was downloaded.

pub mod assets;
pub mod catalogue;
pub mod fetch;
pub mod hash;
pub mod progress;
pub mod source;
