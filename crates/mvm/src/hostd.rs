//! `mvm-hostd`: the daemon that touches the machine for an agent without root, and what it builds.
//!
//! It serves the socket of [`mvm_host::ipc`] and knows nothing of tenants, pools or the network. Images are
//! made by another program, `mvm build-image`, which it runs: what fetches from elsewhere is not part of
//! it.

use std::{
    ffi::OsStr,
    fs,
    io::{self, ErrorKind as Io},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mvm_core::{
    error::{Error, ErrorKind},
    id::{ImageHash, RequestKey},
    layout,
    pool::{ImageRef, Source},
    port::{BuildOrder, Builder, BuiltRoot, PlacedRoot, Prepared, Progress},
};
use mvm_host::{
    ipc::{
        home::{self, Keeper},
        server::Server,
        wire::{Build, Making},
    },
    local::LocalHost,
    lock, tool,
};

use crate::{config::Config, mvmfile, supervisor::Supervisor, wiring};

/// The user that an agent runs as, unless told otherwise.
pub const USER: &str = "mvm";
/// Whom root lets do what, below the configuration directory.
const GRANTS: &str = "grants";
/// What a build may take besides its own bound.
const MARGIN: Duration = Duration::from_secs(30);
/// What a root may take on its way into a builder, or out of it into an image.
const ROOT: Duration = Duration::from_secs(3600);

/// Serves the agent of this user until `is_over` says so.
///
/// # Errors
/// `Permission` without root, `NotFound` without that user, `Conflict` when another one serves.
pub fn serve(config: &Config, user: &str, is_over: impl Fn() -> bool) -> Result<(), Error> {
    wiring::require_root()?;
    let keeper = Keeper::named(user)?;
    wiring::make_directories(config)?;
    let roots = wiring::roots(config);
    mvm_host::boot_id::begin(&roots)?;
    let mine = config.run_dir.join(layout::run::HOSTD_LOCK);
    let _alone = lock::hold(&mine)?
        .ok_or_else(|| Error::new(ErrorKind::Conflict, "another mvm-hostd serves this host"))?;
    home::adopt(&roots, keeper)?;
    home::open(&config.config_dir, keeper)?;
    let host = LocalHost::new(roots).with_mtu(config.mtu);
    let builder = Box::new(Apart { mvm: wiring::program("mvm"), data: config.data_dir.clone() });
    let grants = config.config_dir.join(GRANTS);
    let listener = open(&config.hostd_socket, keeper, &Supervisor::of_this_process())?;
    tracing::info!(socket = %config.hostd_socket.display(), user, "mvm-hostd serves");
    Arc::new(Server::new(host, keeper, grants, builder)).serve(&listener, is_over);
    tracing::info!("mvm-hostd was told to stop");
    Ok(())
}

/// Listens, and then says so: who connects from here on is answered.
fn open(path: &Path, keeper: Keeper, supervisor: &Supervisor) -> Result<UnixListener, Error> {
    let listener = listen(path, keeper).map_err(|error| {
        let message = format!("cannot listen at {}", path.display());
        Error::new(ErrorKind::Failed, message).because(&error)
    })?;
    supervisor.tell_ready();
    Ok(listener)
}

/// A socket that appears under its name when the right people may connect, and nobody else may.
fn listen(path: &Path, keeper: Keeper) -> io::Result<UnixListener> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != Io::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o660))?;
    chown(&fresh, None, Some(keeper.gid))?;
    fs::rename(&fresh, path)?;
    Ok(listener)
}

/// Images are made in a process of their own.
struct Apart {
    mvm: PathBuf,
    data: PathBuf,
}

impl Builder for Apart {
    fn ensure_image(
        &self,
        order: &BuildOrder,
        _progress: &Arc<dyn Progress>,
    ) -> Result<Prepared, Error> {
        let BuildOrder { source, profile, role, rebuild, timeout } = order.clone();
        let build = Build { source, profile, role, rebuild, timeout };
        self.make(&Making::Ensure(build), timeout.duration() + MARGIN)?.ok_or_else(nothing)
    }

    fn find_image(&self, request: &RequestKey) -> Result<Option<ImageHash>, Error> {
        Ok(self.make(&Making::Find(request.clone()), MARGIN)?.map(|found| found.image))
    }

    /// The builder ends it when its time is over.
    fn place_root(&self, root: &PlacedRoot) -> Result<(), Error> {
        self.make(&Making::Place(root.clone()), ROOT).map(drop)
    }

    /// The builder ends it when its time is over.
    fn import_root(
        &self,
        root: &BuiltRoot,
        _progress: &Arc<dyn Progress>,
    ) -> Result<ImageHash, Error> {
        Ok(self.make(&Making::Import(root.clone()), ROOT)?.ok_or_else(nothing)?.image)
    }
}

fn nothing() -> Error {
    Error::new(ErrorKind::Failed, "the build told nothing")
}

