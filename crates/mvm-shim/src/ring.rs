//! A log of bounded size: two files, the older one `<name>.1`.
//!
//! It keeps the last lines in memory for the exit record and refuses to know what the bytes mean.
//! A full or missing disk loses log, never more.

use std::{
    collections::VecDeque,
    fs::File,
    io::Write,
    os::fd::{AsFd, OwnedFd},
};

use rustix::fs::{Mode, OFlags, openat, renameat};

/// A file is rotated when it reaches this size, in bytes.
pub const ROTATE_AT: u64 = 1024 * 1024;
/// How many lines are kept for the exit record.
pub const TAIL_LINES: usize = 20;
/// A longer line is cut here, in bytes, so that a guest without line ends fills nothing.
const LINE_MAX: usize = 1024;

/// A log in a directory.
#[derive(Debug)]
pub struct RingLog {
    directory: OwnedFd,
    name: &'static str,
    file: Option<File>,
    size: u64,
    tail: VecDeque<String>,
    line: Vec<u8>,
}

impl RingLog {
    /// A log `name` in `directory`, continued if it is there.
    #[must_use]
    pub fn open(directory: OwnedFd, name: &'static str) -> Self {
        let mut log =
            Self { directory, name, file: None, size: 0, tail: VecDeque::new(), line: Vec::new() };
        log.reopen();
        log
    }

    /// Adds bytes as they came.
    pub fn append(&mut self, bytes: &[u8]) {
        self.remember(bytes);
        if self.size >= ROTATE_AT {
            self.file = None;
            let older = format!("{}.1", self.name);
            let _ = renameat(self.directory.as_fd(), self.name, self.directory.as_fd(), &older);
        }
        if self.file.is_none() {
            self.reopen();
        }
        if let Some(file) = &mut self.file
            && file.write_all(bytes).is_ok()
        {
            self.size += u64::try_from(bytes.len()).unwrap_or(0);
        }
    }

    /// The last lines, oldest first, with what has no line end yet.
    #[must_use]
    pub fn tail(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.tail.iter().cloned().collect();
        if !self.line.is_empty() {
            lines.push(text(&self.line));
        }
        let excess = lines.len().saturating_sub(TAIL_LINES);
        lines.split_off(excess)
    }

    /// Whether one of the last lines ends like this.
    #[must_use]
    pub fn says(&self, end: &str) -> bool {
        self.tail.iter().any(|line| line.ends_with(end))
    }

    fn reopen(&mut self) {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.file = openat(self.directory.as_fd(), self.name, flags, Mode::from_raw_mode(0o640))
            .ok()
            .map(File::from);
        self.size =
            self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |meta| meta.len());
    }

    fn remember(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' || self.line.len() >= LINE_MAX {
                self.tail.push_back(text(&self.line));
                self.line.clear();
            }
            if *byte != b'\n' && *byte != b'\r' {
                self.line.push(*byte);
            }
        }
        while self.tail.len() > TAIL_LINES {
            self.tail.pop_front();
        }
    }
}

/// Without what a terminal would obey.
fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().filter(|c| *c == '\t' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use std::fs;

    use super::*;

    fn log_in(directory: &std::path::Path) -> RingLog {
        RingLog::open(OwnedFd::from(File::open(directory).unwrap()), "a.log")
    }

    #[test]
    fn the_log_never_takes_more_than_two_files_of_the_limit_and_one_piece() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = log_in(directory.path());
        let piece = [b'x'; 4096];
        for _ in 0..1000 {
            log.append(&piece);
        }
        let size = |name: &str| fs::metadata(directory.path().join(name)).unwrap().len();
        assert!(size("a.log") <= ROTATE_AT && size("a.log.1") <= ROTATE_AT);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn the_tail_holds_the_last_lines_and_the_unfinished_one() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = log_in(directory.path());
        for number in 0..50 {
            log.append(format!("line {number}\r\n").as_bytes());
        }
        log.append(b"Kernel \x1b[1mpanic");
        let tail = log.tail();
        assert_eq!(tail.len(), TAIL_LINES);
        assert_eq!(tail.first().unwrap(), "line 31");
        assert_eq!(tail.last().unwrap(), "Kernel [1mpanic");
    }

    #[test]
    fn a_line_is_known_by_its_end_once_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = log_in(directory.path());
        log.append(b"2026 [i:main] It is st");
        log.append(b"opping.");
        assert!(!log.says("It is stopping."));
        log.append(b"\nnext\n");
        assert!(log.says("It is stopping.") && !log.says("It is stopping. "));
    }

    #[test]
    fn a_log_that_is_there_is_continued() {
        let directory = tempfile::tempdir().unwrap();
        log_in(directory.path()).append(b"one\n");
        log_in(directory.path()).append(b"two\n");
        assert_eq!(fs::read(directory.path().join("a.log")).unwrap(), b"one\ntwo\n");
    }
}
