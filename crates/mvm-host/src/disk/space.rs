//! Room on a file system, and the admission that keeps a reserve.
//!
//! It does not know what the room is for, and frees none.

use std::path::Path;

use mvm_core::units::Mib;

use super::error::{Act, Error};

/// The share of the data file system that stays free, in percent: a full file system stops the
/// store, the logs and every guest's disk at once.
const RESERVE_PERCENT: u64 = 10;

/// What may be taken from the file system of `path` in bytes, beside the reserve.
///
/// # Errors
/// When the file system cannot be asked.
pub fn available(path: &Path) -> Result<u64, Error> {
    let stat = rustix::fs::statvfs(path).act("ask for the free space of", path)?;
    Ok(beside_reserve(stat.f_blocks, stat.f_bavail).saturating_mul(stat.f_frsize))
}

fn beside_reserve(total: u64, free: u64) -> u64 {
    free.saturating_sub(total.div_ceil(100).saturating_mul(RESERVE_PERCENT))
}

/// Refuses what would eat into the reserve of the file system of `path`, an existing directory.
///
/// # Errors
/// [`Error::NoRoom`], or when the file system cannot be asked.
pub fn admit(path: &Path, bytes: u64) -> Result<(), Error> {
    compare(path, bytes, available(path)?)
}

/// Refuses what does not fit into the tmpfs of `path`, which has no reserve: it holds nothing but
/// guests' memory.
///
/// # Errors
/// As [`admit`].
pub fn admit_ram(path: &Path, bytes: u64) -> Result<(), Error> {
    let stat = rustix::fs::statvfs(path).act("ask for the free space of", path)?;
    compare(path, bytes, stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn compare(path: &Path, needed: u64, free: u64) -> Result<(), Error> {
    if needed <= free {
        return Ok(());
    }
    Err(Error::NoRoom {
        path: path.to_owned(),
        needed: mib(needed.div_ceil(1 << 20)),
        free: mib(free >> 20),
    })
}

fn mib(count: u64) -> Mib {
    Mib(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_whole_stays_free() {
        assert_eq!(beside_reserve(1000, 1000), 900);
        assert_eq!(beside_reserve(1000, 101), 1);
        assert_eq!(beside_reserve(1000, 99), 0);
    }

    #[test]
    fn what_is_larger_than_the_file_system_is_refused() {
        let dir = std::env::temp_dir();
        assert!(matches!(admit(&dir, u64::MAX), Err(Error::NoRoom { .. })));
        assert!(admit(&dir, 0).is_ok());
    }
}
