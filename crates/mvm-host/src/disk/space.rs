//! Room on a file system, and the admission that keeps a reserve.
//!
//! It does not know what the room is for, and frees none.

use std::path::Path;

use mvm_core::{disk::Room, units::Mib};

use super::error::{Act, Error};
use crate::roots::Roots;

/// The share of the data file system that stays free unless configured otherwise, in percent: a
/// full file system stops the store, the logs and every guest's disk at once.
pub const RESERVE_PERCENT: u8 = 10;

/// The room on the data file system.
///
/// # Errors
/// When the file system cannot be asked.
pub fn room(roots: &Roots) -> Result<Room, mvm_core::Error> {
    room_of(&roots.data, roots.reserve_percent)
}

/// The room on the file system of `path`, of which so many percent stay free.
///
/// # Errors
/// As [`room`].
pub fn room_of(path: &Path, reserve_percent: u8) -> Result<Room, mvm_core::Error> {
    let stat = rustix::fs::statvfs(path).act("ask for the free space of", path)?;
    let mib = |blocks: u64| blocks.saturating_mul(stat.f_frsize) >> 20;
    Ok(Room {
        total_mib: mib(stat.f_blocks),
        free_mib: mib(stat.f_bavail),
        reserve_mib: mib(reserve(stat.f_blocks, reserve_percent)),
    })
}

fn reserve(total: u64, percent: u8) -> u64 {
    total.div_ceil(100).saturating_mul(u64::from(percent))
}

/// Refuses what would eat into the reserve of the data file system; `path` is on it, and exists.
///
/// # Errors
/// [`Error::NoRoom`], or when the file system cannot be asked.
pub fn admit(roots: &Roots, path: &Path, bytes: u64) -> Result<(), Error> {
    let stat = rustix::fs::statvfs(path).act("ask for the free space of", path)?;
    let free = stat.f_bavail.saturating_sub(reserve(stat.f_blocks, roots.reserve_percent));
    compare(path, bytes, free.saturating_mul(stat.f_frsize))
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
        assert_eq!(reserve(1000, 10), 100);
        assert_eq!(reserve(1001, 10), 110);
        assert_eq!(reserve(1000, 0), 0);
    }

    #[test]
    fn what_is_larger_than_the_file_system_is_refused() {
        let dir = std::env::temp_dir();
        let roots = crate::disk::ground::roots(&dir);
        assert!(matches!(admit(&roots, &dir, u64::MAX), Err(Error::NoRoom { .. })));
        assert!(admit(&roots, &dir, 0).is_ok());
    }
}