impl Apart {
    fn make(&self, making: &Making, bound: Duration) -> Result<Option<Prepared>, Error> {
        let order = serde_json::to_string(making);
        let order = order.map_err(|error| {
            Error::new(ErrorKind::Failed, "cannot write the order").because(&error)
        })?;
        let mut args = vec![OsStr::new("--data-dir"), self.data.as_os_str()];
        args.extend([OsStr::new("build-image"), OsStr::new(&order)]);
        let output = tool::run(&self.mvm, &args, &[], bound)?;
        let told: Result<Option<Prepared>, Error> =
            serde_json::from_slice(&output.stdout).map_err(|error| nothing().because(&error))?;
        told
    }
}

/// Whoever asks the daemon has the image that is made for them, so a source may name only a file that
/// everybody may read: root's eyes are not lent. Only root may change the directories that lead to
/// it, so that nothing else lies there when it is opened.
///
/// # Errors
/// `Permission` for another one, `NotFound` when it is not there.
fn admit_file(source: &Source) -> Result<(), Error> {
    let text = match source {
        Source::Image(text) => text,
        Source::Flake(_) | Source::Template(_) => return Ok(()),
    };
    // What an Mvmfile names may be root's own, so only root may write that file.
    let (path, writers) = match text.parse::<ImageRef>()? {
        ImageRef::OciArchive(path) | ImageRef::PackageFile(path) => (PathBuf::from(path), 0o777),
        ImageRef::Path(path) if Path::new(&path).is_dir() => {
            (Path::new(&path).join(mvmfile::NAME), 0o755)
        }
        ImageRef::Path(path) => (PathBuf::from(path), 0o777),
        ImageRef::Stored(_) | ImageRef::Oci(_) | ImageRef::Packages(_) => return Ok(()),
    };
    let real = fs::canonicalize(&path).map_err(|error| {
        Error::new(ErrorKind::NotFound, format!("cannot find {}", path.display())).because(&error)
    })?;
    let is_open = fs::metadata(&real).is_ok_and(|file| {
        let is_ours = writers == 0o777 || (file.uid() == 0 && file.mode() & 0o777 & !writers == 0);
        file.is_file() && file.mode() & 0o004 != 0 && is_ours
    });
    let leads_there = |directory: &Path| {
        fs::metadata(directory).is_ok_and(|found| {
            found.uid() == 0 && found.mode() & 0o022 == 0 && found.mode() & 0o001 != 0
        })
    };
    if is_open && real == path && real.ancestors().skip(1).all(leads_there) {
        return Ok(());
    }
    let message = format!("mvm-hostd does not read {} for others", path.display());
    Err(Error::new(ErrorKind::Permission, message).hint(
        "put the file, open to all, where only root may write and no link leads; or build as root",
    ))
}

/// Makes or finds the image of an order, for a daemon that asked for it.
///
/// # Errors
/// `Invalid` for an order that makes no sense; why the image cannot be made.
pub fn build_image(
    config: &Config,
    order: &str,
    progress: &Arc<dyn Progress>,
) -> Result<Option<Prepared>, Error> {
    wiring::require_root()?;
    wiring::make_directories(config)?;
    let making: Making = serde_json::from_str(order)
        .map_err(|error| Error::new(ErrorKind::Invalid, "the order is refused").because(&error))?;
    match &making {
        Making::Ensure(build) => admit_file(&build.source)?,
        Making::Find(_) | Making::Place(_) | Making::Import(_) => {}
    }
    making.by(&wiring::builder(config), progress)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::supervisor::tests::{listening_at, said};

    #[test]
    fn the_service_manager_hears_that_the_daemon_is_ready_once_its_socket_answers_and_not_before() {
        let place = tempfile::tempdir().unwrap();
        let (supervisor, heard) = listening_at(&place.path().join("notify"));
        let facts = fs::metadata(place.path()).unwrap();
        let keeper = Keeper { uid: facts.uid(), gid: facts.gid() };
        let nowhere = place.path().join("none/hostd.sock");
        assert_eq!(open(&nowhere, keeper, &supervisor).unwrap_err().kind, ErrorKind::Failed);
        assert_eq!(said(&heard), None);
        let socket = place.path().join("hostd.sock");
        let listener = open(&socket, keeper, &supervisor).unwrap();
        assert_eq!(said(&heard).as_deref(), Some("READY=1"));
        drop(UnixStream::connect(&socket).unwrap());
        drop(listener);
    }

    fn admitted(text: &str) -> Result<(), ErrorKind> {
        admit_file(&Source::Image(text.to_owned())).map_err(|error| error.kind)
    }

    #[test]
    fn the_daemon_reads_no_file_for_others_that_they_may_not_read_themselves() {
        let files = ["deb:/etc/passwd", "/etc/passwd"];
        for name in
            ["default", "oci:r.example.com/a", "deb:busybox-static"].into_iter().chain(files)
        {
            assert_eq!(admitted(name), Ok(()), "{name}");
        }
        assert_eq!(admitted("oci-archive:/etc/shadow"), Err(ErrorKind::Permission));
        assert_eq!(admitted("/etc/shadow"), Err(ErrorKind::Permission));
        assert_eq!(admitted("oci-archive:/no/such/file"), Err(ErrorKind::NotFound));
        let place = tempfile::tempdir().unwrap();
        let (file, link) = (place.path().join("file"), place.path().join("link"));
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        for path in [file, link] {
            let name = format!("oci-archive:{}", path.display());
            assert_eq!(admitted(&name), Err(ErrorKind::Permission), "{name}");
        }
    }
}
