//! Whether KVM is usable, found out by booting a guest.
//!
//! The existence of `/dev/kvm` says little: where it is emulated badly, a guest crawls or dies at
//! its first unusual instruction. So Firecracker boots a guest of 600 bytes (`guest.S`) that does
//! what a Linux kernel does early (a breakpoint, user mode, a system call, saved vector state) and
//! says that it lives. It gets a deadline. The verdict is kept in the runtime directory, for this
//! boot, this kernel and this Firecracker only.
//!
//! It refuses to know what is done about an unusable KVM.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mvm_core::{Error, ErrorKind, id::VmmVersion};
use serde::{Deserialize, Serialize};

use crate::{
    boot_id,
    roots::Roots,
    tool,
    vmm::{facts, version},
};

/// How long Firecracker and the guest have. On a processor they need 0.1 s, on an emulated one 1 s.
pub const DEADLINE: Duration = Duration::from_secs(8);

/// How often a guest that boots wrongly is tried: a processor that is emulated under load fails now and
/// then, a bad `/dev/kvm` always, and a false verdict would stand until the host reboots.
const ATTEMPTS: usize = 4;

/// The guest's code and data; a test compares it with `guest.S`.
const GUEST: &str = include_str!("guest.hex");
/// Where the guest is loaded and starts.
const BASE: u64 = 16 << 20;
/// Zeroed memory behind the guest's code: its tables and its stack.
const ROOM: u64 = 4096;
/// What it says when everything worked.
const ALIVE: &[u8] = b"mvm-probe: alive";

/// What the probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kvm {
    /// A guest booted.
    Usable,
    /// There is no KVM, or a guest did not boot.
    Unusable,
    /// A guest could not be tried.
    Unknown,
}

/// The verdict and how it was come by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The verdict.
    pub kvm: Kvm,
    /// For people.
    pub detail: String,
    /// Whether trying again in the same boot is idle.
    is_final: bool,
}

impl Verdict {
    fn of(kvm: Kvm, detail: impl Into<String>) -> Self {
        let is_final = kvm != Kvm::Unknown;
        Self { kvm, detail: detail.into(), is_final }
    }
}

/// A kept verdict and what it holds for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    boot_id: String,
    kernel: String,
    firecracker: VmmVersion,
    verdict: Verdict,
}

/// Boots the guest now, and keeps the verdict.
#[must_use]
pub fn probe(roots: &Roots) -> Verdict {
    let verdict = boot(roots);
    if verdict.is_final {
        keep(roots, &kept(&roots.firecracker, &verdict));
    }
    verdict
}

