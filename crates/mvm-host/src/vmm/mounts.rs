//! What is mounted where, by `/proc/self/mountinfo`.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use mvm_core::Error;
use rustix::mount::{UnmountFlags, unmount};

use super::fault::Act;

/// The mount points at and below `path`, in the order of mounting.
///
/// # Errors
/// When the kernel's list cannot be read.
pub fn below(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let text = fs::read("/proc/self/mountinfo").act("read /proc/self/mountinfo")?;
    Ok(parse(&text).into_iter().filter(|point| point.starts_with(path)).collect())
}

/// Unmounts everything at and below `path`, the last mounted first.
///
/// # Errors
/// When the kernel refuses.
pub fn clear(path: &Path) -> Result<(), Error> {
    for point in below(path)?.into_iter().rev() {
        // Detached, because a process that is about to end may still have it open.
        unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .act(format_args!("unmount {}", point.display()))?;
    }
    Ok(())
}

fn parse(text: &[u8]) -> Vec<PathBuf> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|point| PathBuf::from(OsString::from_vec(unescape(point))))
        .collect()
}

/// The kernel writes space, tab, line end and backslash as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.first_chunk::<3>().filter(|_| *first == b'\\');
        let value = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(value.unwrap_or(*first));
        rest = after.get(if value.is_some() { 3 } else { 0 }..).unwrap_or_default();
    }
    plain
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn mount_points_with_spaces_are_read_back() {
        let text =
            b"1 0 0:1 / /a\\040b\\134 rw - tmpfs t rw\n2 1 0:2 / /a\\040b\\134/c rw - tmpfs t rw\n";
        assert_eq!(parse(text), [PathBuf::from("/a b\\"), PathBuf::from("/a b\\/c")]);
    }

    #[test]
    fn the_root_is_mounted_and_a_fresh_directory_is_not() {
        assert!(!below(Path::new("/")).unwrap().is_empty());
        let base = tempfile::tempdir().unwrap();
        assert!(below(base.path()).unwrap().is_empty());
    }
}
