//! The dev VM's volumes: directories of its data disk, each named by a directory of this host.
//!
//! ```text
//! HOST ─ once, when it is made ─▶ /data/volumes/<name of HOST> ─ at every start ─▶ bound to GUEST
//! ```
//!
//! They are noted in the metadata of the VM's pool, which is this program's to give a meaning to. A volume is
//! never written back. One that is there whole has its final name: a copy that was cut off begins anew.

use std::path::Path;

use mvm_core::{
    error::{Error, ErrorKind},
    id::InstanceRef,
    pool::PoolPolicy,
    units::Mib,
};
use mvm_engine::Context;

use super::VolumeAsk;
use crate::{Mvm, forward::InputPath};

/// Where they are on the data disk.
const PLACE: &str = "/data/volumes";
/// What their notes begin with.
const NOTE: &str = "volume-";
/// What the file system itself needs besides a sixteenth of the whole, in MiB.
const MARGIN: u32 = 16;

/// Notes what is asked; a volume that was noted before is where it is asked now.
pub(super) fn note(policy: &mut PoolPolicy, asked: &[VolumeAsk]) {
    for one in asked {
        policy.metadata.insert(format!("{NOTE}{}", one.key()), one.to_string());
    }
}

fn noted(policy: &PoolPolicy) -> Result<Vec<VolumeAsk>, Error> {
    let notes = policy.metadata.iter().filter(|(name, _)| name.starts_with(NOTE));
    notes.map(|(_, text)| text.parse()).collect()
}

/// The data disk that holds all that is noted; none without volumes.
///
/// # Errors
/// `Invalid` when they are too large together.
pub(super) fn disk(policy: &PoolPolicy) -> Result<Mib, Error> {
    let all = noted(policy)?;
    if all.is_empty() {
        return Ok(Mib(0));
    }
    let sum: u64 = all.iter().map(|one| u64::from(one.size.0)).sum();
    let whole = u32::try_from(sum + sum / 16).ok().and_then(|sum| sum.checked_add(MARGIN));
    whole
        .map(Mib)
        .ok_or_else(|| Error::new(ErrorKind::Invalid, "the volumes are too large together"))
}

impl Mvm {
    /// Fills the volumes that are new, and binds all of them where they shall be.
    pub(super) fn mount_volumes(&self, cx: &Context, policy: &PoolPolicy) -> Result<(), Error> {
        let all = noted(policy)?;
        if all.is_empty() {
            return Ok(());
        }
        let id = self.dev_running()?.instance;
        for one in &all {
            self.mount(cx, &id, one).map_err(|error| {
                error.context(format!("cannot give the dev VM the volume {one}"))
            })?;
        }
        Ok(())
    }

    fn mount(&self, cx: &Context, id: &InstanceRef, one: &VolumeAsk) -> Result<(), Error> {
        let place = format!("{PLACE}/{}", one.key());
        if !self.holds(cx, id, &["test", "-d", &place])? {
            self.fill(cx, id, one, &place)?;
        }
        let guest = one.guest.trim_end_matches('/');
        // As proc(5) has it: between blanks, with those in the name as octal numbers.
        let listed = format!(" {} ", guest.replace('\\', "\\134").replace(' ', "\\040"));
        if self.holds(cx, id, &["grep", "-qF", &listed, "/proc/mounts"])? {
            return Ok(());
        }
        self.does(cx, id, &["mkdir", "-p", guest])?;
        self.does(cx, id, &["mount", "-o", "bind", &place, guest])
    }

    fn fill(
        &self,
        cx: &Context,
        id: &InstanceRef,
        one: &VolumeAsk,
        place: &str,
    ) -> Result<(), Error> {
        let partial = format!("{place}.partial");
        self.does(cx, id, &["rm", "-rf", &partial])?;
        self.does(cx, id, &["mkdir", "-p", PLACE])?;
        // A caller's directory may have been carried here from elsewhere.
        let host: InputPath = one.host.parse().unwrap_or_else(|never| match never {});
        let host: &Path = host.as_ref();
        if host.is_dir() {
            self.instance_copy_in(cx, id, host, &partial)?;
        } else {
            self.does(cx, id, &["mkdir", &partial])?;
        }
        self.does(cx, id, &["mv", &partial, place])?;
        self.does(cx, id, &["sync"])
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn the_disk_holds_what_is_noted_and_a_volume_moves_without_a_second_one() {
        let mut policy = PoolPolicy::default();
        assert_eq!(disk(&policy).unwrap(), Mib(0));
        note(&mut policy, &["/a:/x:512M".parse().unwrap(), "/b:/y:1G".parse().unwrap()]);
        assert_eq!(disk(&policy).unwrap(), Mib(1536 + 96 + 16));
        note(&mut policy, &["/a:/z:512M".parse().unwrap()]);
        let guests: Vec<String> =
            noted(&policy).unwrap().into_iter().map(|one| one.guest).collect();
        assert_eq!(guests.len(), 2);
        assert!(guests.contains(&"/z".to_owned()) && !guests.contains(&"/x".to_owned()));
    }
}