/// The kept verdict of this boot; boots the guest when there is none.
#[must_use]
pub fn verdict(roots: &Roots) -> Verdict {
    let found = fs::read(file(roots)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let is_of_now = |found: &Kept| kept(&roots.firecracker, &found.verdict) == *found;
    match found.filter(is_of_now) {
        Some(kept) => kept.verdict,
        None => probe(roots),
    }
}

/// What is known without booting anything: the verdict that some version of Firecracker gave in this
/// boot.
#[must_use]
pub fn known(roots: &Roots) -> Option<Verdict> {
    let found: Kept = serde_json::from_slice(&fs::read(file(roots)).ok()?).ok()?;
    let now = kept(&found.firecracker, &found.verdict);
    (now == found).then_some(found.verdict)
}

/// Goes on unless KVM is known to be unusable.
///
/// # Errors
/// `Unavailable`, with what was found and what to do about it.
pub fn require(roots: &Roots) -> Result<(), Error> {
    let Verdict { kvm, detail, .. } = verdict(roots);
    match kvm {
        Kvm::Usable | Kvm::Unknown => Ok(()),
        Kvm::Unusable => Err(refusal(&detail)),
    }
}

/// The error of a host that cannot run microVMs itself.
#[must_use]
pub fn refusal(detail: &str) -> Error {
    let mut error = Error::new(ErrorKind::Unavailable, "this machine's KVM cannot run microVMs");
    error.causes.push(detail.to_owned());
    error
        .hint("`mvm doctor` shows what is wrong")
        .hint("`mvm bootstrap` makes a machine in which microVMs run, more slowly")
}

fn file(roots: &Roots) -> PathBuf {
    roots.run.join("kvm.json")
}

fn kept(firecracker: &VmmVersion, verdict: &Verdict) -> Kept {
    let boot_id = boot_id::present().0;
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let (firecracker, verdict) = (firecracker.clone(), verdict.clone());
    Kept { boot_id, kernel, firecracker, verdict }
}

/// Best effort: without it the next command boots the guest again.
fn keep(roots: &Roots, kept: &Kept) {
    let Ok(text) = serde_json::to_vec(kept) else { return };
    let part = roots.run.join(format!("kvm.json.{}", std::process::id()));
    if fs::write(&part, text).and_then(|()| fs::rename(&part, file(roots))).is_err() {
        let _ = fs::remove_file(&part);
    }
}

fn boot(roots: &Roots) -> Verdict {
    let (opens, detail) = facts::kvm(Path::new("/dev/kvm"));
    if !opens {
        // The module may be loaded yet, and looking again costs nothing.
        return Verdict { kvm: Kvm::Unusable, detail, is_final: false };
    }
    let firecracker = &roots.firecracker;
    let program = version::firecracker(roots, firecracker);
    if !program.is_file() {
        let detail = format!("Firecracker {firecracker} is not installed, so no guest was tried");
        return Verdict::of(Kvm::Unknown, detail);
    }
    let scratch = roots.run.join(format!("probe-{}", std::process::id()));
    let verdict = match lay_out(&scratch) {
        Ok(config) => insist(&program, &config),
        Err(error) => Verdict::of(
            Kvm::Unknown,
            format!("cannot write the probe's guest to {}: {error}", scratch.display()),
        ),
    };
    // What is left of it lies on a tmpfs, under a name of its own.
    let _ = fs::remove_dir_all(&scratch);
    verdict
}

/// Writes guest and configuration; returns the latter's path.
fn lay_out(scratch: &Path) -> std::io::Result<PathBuf> {
    fs::create_dir_all(scratch)?;
    let kernel = scratch.join("guest");
    fs::write(&kernel, elf(&guest()?))?;
    let config = scratch.join("config.json");
    let text = serde_json::json!({
        "boot-source": { "kernel_image_path": kernel, "boot_args": "console=ttyS0" },
        "drives": [],
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 64 },
    });
    fs::write(&config, text.to_string())?;
    Ok(config)
}

/// Tries again what did not boot, within one deadline.
fn insist(program: &Path, config: &Path) -> Verdict {
    let began = Instant::now();
    let mut verdict = watch(program, config);
    for _ in 1..ATTEMPTS {
        if verdict.kvm != Kvm::Unusable || began.elapsed() >= DEADLINE {
            break;
        }
        verdict = watch(program, config);
    }
    verdict
}

fn watch(program: &Path, config: &Path) -> Verdict {
    let began = Instant::now();
    let args = [OsStr::new("--no-api"), OsStr::new("--config-file"), config.as_os_str()];
    match tool::run(program, &args, b"", DEADLINE) {
        Ok(output) if contains(&output.stdout, ALIVE) => Verdict::of(
            Kvm::Usable,
            format!("a guest booted under Firecracker within {} ms", began.elapsed().as_millis()),
        ),
        Ok(_) => Verdict::of(
            Kvm::Unusable,
            "a guest booted and computed wrongly: /dev/kvm emulates the processor badly",
        ),
        Err(tool::Error::Late { .. }) => Verdict {
            kvm: Kvm::Unusable,
            detail: format!(
                "a guest of 600 bytes did not finish within {} s: /dev/kvm emulates the processor",
                DEADLINE.as_secs()
            ),
            is_final: false,
        },
        Err(error) => Verdict::of(
            Kvm::Unusable,
            format!("a guest died early: {}", last_words(&error.to_string())),
        ),
    }
}

