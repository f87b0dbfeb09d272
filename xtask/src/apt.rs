//! Debian packages that the tasks need on the machine they run on.
//!
//! Installs only what is missing and only as root; refuses to guess on other distributions.

use std::fs;

use crate::error::{Act, Error, Result};
use crate::tool;

/// A program or file and the package that brings it.
pub(crate) struct Need {
    /// A program's name, or the absolute path of a file.
    pub(crate) probe: &'static str,
    /// The package's name.
    pub(crate) package: &'static str,
}

/// What a test host needs on the machine that runs it.
pub(crate) const HOST: &[Need] = &[
    Need { probe: "qemu-system-x86_64", package: "qemu-system-x86" },
    Need { probe: "/usr/share/seabios/bios-256k.bin", package: "seabios" },
    Need { probe: "qemu-img", package: "qemu-utils" },
    Need { probe: "mmdebstrap", package: "mmdebstrap" },
    Need { probe: "mke2fs", package: "e2fsprogs" },
    Need { probe: "ssh", package: "openssh-client" },
    Need { probe: "setpriv", package: "util-linux" },
    Need { probe: "python3", package: "python3" },
    Need { probe: "pip3", package: "python3-pip" },
];

/// What the network's tests in namespaces need.
pub(crate) const NETWORK: &[Need] = &[
    Need { probe: "nft", package: "nftables" },
    Need { probe: "ip", package: "iproute2" },
    Need { probe: "bridge", package: "iproute2" },
];

/// What the script of the QEMU provider needs besides.
pub(crate) const PROVIDER: &[Need] =
    &[Need { probe: "jq", package: "jq" }, Need { probe: "pgrep", package: "procps" }];

/// What the tests of releases and of the installer need.
pub(crate) const RELEASE: &[Need] = &[
    Need { probe: "curl", package: "curl" },
    Need { probe: "openssl", package: "openssl" },
    Need { probe: "shellcheck", package: "shellcheck" },
];

/// What compiling the guest kernel needs.
pub(crate) const KERNEL: &[Need] = &[
    Need { probe: "gcc", package: "build-essential" },
    Need { probe: "make", package: "build-essential" },
    Need { probe: "flex", package: "flex" },
    Need { probe: "bison", package: "bison" },
    Need { probe: "bc", package: "bc" },
    Need { probe: "/usr/include/libelf.h", package: "libelf-dev" },
    Need { probe: "/usr/include/openssl/ssl.h", package: "libssl-dev" },
    Need { probe: "xz", package: "xz-utils" },
];

/// Installs the packages of all needs that are not met.
///
/// # Errors
/// When something is missing and we are not root, or `apt-get` fails.
pub(crate) fn require(needs: &[Need]) -> Result<()> {
    let missing = packages(needs, is_met);
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::refused(format!(
            "these Debian packages are missing: {0}; install them (apt-get install {0}) or run as root",
            missing.join(" ")
        )));
    }
    eprintln!("xtask: installing {}", missing.join(" "));
    tool::silent(&mut tool::command(&["apt-get", "update", "-q"]))?;
    let suite = suite()?;
    let pinned: Vec<String> = missing.iter().map(|package| pin(package, &suite)).collect();
    let mut install = tool::command(&["apt-get", "install", "-y", "-q", "--allow-downgrades"]);
    install.args(["--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"]).args(pinned);
    tool::silent(install.env("DEBIAN_FRONTEND", "noninteractive"))
}

/// The packages to install. The emulator's packages are of one version or remove each other: where
/// one of them is missing, all are asked for.
fn packages(needs: &[Need], is_met: impl Fn(&Need) -> bool) -> Vec<&'static str> {
    let is_torn = needs.iter().any(|need| is_of_emulator(need.package) && !is_met(need));
    let is_asked = |need: &&Need| !is_met(need) || (is_torn && is_of_emulator(need.package));
    let mut packages: Vec<&str> = needs.iter().filter(is_asked).map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn is_of_emulator(package: &str) -> bool {
    package.starts_with("qemu")
}

/// The code name of the running distribution, for example `bookworm`.
pub(crate) fn suite() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").act(|| "read /etc/os-release".into())?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .ok_or_else(|| Error::refused("/etc/os-release has no VERSION_CODENAME; Debian is needed"))
}

fn is_met(need: &Need) -> bool {
    if need.probe.starts_with('/') {
        return fs::exists(need.probe).unwrap_or(false);
    }
    tool::exists(need.probe)
}

/// A backported `qemu-utils` breaks the release's own emulator, so that one comes from the release.
fn pin(package: &str, suite: &str) -> String {
    if is_of_emulator(package) { format!("{package}/{suite}") } else { package.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_emulator_is_installed_together_with_its_tools() {
        let without = |probe: &'static str| packages(HOST, |need| need.probe != probe);
        assert_eq!(without("qemu-system-x86_64"), ["qemu-system-x86", "qemu-utils"]);
        assert_eq!(without("mmdebstrap"), ["mmdebstrap"]);
        assert_eq!(packages(HOST, |_| true), [""; 0]);
    }
}
