//! Which Firecracker a VMM runs, and where it is: `<data>/binaries/firecracker-<v>/`.
//!
//! A new VMM runs the version that the configuration names; one that shall load a snapshot runs the one
//! that wrote it. Each jail says which one its VMM runs, so that versions stand side by side, and one that
//! nothing needs can go. It refuses to know how a version is installed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use mvm_core::{
    Error, ErrorKind,
    id::{InstanceRef, PoolRef, VmmVersion},
    layout::{
        self,
        data::{self, BINARIES},
    },
    observed::InstalledVersion,
    units::Generation,
};

use super::{
    cgroup,
    fault::{Act, absent},
    place::Place,
};
use crate::{
    disk::{durable, listing, snapshot},
    roots::Roots,
};

/// The file beside a jail's root that names the version of its VMM.
const VERSION: &str = "version";
const FIRECRACKER: &str = "firecracker";

/// The VMM's program.
#[must_use]
pub fn firecracker(roots: &Roots, version: &VmmVersion) -> PathBuf {
    directory(roots, version).join(FIRECRACKER)
}

/// The jailer's program.
#[must_use]
pub fn jailer(roots: &Roots, version: &VmmVersion) -> PathBuf {
    directory(roots, version).join("jailer")
}

fn directory(roots: &Roots, version: &VmmVersion) -> PathBuf {
    roots.data.join(data::vmm(version))
}

/// The installed versions, in the order of their names.
///
/// # Errors
/// I/O errors.
pub fn installed(roots: &Roots) -> Result<Vec<VmmVersion>, Error> {
    let names = durable::names(&roots.data.join(BINARIES))?;
    let versions = names.iter().filter_map(|name| data::parse_vmm(name));
    Ok(versions.filter(|version| firecracker(roots, version).exists()).collect())
}

/// The version of a VMM that shall load this snapshot, or none.
///
/// # Errors
/// `NotFound` or `Conflict` when the snapshot is not published, `Integrity` when it names no version.
pub fn wanted(
    roots: &Roots,
    instance: &InstanceRef,
    epoch: Option<Generation>,
) -> Result<VmmVersion, Error> {
    let Some(epoch) = epoch else { return Ok(roots.firecracker.clone()) };
    let header = snapshot::header(roots, instance, epoch)?;
    header.taken_on.firecracker.parse().map_err(|error| {
        let message = format!("the snapshot {epoch} of {instance} was not written by Firecracker");
        Error::new(ErrorKind::Integrity, message).because(&error)
    })
}

/// Writes down which version the VMM of a jail runs, and checks that it is installed; from then on it
/// stays.
///
/// # Errors
/// `NotFound`, naming what is missing, or what the kernel refuses.
pub fn bind(roots: &Roots, place: &Place, version: &VmmVersion) -> Result<(), Error> {
    let _here = lock(roots, File::lock_shared)?;
    for program in [firecracker(roots, version), jailer(roots, version)] {
        if !program.exists() {
            let message = format!("{} is not installed", program.display());
            let error = Error::new(ErrorKind::NotFound, message);
            return Err(if *version == roots.firecracker {
                error.hint("run `mvm bootstrap`, which fetches and verifies it")
            } else {
                error
                    .hint(format!("run `MVM_FC_VERSION={version} mvm bootstrap`, which fetches it"))
                    .hint("or stop the instance, which discards the snapshot that needs it")
            });
        }
    }
    let path = place.jail.join(VERSION);
    fs::write(&path, version.as_str()).act(format_args!("write {}", path.display()))
}

/// The version that the VMM of a jail runs. A jail that does not say is older than the choice.
///
/// # Errors
/// `Integrity` when it names no version.
pub fn of(place: &Place) -> Result<VmmVersion, Error> {
    let path = place.jail.join(VERSION);
    let text = absent(fs::read_to_string(&path)).act(format_args!("read {}", path.display()))?;
    let Some(text) = text else { return Ok(VmmVersion::built_in()) };
    text.parse().map_err(|error| {
        let message = format!("{} names no version of Firecracker", path.display());
        Error::new(ErrorKind::Integrity, message).because(&error)
    })
}

/// What is installed, and whether anything on this host needs it.
///
/// # Errors
/// I/O errors.
pub fn stock(roots: &Roots) -> Result<Vec<InstalledVersion>, Error> {
    let used = used(roots)?;
    let seen = |version: VmmVersion| InstalledVersion { is_used: used.contains(&version), version };
    Ok(installed(roots)?.into_iter().map(seen).collect())
}

