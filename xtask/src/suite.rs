//! Runs scripts, each in pristine test hosts of its own; two at a time unless times are measured.
//!
//! A script gets no standard input. What it prints goes to a log; exit code 0 means it passed. One
//! that asks for resets is run once a boot, with the number of resets before as its argument.
//! Files of `tests/e2e/lib/` are in the host's `/usr/local/lib/mvm-e2e/`, those of `tests/bench/native/` in
//! `/usr/local/lib/mvm-bench/`, those of `docs/` in its
//! `/usr/local/share/doc/mvm/`, for scripts that type what a document says, those of `packaging/` in its
//! `/usr/local/share/mvm/`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::binaries::Profile;
use crate::cache::Cache;
use crate::error::{Act, Error, Result};
use crate::host::{Group, HostFiles, Payload, Put, TestHost};
use crate::script::{Load, Script};
use crate::workspace;

/// Stores the script away first, so that nothing in it can eat the rest of it from standard input.
const LAUNCH: &str = "cat >/run/script.sh && exec bash /run/script.sh \"$0\" </dev/null";

/// Where scripts find what they source.
const LIB: &str = "/usr/local/lib/mvm-e2e";
const MEASURED: &str = "/usr/local/lib/mvm-bench";
/// Where scripts find the example flakes.
const EXAMPLES: &str = "/usr/local/share/mvm-examples";
/// Where scripts find the documents.
const DOCS: &str = "/usr/local/share/doc/mvm";
/// Where scripts find what a package installs.
const PACKAGING: &str = "/usr/local/share/mvm";
/// Where scripts find alert rules and dashboard.
const MONITORING: &str = "/usr/local/share/mvm/monitoring";
/// How many hosts a script may lose before it counts as failed.
const HOSTS: usize = 3;
/// The exit code of ssh itself.
const SSH_LOST: i32 = 255;
/// What shows in the log of a failed script that the software CPU computed wrongly, and what that was.
/// A fault of ours would come again in the next host.
const MISCOMPUTED: &[(&str, &str)] = &[
    // Firecracker's word for a triple fault, which an orderly guest never has.
    ("KVM_EXIT_SHUTDOWN", "computed wrongly: a guest had a triple fault"),
    ("does not answer (await_agent)", "computed wrongly: a guest stood still while it booted"),
];

/// How much of a failed script's log is shown, in bytes.
const SHOWN: u64 = 8_000;
/// How much of it holds the last words of guests that died, in bytes.
const LAST_WORDS: u64 = 64_000;

/// How one attempt at a script ended.
enum Verdict {
    Passed,
    Failed(String),
    /// The test host's own fault.
    HostLost(&'static str),
}

/// How one script ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The script's name.
    pub(crate) name: String,
    /// Why it failed; `None` when it passed.
    pub(crate) failure: Option<String>,
    /// From the first byte of the host's resume to the script's end.
    pub(crate) elapsed: Duration,
    /// What it printed.
    pub(crate) log: PathBuf,
}

/// Everything that the scripts of one run share.
pub(crate) struct Suite {
    files: HostFiles,
    payload: Payload,
    /// Only when a script asks for it, and only for that one: every host unpacks its payload.
    heavier: Vec<(Load, Payload)>,
    logs: PathBuf,
}

impl Suite {
    /// Builds the programs and makes the host image and the images that the scripts need when they
    /// are missing. Logs go to `target/<kind>/`.
    pub(crate) fn prepare(kind: &str, profile: Profile, scripts: &[Script]) -> Result<Self> {
        let cache = Cache::open()?;
        let files = HostFiles::ensure(&cache)?;
        let from_root = [
            ("tests/e2e/lib", LIB),
            ("tests/bench/native", MEASURED),
            ("docs", DOCS),
            ("monitoring", MONITORING),
            ("packaging", PACKAGING),
            ("examples", EXAMPLES),
        ];
        let puts: Vec<Put> = from_root
            .map(|(from, to)| Put { from: workspace::root().join(from), to: to.to_owned() })
            .into_iter()
            .filter(|put| put.from.is_dir())
            .collect();
        let payload = Payload::build(&cache, profile, &Load::new(), &puts)?;
        let loads: BTreeSet<&Load> = scripts.iter().map(|script| &script.header.load).collect();
        let mut heavier = Vec::new();
        for load in loads.into_iter().filter(|load| !load.is_empty()) {
            heavier.push((load.clone(), Payload::build(&cache, profile, load, &puts)?));
        }
        let logs = workspace::metadata()?.target_directory.join(kind);
        fs::create_dir_all(&logs).act(|| format!("create {}", logs.display()))?;
        Ok(Self { files, payload, heavier, logs })
    }

