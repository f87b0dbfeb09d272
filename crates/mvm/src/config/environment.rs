//! Variables of the environment: what one holds, what its text means, and which of them travel.
//!
//! It refuses to know which setting a variable is for.

use mvm_core::{
    error::{Error, ErrorKind},
    id::{InvalidId, VmmVersion},
};

use crate::provider::HostChoice;

pub(super) fn version(text: String) -> Result<VmmVersion, Error> {
    text.try_into().map_err(|error: InvalidId| Error::new(ErrorKind::Invalid, error.to_string()))
}

/// The value of a variable of the environment, when it is text.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether a variable goes along into another machine.
pub(super) fn travels(name: &str) -> bool {
    const SPEECH: [&str; 7] = ["TERM", "COLORTERM", "NO_COLOR", "LANG", "TZ", "COLUMNS", "LINES"];
    const LOCAL: [&str; 8] = [
        "MVM_DATA_DIR",
        "MVM_CONFIG_DIR",
        "MVM_RUN_DIR",
        "MVM_HOST",
        "MVM_ASSET_MIRROR",
        "MVM_VERSION",
        "MVM_INSTALL_DIR",
        "MVM_FORWARDED",
    ];
    SPEECH.contains(&name)
        || name.starts_with("LC_")
        || (name.starts_with("MVM_") && !LOCAL.contains(&name))
}

pub(super) fn host(text: &str) -> Result<HostChoice, Error> {
    Ok(match text {
        "auto" => HostChoice::Auto,
        "native" => HostChoice::Native,
        "qemu" => HostChoice::Qemu,
        "lima" => HostChoice::Lima,
        other => {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("MVM_HOST is {other:?}: it must be auto, native, qemu or lima"),
            ));
        }
    })
}

pub(super) fn environment(name: &str) -> Result<Option<String>, Error> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Error::new(ErrorKind::Invalid, format!("the value of {name} is not UTF-8")))
        }
    }
}

pub(super) fn yes_or_no(name: &str, text: &str) -> Result<bool, Error> {
    match text {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        other => {
            Err(Error::new(ErrorKind::Invalid, format!("{name} is {other:?}: it must be 1 or 0")))
        }
    }
}