/// The telling line of a log: why the virtual processor stopped.
fn last_words(text: &str) -> String {
    let telling = |line: &&str| line.contains("KVM_EXIT") || line.contains("vcpu error");
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = lines.iter().copied().find(telling).or(lines.last().copied()).unwrap_or("no words");
    line.rsplit_once("] ").map_or(line, |(_, words)| words).to_owned()
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

fn guest() -> std::io::Result<Vec<u8>> {
    let digits: String = GUEST.split_ascii_whitespace().collect();
    hex::decode(digits).map_err(std::io::Error::other)
}

/// The smallest ELF file that a VMM loads: one segment, code first.
fn elf(code: &[u8]) -> Vec<u8> {
    const HEADER: u16 = 64;
    const PROGRAM_HEADER: u16 = 56;
    let length = code.len() as u64;
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable for x86_64; where to start; the program header's place; no sections.
    for half in [2u16, 62] {
        out.extend(half.to_le_bytes());
    }
    out.extend(1u32.to_le_bytes());
    for long in [BASE, u64::from(HEADER), 0] {
        out.extend(long.to_le_bytes());
    }
    out.extend(0u32.to_le_bytes());
    for half in [HEADER, PROGRAM_HEADER, 1, 64, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    // PT_LOAD, readable, writable and executable.
    for word in [1u32, 7] {
        out.extend(word.to_le_bytes());
    }
    let offset = u64::from(HEADER) + u64::from(PROGRAM_HEADER);
    for long in [offset, BASE, BASE, length, length + ROOM, 8] {
        out.extend(long.to_le_bytes());
    }
    out.extend(code);
    out
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    fn roots(base: &Path) -> Roots {
        let path = |name: &str| base.join(name);
        fs::create_dir(path("run")).unwrap();
        Roots {
            data: path("data"),
            run: path("run"),
            cgroup: path("cgroup"),
            firecracker: mvm_core::id::VmmVersion::built_in(),
            shim: path("shim"),
            pager: path("pager"),
            resolv_conf: path("resolv.conf"),
            given: std::sync::Arc::default(),
            reserve_percent: 10,
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_listing() {
        let dir = tempfile::tempdir().unwrap();
        let (object, binary) = (dir.path().join("o"), dir.path().join("b"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kvm/guest.S");
        let run = |name: &str, args: &[&OsStr]| {
            tool::run(&tool::find(name).unwrap(), args, b"", DEADLINE * 4).unwrap()
        };
        run("as", &["--64".as_ref(), "-o".as_ref(), object.as_ref(), source.as_ref()]);
        let words = ["-O", "binary", "-j", ".text"].map(OsStr::new);
        run("objcopy", &[&words[..], &[object.as_ref(), binary.as_ref()]].concat());
        assert!(fs::read(binary).unwrap() == guest().unwrap());
    }

    #[test]
    fn without_firecracker_nothing_is_known_and_nothing_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let roots = roots(dir.path());
        assert_ne!(verdict(&roots).kvm, Kvm::Usable);
        assert!(!file(&roots).exists());
    }

    #[test]
    fn a_verdict_of_another_boot_kernel_or_firecracker_does_not_hold() {
        let dir = tempfile::tempdir().unwrap();
        let roots = roots(dir.path());
        let told = Verdict::of(Kvm::Usable, "told");
        let now = kept(&roots.firecracker, &told);
        keep(&roots, &now);
        assert_eq!(verdict(&roots), told);
        assert_eq!(known(&roots), Some(told.clone()));
        let other = Roots { firecracker: "1.12.2".parse().unwrap(), ..roots.clone() };
        assert_ne!(verdict(&other), told);
        for other in [
            Kept { boot_id: "before".into(), ..now.clone() },
            Kept { kernel: "older".into(), ..now },
        ] {
            keep(&roots, &other);
            assert_eq!(known(&roots), None);
            assert_ne!(verdict(&roots), told);
        }
    }

    #[test]
    fn an_unusable_kvm_is_refused_with_what_to_do() {
        let error = refusal("a guest died early");
        assert_eq!(error.kind, ErrorKind::Unavailable);
        let hints = error.hints.concat();
        assert!(hints.contains("mvm doctor") && hints.contains("mvm bootstrap"));
    }

    #[test]
    fn why_the_processor_stopped_is_found_in_the_log() {
        let log = "t [x:main] Running\nt [x:fc_vcpu 0] Received KVM_EXIT_INTERNAL_ERROR signal\nt [x:main] Vmm is stopping.";
        assert_eq!(last_words(log), "Received KVM_EXIT_INTERNAL_ERROR signal");
    }
}
