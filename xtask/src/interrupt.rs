//! Ctrl-C and its kin: end this task's hosts, then go.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{Act, Result};
use crate::host;

/// Watches for signals from now on.
pub(crate) fn watch() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).act(|| "watch signals".into())?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            host::end_all();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}
