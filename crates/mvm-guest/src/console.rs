//! The agent's voice: short lines `mvm-guest: …` on the kernel's log, and so on the console.
//!
//! Without a kernel log (not root, or not mounted) they go to stderr. This module refuses to
//! know levels, targets and formats.

use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;

static KMSG: OnceLock<Option<File>> = OnceLock::new();

/// Opens the kernel's log; until then lines go to stderr.
pub(crate) fn open() {
    KMSG.get_or_init(|| File::options().write(true).open("/dev/kmsg").ok());
}

/// Writes one line. A line that cannot be written is lost.
pub(crate) fn say(text: &str) {
    // 30 = facility daemon, level info.
    write(30, text);
}

/// Writes a line for the host's people: it reaches the console of a guest booted with `quiet`, too.
pub(crate) fn tell(text: &str) {
    // 27 = facility daemon, level error: the least that `quiet` lets through.
    write(27, text);
}

/// Writes a line that reaches the console of a guest booted with `quiet`, too.
pub(crate) fn alarm(text: &str) {
    // 26 = facility daemon, level critical.
    write(26, text);
}

fn write(priority: u8, text: &str) {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // One write is one record of the kernel's log.
    let written = KMSG.get().and_then(Option::as_ref).map(|mut kmsg| {
        kmsg.write_all(format!("<{priority}>mvm-guest: {text}\n").as_bytes()).is_ok()
    });
    if written != Some(true) {
        let _ = std::io::stderr().write_all(format!("mvm-guest: {text}\n").as_bytes());
    }
}
