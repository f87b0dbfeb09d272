//! Which pages of a woken guest the guest itself used, of those that were brought for it.
//!
//! A page server knows what it brought, not whether anybody looked at it. The kernel does: KVM takes a
//! page at the guest's first access and marks it referenced (`get_user_pages`, Linux 6.1
//! `mm/gup.c`), later active. Pages that were put beside and never used carry neither mark. Read from
//! `/proc/PID/pagemap` and `/proc/kpageflags` (`Documentation/admin-guide/mm/pagemap.rst`).
//!
//! It is advice: a kernel that does not tell, and pages whose mark reclaim took, cost a fault at the
//! next wake and nothing else.

use std::{fs::File, io, os::unix::fs::FileExt};

use mvm_pager::{handshake::Region, index::PAGE};

/// A page is in memory (bit 63 of an entry of pagemap).
const PRESENT: u64 = 1 << 63;
/// Its frame number (bits 0 to 54).
const FRAME: u64 = (1 << 55) - 1;
/// Referenced and active (bits 2 and 6 of an entry of kpageflags).
const USED: u64 = 1 << 2 | 1 << 6;

/// Those of `pages` that the guest of this VMM used, in their order.
///
/// # Errors
/// I/O errors; not root.
pub fn of(pid: u32, regions: &[Region], pages: &[u32]) -> io::Result<Vec<u32>> {
    let map = File::open(format!("/proc/{pid}/pagemap"))?;
    let flags = File::open("/proc/kpageflags")?;
    let mut used = Vec::with_capacity(pages.len());
    for page in pages {
        let Some(address) = address(regions, *page) else { continue };
        let found = entry(&map, address / PAGE as u64)?;
        if found & PRESENT != 0 && entry(&flags, found & FRAME)? & USED != 0 {
            used.push(*page);
        }
    }
    Ok(used)
}

fn address(regions: &[Region], page: u32) -> Option<u64> {
    let at = u64::from(page) * PAGE as u64;
    regions.iter().find_map(|region| {
        let inside = at.checked_sub(region.offset).filter(|inside| *inside < region.size)?;
        Some(region.start + inside)
    })
}

/// The entry of this number in a file of 64-bit entries.
fn entry(file: &File, number: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, number * 8)?;
    Ok(u64::from_ne_bytes(bytes))
}
