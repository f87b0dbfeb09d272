//! The logs that a shim keeps: the guest's console and the VMM's own.
//!
//! Their directory belongs to the instance's user, so what is in it is read with suspicion: no
//! link is followed, nothing blocks, and no more is read than a shim may write.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::Path,
};

use mvm_core::{Error, ErrorKind, id::InstanceRef, layout::data, port::LogPlace};
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
        let Some(file) = open_log(&path)? else { continue };
        found = true;
        let limited = &mut file.take(2 * ROTATE_AT);
        limited.read_to_end(&mut text).act(format_args!("read {}", path.display()))?;
    }
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    Ok(found.then(|| all.iter().skip(from).map(|line| (*line).to_owned()).collect()))
}

/// What was added to a log after `from`, and where it ends; see [`mvm_core::port::Host::logs_after`].
///
/// # Errors
/// I/O errors.
pub fn after(
    roots: &Roots,
    instance: &InstanceRef,
    name: &str,
    from: Option<LogPlace>,
) -> Result<(Vec<u8>, LogPlace), Error> {
    let directory = roots.data.join(data::logs(instance));
    let (path, older) = (directory.join(name), directory.join(format!("{name}.1")));
    let what = format_args!("read {}", path.display());
    let Some(mut current) = open_log(&path)? else {
        return Ok((Vec::new(), from.unwrap_or_default()));
    };
    let meta = current.metadata().act(what)?;
    let Some(from) = from else {
        return Ok((Vec::new(), LogPlace { file: meta.ino(), offset: meta.len() }));
    };
    let mut text = Vec::new();
    let mut start = from.offset;
    if from.file != meta.ino() {
        // A log that began after the first look has no older file that belongs to it.
        if from.file != 0
            && let Some(mut older) = open_log(&older)?
        {
            let is_same = older.metadata().act(what)?.ino() == from.file;
            let offset = if is_same { from.offset } else { 0 };
            read_on(&mut older, offset, &mut text).act(what)?;
        }
        start = 0;
    }
    let read = read_on(&mut current, start, &mut text).act(what)?;
    Ok((text, LogPlace { file: meta.ino(), offset: start + read }))
}

fn read_on(file: &mut File, from: u64, text: &mut Vec<u8>) -> std::io::Result<u64> {
    file.seek(SeekFrom::Start(from))?;
    let read = file.take(2 * ROTATE_AT).read_to_end(text)?;
    Ok(u64::try_from(read).unwrap_or(0))
}

fn open_log(path: &Path) -> Result<Option<File>, Error> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match open(path, flags, Mode::empty()) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error).act(format_args!("open {}", path.display())),
    }
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
    fn who_follows_a_log_loses_nothing_in_a_rotation() {
        let base = tempfile::tempdir().unwrap();
        let roots = crate::disk::ground::roots(base.path());
        let instance: InstanceRef = "acme/workers/i-00000001".parse().unwrap();
        let directory = roots.data.join(data::logs(&instance));
        fs::create_dir_all(&directory).unwrap();
        let log = directory.join("a.log");
        let (_, place) = after(&roots, &instance, "a.log", None).unwrap();
        fs::write(&log, "one\n").unwrap();
        let (text, place) = after(&roots, &instance, "a.log", Some(place)).unwrap();
        assert_eq!(text, b"one\n");
        fs::write(&log, "one\ntwo\n").unwrap();
        fs::rename(&log, directory.join("a.log.1")).unwrap();
        fs::write(&log, "three\n").unwrap();
        let (text, place) = after(&roots, &instance, "a.log", Some(place)).unwrap();
        assert_eq!(text, b"two\nthree\n");
        assert_eq!(after(&roots, &instance, "a.log", Some(place)).unwrap(), (Vec::new(), place));
        let (text, end) = after(&roots, &instance, "a.log", None).unwrap();
        assert_eq!((text.len(), end), (0, place));
    }

    #[test]
    fn the_last_lines_reach_back_over_a_rotation() {
        let base = tempfile::tempdir().unwrap();
        let roots = Roots {
            data: base.path().to_path_buf(),
            run: base.path().join("run"),
            cgroup: base.path().join("cgroup"),
            reserve_percent: 10,
            firecracker: mvm_core::id::VmmVersion::built_in(),
            shim: base.path().join("shim"),
            pager: base.path().join("pager"),
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
