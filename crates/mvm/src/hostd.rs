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
        fs::{PermissionsExt, chown},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mvm_core::{
    error::{Error, ErrorKind},
    id::ImageHash,
    layout,
    port::{BuildOrder, Builder, Progress},
};
use mvm_host::{
    ipc::{
        home::{self, Keeper},
        server::Server,
        wire::Build,
    },
    local::LocalHost,
    lock, tool,
};

use crate::{config::Config, wiring};

/// The user that an agent runs as, unless told otherwise.
pub const USER: &str = "mvm";
/// Whom root lets do what, below the configuration directory.
const GRANTS: &str = "grants";
/// What a build may take besides its own bound.
const MARGIN: Duration = Duration::from_secs(30);

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
    let listener = listen(&config.hostd_socket, keeper).map_err(|error| {
        let message = format!("cannot listen at {}", config.hostd_socket.display());
        Error::new(ErrorKind::Failed, message).because(&error)
    })?;
    tracing::info!(socket = %config.hostd_socket.display(), user, "mvm-hostd serves");
    Arc::new(Server::new(host, keeper, grants, builder)).serve(&listener, is_over);
    tracing::info!("mvm-hostd was told to stop");
    Ok(())
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
    chown(&fresh, Some(0), Some(keeper.gid))?;
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
    ) -> Result<ImageHash, Error> {
        let BuildOrder { source, profile, role, rebuild, timeout } = order.clone();
        let bound = timeout.duration() + MARGIN;
        let order = serde_json::to_string(&Build { source, profile, role, rebuild, timeout });
        let order = order.map_err(|error| {
            Error::new(ErrorKind::Failed, "cannot write the order").because(&error)
        })?;
        let mut args = vec![OsStr::new("--data-dir"), self.data.as_os_str()];
        args.extend([OsStr::new("build-image"), OsStr::new(&order)]);
        let output = tool::run(&self.mvm, &args, &[], bound)?;
        let told: Result<ImageHash, Error> =
            serde_json::from_slice(&output.stdout).map_err(|error| {
                Error::new(ErrorKind::Failed, "the build told nothing").because(&error)
            })?;
        told
    }
}

/// Makes the image of an order, for a daemon that asked for it.
///
/// # Errors
/// `Invalid` for an order that makes no sense; why the image cannot be made.
pub fn build_image(
    config: &Config,
    order: &str,
    progress: &Arc<dyn Progress>,
) -> Result<ImageHash, Error> {
    wiring::require_root()?;
    wiring::make_directories(config)?;
    let Build { source, profile, role, rebuild, timeout } = serde_json::from_str(order)
        .map_err(|error| Error::new(ErrorKind::Invalid, "the order is refused").because(&error))?;
    let order = BuildOrder { source, profile, role, rebuild, timeout };
    wiring::builder(config).ensure_image(&order, progress)
}
