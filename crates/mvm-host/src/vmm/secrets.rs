//! The secrets drive of a jail: made on its tmpfs at every start and wake, swapped under a live VM.
//!
//! A guest has the drive unmounted but for the moment in which it reads it when asked to, so that
//! it may be swapped at any other. The new drive is made beside the old one and renamed over it;
//! until Firecracker is told to open it again the guest has the old one, whole. It refuses to know
//! what secrets are for.

use std::{fs, os::unix::fs::OpenOptionsExt};

use mvm_core::{
    Error, ErrorKind,
    effect::DriveSecrets,
    id::InstanceRef,
    units::{Generation, Uid},
};
use mvm_proto::config::SECRETS_LABEL;

use super::{
    api::{Api, CALL, GuestState, PatchDrive},
    fault::{Act, absent},
    jail::SECRETS_DRIVE,
    observe,
    place::{Place, give, remove_file},
    socket::Deadline,
};
use crate::{disk::ext, roots::Roots, secrets};

/// The drive's id in Firecracker's words.
pub const DRIVE_ID: &str = "secrets";
/// The file of every directory of the drive.
const FILE: &str = "secrets.json";
/// Says of which epoch the drive is that the VMM has, or will open; root's own, beside the jail.
const EPOCH: &str = "secrets_epoch";

/// Makes the drive of a jail, and says of which epoch it is: that which was asked for, or a later
/// one.
///
/// # Errors
/// `NotFound` when the secrets are not there, `Integrity` when they do not verify.
pub fn ensure(
    roots: &Roots,
    place: &Place,
    instance: &InstanceRef,
    uid: Uid,
    wanted: &DriveSecrets,
) -> Result<Generation, Error> {
    remove_file(&place.jail.join(EPOCH))?;
    let epoch = make(roots, place, instance, uid, wanted)?;
    set_epoch(place, epoch)?;
    Ok(epoch)
}

/// Gives a live VM a drive of the wanted epoch, or of a later one. Its guest is not told.
///
/// # Errors
/// `Conflict` when there is no VMM or no guest yet, `Failed` with Firecracker's reason, else as [`ensure`].
pub fn swap(
    roots: &Roots,
    instance: &InstanceRef,
    uid: Uid,
    wanted: &DriveSecrets,
) -> Result<(), Error> {
    let place = Place::of(roots, &instance.instance);
    observe::require(&place)?;
    if epoch(&place)?.is_some_and(|there| there >= wanted.epoch) {
        return Ok(());
    }
    let deadline = Deadline::after(CALL);
    let mut api = Api::connect(&place, deadline)?;
    if api.state(deadline)? == GuestState::NotStarted {
        let message = format!("{} has no guest whose drive could be swapped", instance.instance);
        return Err(Error::new(ErrorKind::Conflict, message));
    }
    let epoch = make(roots, &place, instance, uid, wanted)?;
    let drive = PatchDrive { drive_id: DRIVE_ID, path_on_host: SECRETS_DRIVE };
    api.patch(&format!("drives/{DRIVE_ID}"), &drive).map_err(|error| {
        error.hint("a guest that was started without a secrets drive gets one when it is stopped and started")
    })?;
    set_epoch(&place, epoch)
}

/// The epoch of the drive; none when there is no drive.
///
/// # Errors
/// I/O errors.
pub fn epoch(place: &Place) -> Result<Option<Generation>, Error> {
    let drive = place.ram.join("secrets.ext2");
    let what = format_args!("look at {}", drive.display());
    if absent(fs::symlink_metadata(&drive)).act(what)?.is_none() {
        return Ok(None);
    }
    let path = place.jail.join(EPOCH);
    let text = absent(fs::read_to_string(&path)).act(format_args!("read {}", path.display()))?;
    Ok(text.and_then(|text| text.parse().ok()).map(Generation))
}

fn set_epoch(place: &Place, epoch: Generation) -> Result<(), Error> {
    let path = place.jail.join(EPOCH);
    fs::write(&path, epoch.0.to_string()).act(format_args!("write {}", path.display()))
}

fn make(
    roots: &Roots,
    place: &Place,
    instance: &InstanceRef,
    uid: Uid,
    wanted: &DriveSecrets,
) -> Result<Generation, Error> {
    let (epoch, files) = match wanted.epoch {
        none @ Generation(0) => (none, Vec::new()),
        at_least => {
            let (epoch, secrets) = secrets::open(roots, &instance.tenant, at_least)?;
            (epoch, files(&secrets, wanted))
        }
    };
    let drive =
        ext::Image { label: SECRETS_LABEL.to_owned(), size: ext::Image::DEFAULT_SIZE, files };
    let path = place.root.join(SECRETS_DRIVE);
    let partial = path.with_extension("partial");
    remove_file(&partial)?;
    let file = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(&partial)
        .act(format_args!("write {}", partial.display()))?;
    drive.write_to(&file)?;
    give(&partial, uid.0)?;
    fs::rename(&partial, &path).act(format_args!("replace {}", path.display()))?;
    Ok(epoch)
}

/// One file with everything, or one per scope with what it gives.
fn files(secrets: &secrets::Secrets, wanted: &DriveSecrets) -> Vec<ext::File> {
    let file = |path: String, data| ext::File { path, mode: 0o400, uid: Uid(0), gid: Uid(0), data };
    if wanted.scopes.is_empty() {
        return vec![file(FILE.to_owned(), secrets.render(|_| true))];
    }
    let scopes = wanted.scopes.iter();
    scopes
        .map(|scope| file(format!("{scope}/{FILE}"), secrets.render(|key| scope.covers(key))))
        .collect()
}