/// Removes a version; an absent one is a success.
///
/// # Errors
/// `Conflict` when something needs it, else why something of it stays.
pub fn remove(roots: &Roots, version: &VmmVersion) -> Result<(), Error> {
    // Nobody binds a jail to it from here on, and who did is seen.
    let _alone = lock(roots, File::lock)?;
    if used(roots)?.contains(version) {
        let message = format!("Firecracker {version} is in use");
        return Err(Error::new(ErrorKind::Conflict, message));
    }
    let directory = directory(roots, version);
    // While its program is there it counts as installed: what is cut off here is removed by the next try.
    for name in durable::names(&directory)?.iter().filter(|name| *name != FIRECRACKER) {
        durable::remove_file(&directory.join(name))?;
    }
    Ok(durable::remove_dir(&directory)?)
}

fn used(roots: &Roots) -> Result<BTreeSet<VmmVersion>, Error> {
    let mut used = BTreeSet::from([roots.firecracker.clone(), VmmVersion::built_in()]);
    for id in cgroup::instances_in(&roots.data.join(data::JAILS).join(FIRECRACKER))? {
        // Of a jail that names no version nothing runs: the power failed while it was made.
        used.extend(of(&Place::of(roots, &id)).ok());
    }
    for (tenant, pool) in listing::pools(roots)? {
        for instance in listing::instances(roots, &PoolRef { tenant, pool })? {
            used.extend(snapshot::versions(roots, &instance)?);
        }
    }
    Ok(used)
}

/// Holds the directory of all versions; none while it is not there.
fn lock(roots: &Roots, how: fn(&File) -> io::Result<()>) -> Result<Option<File>, Error> {
    let path: &Path = &roots.data.join(layout::data::BINARIES);
    let what = || format!("lock {}", path.display());
    let Some(directory) = absent(File::open(path)).act(what())? else { return Ok(None) };
    how(&directory).act(what())?;
    Ok(Some(directory))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;
    use crate::disk::ground;

    fn version(text: &str) -> VmmVersion {
        text.parse().unwrap()
    }

    fn install(roots: &Roots, text: &str) -> VmmVersion {
        let version = version(text);
        fs::create_dir_all(directory(roots, &version)).unwrap();
        fs::write(firecracker(roots, &version), "vmm").unwrap();
        fs::write(jailer(roots, &version), "jailer").unwrap();
        version
    }

    fn spare(roots: &Roots) -> Vec<String> {
        let stock = stock(roots).unwrap().into_iter();
        stock.filter(|one| !one.is_used).map(|one| one.version.to_string()).collect()
    }

    #[test]
    fn what_new_vmms_a_jail_or_a_snapshot_need_stays_and_the_rest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut roots = ground::roots(dir.path());
        for text in ["1.12.1", "1.12.2", "1.12.3", "1.12.4", "1.12.5"] {
            install(&roots, text);
        }
        roots.firecracker = version("1.12.2");
        let place = Place::of(&roots, &"i-0000000a".parse().unwrap());
        fs::create_dir_all(&place.jail).unwrap();
        bind(&roots, &place, &version("1.12.3")).unwrap();
        assert_eq!(of(&place).unwrap(), version("1.12.3"));
        let sleeper: InstanceRef = "acme/workers/i-0000000b".parse().unwrap();
        for name in ["3.retired", "4.partial", "5"] {
            let dir = roots.data.join(data::snapshots(&sleeper)).join(name);
            fs::create_dir_all(&dir).unwrap();
            if name == "3.retired" {
                let header = r#"{"schema":9,"header":{"taken_on":{"firecracker":"1.12.4"}}}"#;
                fs::write(dir.join("header.json"), header).unwrap();
            }
        }
        assert_eq!(spare(&roots), ["1.12.5"]);
        for needed in ["1.12.1", "1.12.2", "1.12.3", "1.12.4"] {
            let refused = remove(&roots, &version(needed)).unwrap_err();
            assert_eq!(refused.kind, ErrorKind::Conflict, "{needed}");
        }
        remove(&roots, &version("1.12.5")).unwrap();
        remove(&roots, &version("1.12.5")).unwrap();
        assert!(spare(&roots).is_empty() && installed(&roots).unwrap().len() == 4);
        fs::remove_dir_all(&place.jail).unwrap();
        assert_eq!(spare(&roots), ["1.12.3"]);
    }

    #[test]
    fn a_version_that_is_not_installed_is_bound_to_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let roots = ground::roots(dir.path());
        let place = Place::of(&roots, &"i-0000000a".parse().unwrap());
        fs::create_dir_all(&place.jail).unwrap();
        let missing = bind(&roots, &place, &roots.firecracker).unwrap_err();
        assert_eq!(missing.kind, ErrorKind::NotFound);
        let other = bind(&roots, &place, &version("1.12.9")).unwrap_err();
        assert!(other.hints.concat().contains("MVM_FC_VERSION=1.12.9 mvm bootstrap"), "{other}");
        assert!(!place.jail.join(VERSION).exists());
        assert_eq!(of(&place).unwrap(), VmmVersion::built_in());
        fs::write(place.jail.join(VERSION), "../x").unwrap();
        assert_eq!(of(&place).unwrap_err().kind, ErrorKind::Integrity);
    }
}
