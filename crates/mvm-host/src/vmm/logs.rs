//! The logs that a shim keeps: the guest's console and the VMM's own.
//!
//! Their directory belongs to the instance's user, so what is in it is read with suspicion: no
//! link is followed, nothing blocks, and no more is read than a shim may write.

use std::{fs::File, io::Read};

use mvm_core::{Error, ErrorKind, id::InstanceRef, layout::data};
use mvm_shim::ring::ROTATE_AT;
use rustix::fs::{Mode, OFlags, open};

use super::fault::Act;
use crate::roots::Roots;

/// The last `lines` of a log, oldest first; `None` when there is no such log.
///
/// # Errors
/// I/O errors.
pub fn read(
    roots: &Roots,
    instance: &InstanceRef,
    name: &str,
    lines: usize,
) -> Result<Option<Vec<String>>, Error> {
    let directory = roots.data.join(data::logs(instance));
    let mut text = Vec::new();
    let mut found = false;
    for name in [format!("{name}.1"), name.to_owned()] {
        let path = directory.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match open(&path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(error).act(format_args!("open {}", path.display())),
        };
        found = true;
        let limited = &mut file.take(2 * ROTATE_AT);
        limited.read_to_end(&mut text).act(format_args!("read {}", path.display()))?;
    }
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    Ok(found.then(|| all.iter().skip(from).map(|line| (*line).to_owned()).collect()))
}

/// The answer for an instance without logs.
#[must_use]
pub fn never_ran(instance: &InstanceRef) -> Error {
    Error::new(ErrorKind::NotFound, format!("{instance} has no logs: it never ran"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use std::fs;

    use super::*;

    #[test]
    fn the_last_lines_reach_back_over_a_rotation() {
        let base = tempfile::tempdir().unwrap();
        let roots = Roots {
            data: base.path().to_path_buf(),
            run: base.path().join("run"),
            cgroup: base.path().join("cgroup"),
            reserve_percent: 10,
            shim: base.path().join("shim"),
            resolv_conf: "/etc/resolv.conf".into(),
            given: std::sync::Arc::default(),
        };
        let instance: InstanceRef = "acme/workers/i-00000001".parse().unwrap();
        assert_eq!(read(&roots, &instance, "a.log", 3).unwrap(), None);
        let directory = base.path().join(data::logs(&instance));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("a.log.1"), "one\ntwo\n").unwrap();
        fs::write(directory.join("a.log"), "three\nfour\n").unwrap();
        assert_eq!(read(&roots, &instance, "a.log", 3).unwrap().unwrap(), ["two", "three", "four"]);
    }
}