    /// Runs all scripts, `at_once` of them side by side and the longest first; reports each on
    /// standard output, and the sum on a line of its own.
    pub(crate) fn run(&self, scripts: &[Script], at_once: usize) -> Result<Vec<Outcome>> {
        let mut waiting: Vec<&Script> = scripts.iter().collect();
        waiting.sort_by_key(|script| script.header.deadline);
        let waiting = Mutex::new(waiting);
        let done = Mutex::new(Vec::new());
        let work = || -> Result<()> {
            loop {
                let next = lock(&waiting).pop();
                let Some(script) = next else { return Ok(()) };
                let outcome = self.run_one(script)?;
                let mut done = lock(&done);
                report(&outcome);
                done.push(outcome);
            }
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().unwrap_or_else(|_| Err(Error::refused("a worker panicked")))
            })
        })?;
        let mut outcomes = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcomes.sort_by(|one: &Outcome, two| one.name.cmp(&two.name));
        let failed = outcomes.iter().filter(|outcome| outcome.failure.is_some()).count();
        println!("{} passed, {failed} failed", outcomes.len() - failed);
        Ok(outcomes)
    }

    /// Runs one script; its own failure is an outcome, not an error. When the host itself stops
    /// answering or computes wrongly (a software CPU with nested guests does now and then), that is
    /// said aloud and the script runs again from the start in a fresh host.
    fn run_one(&self, script: &Script) -> Result<Outcome> {
        let log = self.logs.join(format!("{}.log", script.name));
        let started = Instant::now();
        let mut hosts = 1;
        let failure = loop {
            match self.attempt(script, &log) {
                Ok(Verdict::HostLost(why)) if hosts < HOSTS => {
                    println!("LOST {}: its test host {why}; once more", script.name);
                    hosts += 1;
                }
                Ok(Verdict::HostLost(why)) => {
                    break Some(format!("{hosts} test hosts were lost; the last one {why}"));
                }
                Ok(Verdict::Passed) => break None,
                Ok(Verdict::Failed(why)) => break Some(why),
                Err(error) => break Some(format!("no test host: {error}")),
            }
        };
        Ok(Outcome { name: script.name.clone(), failure, elapsed: started.elapsed(), log })
    }

    fn attempt(&self, script: &Script, log: &Path) -> Result<Verdict> {
        let started = Instant::now();
        File::create(log).act(|| format!("create {}", log.display()))?;
        let heavier = self.heavier.iter().find(|(load, _)| *load == script.header.load);
        let payload = heavier.map_or(&self.payload, |(_, payload)| payload);
        if script.header.hosts == 1 {
            let mut host = TestHost::resume(&self.files, payload)?;
            if script.header.resets > 0 {
                host.flush()?;
            }
            for boot in 0..script.header.resets {
                match follow(&host, script, boot, log, started)? {
                    Verdict::Passed => host.reset()?,
                    other @ (Verdict::Failed(_) | Verdict::HostLost(_)) => return Ok(other),
                }
            }
            return follow(&host, script, script.header.resets, log, started);
        }
        let count = usize::from(script.header.hosts);
        let group = Group::resume(&self.files, payload, count)?;
        match group.first() {
            Some(host) => follow(host, script, 0, log, started),
            None => Ok(Verdict::Failed("no host".into())),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the script in the host until its end or its deadline.
fn follow(
    host: &TestHost,
    script: &Script,
    boot: u8,
    log: &Path,
    started: Instant,
) -> Result<Verdict> {
    let output =
        File::options().append(true).open(log).act(|| format!("open {}", log.display()))?;
    let errors = output.try_clone().act(|| "duplicate a descriptor".into())?;
    let input = File::open(&script.path).act(|| format!("open {}", script.path.display()))?;
    let mut command: Command =
        host.ssh(&["bash", "-c", LAUNCH, &boot.to_string()].map(str::to_owned));
    command.stdin(input).stdout(Stdio::from(output)).stderr(Stdio::from(errors));
    let mut child = command.spawn().act(|| "start ssh".into())?;
    let verdict = loop {
        if let Some(status) = child.try_wait().act(|| "wait for ssh".into())? {
            break match status.code() {
                Some(0) => Verdict::Passed,
                Some(SSH_LOST) => Verdict::HostLost("stopped answering"),
                _ => miscomputed(log)
                    .map_or_else(|| Verdict::Failed(status.to_string()), Verdict::HostLost),
            };
        }
        if started.elapsed() > script.header.deadline {
            let _gone_already = child.kill();
            let _status = child.wait();
            let seconds = script.header.deadline.as_secs();
            break Verdict::Failed(format!("no end after {seconds} s"));
        }
        thread::sleep(Duration::from_millis(50));
    };
    if !matches!(verdict, Verdict::Passed) {
        keep_console(host, log)?;
    }
    Ok(verdict)
}

/// What the software CPU did wrongly, when the log of a failed script shows it.
fn miscomputed(log: &Path) -> Option<&'static str> {
    let text = tail(log, LAST_WORDS);
    MISCOMPUTED.iter().find(|(mark, _)| text.contains(mark)).map(|(_, why)| *why)
}

/// Adds the end of the host's console to the log: an oops there explains much.
fn keep_console(host: &TestHost, log: &Path) -> Result<()> {
    let Ok(console) = fs::read_to_string(host.dir().join("console.log")) else { return Ok(()) };
    let mut file =
        File::options().append(true).open(log).act(|| format!("open {}", log.display()))?;
    writeln!(file, "--- console of the test host ---\n{}", console.trim_end())
        .act(|| format!("write {}", log.display()))
}

fn report(outcome: &Outcome) {
    let seconds = outcome.elapsed.as_secs_f64();
    match &outcome.failure {
        None => println!("PASS {:<40} {seconds:6.1} s", outcome.name),
        Some(why) => {
            println!("FAIL {:<40} {seconds:6.1} s  {why}", outcome.name);
            println!("{}", tail(&outcome.log, SHOWN).trim_end());
            println!("(all of it: {})", outcome.log.display());
        }
    }
}

/// The last bytes of a file, as text.
fn tail(path: &Path, bytes: u64) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let _from_the_start = file.seek(SeekFrom::Start(length.saturating_sub(bytes)));
        let _what_there_is = file.read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}
