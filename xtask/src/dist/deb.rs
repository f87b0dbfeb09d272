//! A release as a Debian package (deb(5)): the same files where Debian wants them, and what dpkg is to do
//! beside copying them, from `packaging/debian/`.
//!
//! Units name the programs of an installation by hand, `/usr/local/bin`; in a package it is `/usr/bin`.

use ar::{Builder, Header};

use super::tree::Tree;
use super::{Inputs, archive};
use crate::error::{Act, Result};

/// The scripts of the package.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// The name of the package's file.
pub(super) fn file_name(inputs: &Inputs) -> String {
    format!("mvm_{}_{}.deb", version(inputs), inputs.arch.debian())
}

/// The package: `release` is the tree of the archive, `packaging` that of `packaging/debian/`.
pub(super) fn package(inputs: &Inputs, release: &Tree, packaging: &Tree) -> Result<Vec<u8>> {
    let mut data = release.moved(place);
    data.link("usr/bin/mvm-agentd", "mvm");
    for (path, node) in packaging.nodes() {
        let super::tree::Node::File { bytes, .. } = node else { continue };
        match path {
            "agentd.env" => data.file("etc/mvm/agentd.env", bytes.clone()),
            "copyright" => data.file("usr/share/doc/mvm/copyright", bytes.clone()),
            _ => {}
        }
    }
    let mut control = Tree::default();
    for (path, node) in packaging.nodes() {
        let super::tree::Node::File { bytes, .. } = node else { continue };
        if path == "control" {
            let text = String::from_utf8_lossy(bytes)
                .replace("@VERSION@", &version(inputs))
                .replace("@ARCH@", inputs.arch.debian())
                .replace("@SIZE@", &data.size().div_ceil(1024).to_string());
            control.file("control", text);
        } else if path == "conffiles" {
            control.file(path, bytes.clone());
        } else if SCRIPTS.contains(&path) {
            control.program(path, bytes.clone());
        }
    }
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", archive::tar_gz(&control, "./")?),
        ("data.tar.gz", archive::tar_gz(&data, "./")?),
    ];
    let mut ar = Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = Header::new(name.into(), bytes.len() as u64);
        header.set_mode(0o100_644);
        header.set_mtime(archive::TIME);
        ar.append(&header, bytes.as_slice()).act(|| format!("pack {name}"))?;
    }
    ar.into_inner().act(|| "pack a package".into())
}

/// Debian sorts `~` before everything, as Semantic Versioning does with what stands behind a hyphen.
fn version(inputs: &Inputs) -> String {
    inputs.version.to_string().replacen('-', "~", 1)
}

/// Where Debian wants a file of the release.
fn place(path: &str, bytes: &[u8]) -> (String, Vec<u8>) {
    let path = match path.split_once('/') {
        Some(("bin" | "lib" | "share", _)) => format!("usr/{path}"),
        Some(_) | None => format!("usr/share/doc/mvm/{path}"),
    };
    let path = path.replace("zsh/site-functions", "zsh/vendor-completions");
    if !path.ends_with(".service") {
        return (path, bytes.to_vec());
    }
    let unit = String::from_utf8_lossy(bytes).replace("/usr/local/bin/", "/usr/bin/");
    (path, unit.into_bytes())
}
