//! The one place of this crate that starts a program.
//!
//! Absolute path, argument vector, cleaned environment, no standard input, a process group of its
//! own and a deadline. It knows nothing of the programs it starts; see `apt` and `pip`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(20);
/// The most that is read of what a program says.
const OUTPUT_LIMIT: u64 = 16 << 20;
/// How much of a failed program's last words is kept in the error, in bytes.
const STDERR_LIMIT: usize = 2000;
/// Where a started program finds others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a helper program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not installed, or not where it was looked for.
    #[error("no program {0} in the search path; install it or name another source")]
    Missing(&'static str),
    /// It could not be started or waited for.
    #[error("cannot run {program}")]
    Run {
        /// The program's path.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It said no.
    #[error("{program} {status}: {stderr}")]
    Failed {
        /// The program's path.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// It was killed because it took too long.
    #[error("{program} did not finish within {} s", deadline.as_secs())]
    Deadline {
        /// The program's path.
        program: PathBuf,
        /// How long it had.
        deadline: Duration,
    },
}

/// The helper programs of the machine, by absolute path, and the environment they get.
#[derive(Debug, Clone, Default)]
pub struct Tools {
    /// Python's package installer.
    pub pip: Option<PathBuf>,
    /// Debian's downloader.
    pub apt_get: Option<PathBuf>,
    /// Debian's index reader.
    pub apt_cache: Option<PathBuf>,
    /// Variables handed on: proxies, certificate bundles, the user's pip settings.
    pub environment: Vec<(OsString, OsString)>,
}

const HANDED_ON: [&str; 9] = [
    "HOME",
    "PYENV_ROOT",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "APT_CONFIG",
];

fn is_handed_on(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    name.starts_with("PIP_")
        || name.to_ascii_lowercase().ends_with("_proxy")
        || HANDED_ON.contains(&name)
}

impl Tools {
    /// Finds the programs in this process's search path, and takes what they need of its
    /// environment.
    #[must_use]
    pub fn discover() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
        let find = |name: &str| {
            std::env::split_paths(&path)
                .filter(|dir| dir.is_absolute())
                .map(|dir| dir.join(name))
                .find(|file| file.is_file())
        };
        Self {
            pip: find("pip3").or_else(|| find("pip")),
            apt_get: find("apt-get"),
            apt_cache: find("apt-cache"),
            environment: std::env::vars_os().filter(|(name, _)| is_handed_on(name)).collect(),
        }
    }
}

/// One run of a helper program.
pub(crate) struct Run<'a> {
    pub(crate) program: &'a Path,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: &'a [(OsString, OsString)],
    pub(crate) directory: &'a Path,
    pub(crate) deadline: Duration,
}

/// What a program left behind.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run<'_> {
    /// Runs to the end and returns standard output; anything but exit code 0 is an error.
    pub(crate) fn stdout(&self, tick: &dyn Fn()) -> Result<String, ToolError> {
        let output = self.output(tick)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(self.failed(output))
    }

    /// The error for a run that ended with `output`.
    pub(crate) fn failed(&self, output: Output) -> ToolError {
        let text = output.stderr.trim();
        let start = text.len().saturating_sub(STDERR_LIMIT);
        let tail: String =
            text.char_indices().filter(|(i, _)| *i >= start).map(|(_, c)| c).collect();
        ToolError::Failed {
            program: self.program.to_owned(),
            status: output.status,
            stderr: tail.replace('\n', "; "),
        }
    }

    /// Runs to the end; `tick` is called about every 20 ms meanwhile.
    pub(crate) fn output(&self, tick: &dyn Fn()) -> Result<Output, ToolError> {
        let wrap = |source| ToolError::Run { program: self.program.to_owned(), source };
        let mut stdout = tempfile::tempfile().map_err(wrap)?;
        let mut stderr = tempfile::tempfile().map_err(wrap)?;
        let mut child = Command::new(self.program)
            .args(&self.arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.directory)
            .stdin(Stdio::null())
            .stdout(stdout.try_clone().map_err(wrap)?)
            .stderr(stderr.try_clone().map_err(wrap)?)
            .process_group(0)
            .spawn()
            .map_err(wrap)?;
        let status = self.wait(&mut child, tick)?;
        Ok(Output {
            status,
            stdout: read_back(&mut stdout).map_err(wrap)?,
            stderr: read_back(&mut stderr).map_err(wrap)?,
        })
    }

    fn wait(&self, child: &mut Child, tick: &dyn Fn()) -> Result<ExitStatus, ToolError> {
        let wrap = |source| ToolError::Run { program: self.program.to_owned(), source };
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().map_err(wrap)? {
                return Ok(status);
            }
            if start.elapsed() >= self.deadline {
                kill_group(child);
                child.wait().map_err(wrap)?;
                return Err(ToolError::Deadline {
                    program: self.program.to_owned(),
                    deadline: self.deadline,
                });
            }
            tick();
            thread::sleep(POLL);
        }
    }
}

fn kill_group(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let killed = group.is_some_and(|pid| kill_process_group(pid, Signal::KILL).is_ok());
    if !killed && let Err(error) = child.kill() {
        tracing::warn!(%error, "cannot kill a helper program that is past its deadline");
    }
}

fn read_back(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(OUTPUT_LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    fn run(program: &str, arguments: &[&str], deadline: Duration) -> Result<String, ToolError> {
        Run {
            program: Path::new(program),
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: &[("MARK".into(), "1".into())],
            directory: Path::new("/"),
            deadline,
        }
        .stdout(&|| ())
    }

    #[test]
    fn a_program_sees_only_the_environment_it_was_given() {
        let mut lines: Vec<_> = run("/usr/bin/env", &[], Duration::from_secs(10))
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        assert_eq!(lines, ["LC_ALL=C.UTF-8", "MARK=1", &format!("PATH={PATH}")]);
    }

    #[test]
    fn a_program_past_its_deadline_is_killed_and_named() {
        let start = Instant::now();
        let error = run("/usr/bin/sleep", &["60"], Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, ToolError::Deadline { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_failure_carries_the_last_words() {
        let error = run("/usr/bin/cat", &["/no/such"], Duration::from_secs(10)).unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }

    #[test]
    fn only_what_pip_and_apt_need_is_handed_on() {
        for name in ["PIP_INDEX_URL", "https_proxy", "NO_PROXY", "HOME"] {
            assert!(is_handed_on(OsStr::new(name)), "{name}");
        }
        for name in ["LD_PRELOAD", "PYTHONPATH", "MVM_TENANT_KEY_ACME", "PATH"] {
            assert!(!is_handed_on(OsStr::new(name)), "{name}");
        }
    }
}
