//! Ports of the caller's machine that are carried into a kept one, brought to those that are wanted.
//!
//! What is carried stands in a file of the machine's, since whoever carries it cannot be asked. How a port is
//! carried is the provider's.

use std::{collections::BTreeSet, fs, path::Path};

use mvm_core::error::Error;

use super::files::write_whole;
use crate::forward::Published;

/// Carries what is wanted and cancels the rest; a port that is refused stops no other. `connect` gives what
/// both work through, and none when there is no machine to carry anything into.
///
/// # Errors
/// That of the last port that is refused; why the file cannot be written.
pub(super) fn ensure<C>(
    file: &Path,
    ports: &[Published],
    connect: impl FnOnce() -> Result<Option<C>, Error>,
    mut carry: impl FnMut(&mut C, Published) -> Result<(), Error>,
    mut cancel: impl FnMut(&mut C, Published) -> Result<(), Error>,
) -> Result<(), Error> {
    let kept: BTreeSet<Published> =
        fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let wanted: BTreeSet<Published> = ports.iter().copied().collect();
    if kept == wanted {
        return Ok(());
    }
    let Some(mut through) = connect()? else { return Ok(()) };
    let mut now = kept.clone();
    for gone in kept.difference(&wanted) {
        // One that is not carried any more is as gone.
        cancel(&mut through, *gone).ok();
        now.remove(gone);
    }
    let mut refused = None;
    for new in wanted.difference(&kept) {
        match carry(&mut through, *new) {
            Ok(()) => drop(now.insert(*new)),
            Err(error) => {
                refused = Some(error.context(format!("cannot publish port {} here", new.port)));
            }
        }
    }
    write_whole(file, &now)?;
    refused.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use mvm_core::{error::ErrorKind, publish::Protocol};

    use super::*;

    fn tcp(port: u16) -> Published {
        Published { port, protocol: Protocol::Tcp }
    }

    /// What was done for these ports; the port 99 is refused.
    fn done(file: &Path, ports: &[Published]) -> (Vec<String>, Result<(), Error>) {
        let mut acts = Vec::new();
        let all = std::cell::RefCell::new(&mut acts);
        let carry = |(): &mut (), one: Published| {
            all.borrow_mut().push(format!("carry {}", one.port));
            let refuse = || Err(Error::new(ErrorKind::Unavailable, "it is taken"));
            if one.port == 99 { refuse() } else { Ok(()) }
        };
        let cancel = |(): &mut (), one: Published| {
            all.borrow_mut().push(format!("cancel {}", one.port));
            Err(Error::new(ErrorKind::NotFound, "it is gone"))
        };
        let result = ensure(file, ports, || Ok(Some(())), carry, cancel);
        (acts, result)
    }

    #[test]
    fn what_is_wanted_is_carried_once_and_the_rest_is_cancelled() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("published");
        assert_eq!(done(&file, &[tcp(1), tcp(2)]).0, ["carry 1", "carry 2"]);
        assert_eq!(done(&file, &[tcp(2), tcp(1)]), (Vec::new(), Ok(())));
        let (acts, result) = done(&file, &[tcp(2), tcp(3)]);
        assert_eq!((acts.join(", ").as_str(), result), ("cancel 1, carry 3", Ok(())));
    }

    #[test]
    fn a_port_that_is_refused_is_named_stops_no_other_and_is_tried_again() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("published");
        let (acts, result) = done(&file, &[tcp(99), tcp(100)]);
        assert_eq!(acts, ["carry 99", "carry 100"]);
        assert!(result.unwrap_err().message.contains("port 99"));
        assert_eq!(done(&file, &[tcp(99), tcp(100)]).0, ["carry 99"]);
    }

    #[test]
    fn without_a_machine_nothing_is_carried_and_nothing_is_noted() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("published");
        let never = |(): &mut (), _: Published| unreachable!("there is nothing to carry it into");
        ensure(&file, &[tcp(1)], || Ok(None), never, never).unwrap();
        assert!(!file.exists());
    }
}
