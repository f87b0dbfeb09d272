//! `cargo xtask dist`: the files of a release, in `target/dist/`.
//!
//! ```text
//! programs, man pages, completions, units ─▶ Tree ─▶ mvm-VERSION-ARCH-linux.tar.gz   `archive`
//!                                                 ─▶ mvm_VERSION_ARCH.deb             `deb`
//! cargo metadata ─────────────────────────────────▶ mvm-VERSION.cdx.json              `sbom`
//! all of these ───────────────────────────────────▶ SHA256SUMS, SHA256SUMS.sig
//! ```
//! The same inputs give the same bytes: everything is sorted, owned by root and of one time. Names and
//! layout are those of `mvm_build::release`, which `mvm upgrade` reads. It refuses to know where a
//! release is put.

mod archive;
mod deb;
mod sbom;
#[cfg(test)]
mod tests;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use mvm_build::release::{self, Edition, Version};
use mvm_build::{Arch, ContentHash};
use mvm_fleet::keys::SigningKey;

use crate::binaries::{self, Audience, Built, Profile};
use crate::error::{Act, Error, Result};
use crate::tool;
use crate::workspace::{self, Metadata};
use tree::Tree;

/// What a release is made from.
struct Inputs {
    version: Version,
    arch: Arch,
    /// Programs by name.
    programs: Tree,
    /// Man pages by file name, and completions by shell.
    manuals: Tree,
    completions: Tree,
    /// The bill of materials.
    sbom: Vec<u8>,
}

/// Where each shell looks for what completes `mvm`, below the tree.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/mvm"),
    ("zsh", "share/zsh/site-functions/_mvm"),
    ("fish", "share/fish/vendor_completions.d/mvm.fish"),
];

/// Writes a release of programs that a test host gets, with the layout of a mirror, the installer, and the
/// public key that it is signed with; the key itself is forgotten.
pub(crate) fn rehearse(programs: &[Built], out: &Path) -> Result<()> {
    let keys = tempfile::tempdir().act(|| "make a directory".into())?;
    let key = SigningKey::make(&keys.path().join("key"));
    let key = key.map_err(|error| Error::refused(error.to_string()))?;
    let inputs = inputs(&workspace::metadata()?, programs)?;
    for edition in [Edition::Exactly(inputs.version.clone()), Edition::Latest] {
        make(&inputs, Some(&key), &out.join(edition.path("")))?;
    }
    let (from, to) = (workspace::root().join("install.sh"), out.join("install.sh"));
    fs::copy(from, &to).act(|| format!("write {}", to.display()))?;
    let path = out.join("release.pub");
    fs::write(&path, key.public_text()).act(|| format!("write {}", path.display()))
}

/// Builds the programs as shipped and writes a release; signed when there is a key.
pub(crate) fn run(key: Option<&Path>) -> Result<()> {
    // Before minutes of building: a key that cannot be read is told at once.
    let read = |path| SigningKey::read(path).map_err(|error| Error::refused(error.to_string()));
    let key = key.map(read).transpose()?;
    let metadata = workspace::metadata()?;
    let out = metadata.target_directory.join("dist");
    let programs = binaries::build(Profile::Release, Audience::Users)?;
    for file in make(&inputs(&metadata, &programs)?, key.as_ref(), &out)? {
        println!("{}", file.display());
    }
    if key.is_none() {
        eprintln!("xtask: nobody can verify this release, since it is not signed: add --key FILE");
    }
    Ok(())
}

fn inputs(metadata: &Metadata, built: &[Built]) -> Result<Inputs> {
    let version = metadata.member("mvm-cli").and_then(|member| member.version.parse().ok());
    let version = version.ok_or_else(|| Error::refused("mvm-cli has no version"))?;
    let arch = Arch::native();
    let arch = arch.ok_or_else(|| Error::refused("there are no releases for this processor"))?;
    let mut programs = Tree::default();
    let mut mvm = String::new();
    for built in built.iter().filter(|built| release::PROGRAMS.contains(&built.name)) {
        programs.program(built.name, read(&built.path)?);
        if built.name == "mvm" {
            mvm = built.path.display().to_string();
        }
    }
    let mut completions = Tree::default();
    for (shell, _) in COMPLETIONS {
        completions.file(shell, tool::capture(&mut tool::command(&[&mvm, "completions", shell]))?);
    }
    let pages = tempfile::tempdir().act(|| "make a directory".into())?;
    tool::silent(tool::command(&[&mvm, "manpages"]).arg(pages.path()))?;
    let lock = read(&workspace::root().join("Cargo.lock"))?;
    let sbom = sbom::document(metadata, &String::from_utf8_lossy(&lock), &version)?;
    let manuals = Tree::of_directory(pages.path())?;
    Ok(Inputs { version, arch, programs, manuals, completions, sbom })
}

/// Writes a release into a directory, which holds nothing else afterwards; its files.
fn make(inputs: &Inputs, key: Option<&SigningKey>, out: &Path) -> Result<Vec<PathBuf>> {
    let name = release::tree_name(&inputs.version, inputs.arch);
    let tree = tree(inputs)?;
    let packaging = Tree::of_directory(&workspace::root().join("packaging/debian"))?;
    let mut files = vec![
        (format!("{name}.tar.gz"), archive::tar_gz(&tree, &format!("{name}/"))?),
        (deb::file_name(inputs), deb::package(inputs, &tree, &packaging)?),
        (format!("mvm-{}.cdx.json", inputs.version), inputs.sbom.clone()),
    ];
    files.sort();
    let lines = files.iter().map(|(name, bytes)| format!("{}  {name}\n", ContentHash::of(bytes)));
    let sums = lines.collect::<String>().into_bytes();
    files.extend(key.map(|key| (release::SIGNATURE.to_owned(), key.sign_bytes(&sums))));
    files.push((release::SUMS.to_owned(), sums));
    if out.exists() {
        fs::remove_dir_all(out).act(|| format!("empty {}", out.display()))?;
    }
    fs::create_dir_all(out).act(|| format!("make {}", out.display()))?;
    let mut paths = Vec::new();
    for (name, bytes) in files {
        let path = out.join(name);
        fs::write(&path, bytes).act(|| format!("write {}", path.display()))?;
        paths.push(path);
    }
    Ok(paths)
}

/// The tree of the archive.
fn tree(inputs: &Inputs) -> Result<Tree> {
    let root = workspace::root();
    let below = |prefix: &'static str| {
        move |name: &str, bytes: &[u8]| (format!("{prefix}/{name}"), bytes.to_vec())
    };
    let mut tree = inputs.programs.moved(below("bin"));
    tree.extend(inputs.manuals.moved(below("share/man/man1")));
    tree.extend(inputs.completions.moved(|shell, bytes| {
        let place = COMPLETIONS.iter().find(|(name, _)| *name == shell);
        (place.map_or(shell, |(_, place)| place).to_owned(), bytes.to_vec())
    }));
    let units = Tree::of_directory(&root.join("packaging/systemd"))?;
    tree.extend(units.moved(|name, bytes| {
        let place = match name {
            "mvm.sysusers" => "lib/sysusers.d/mvm.conf".to_owned(),
            unit => format!("lib/systemd/system/{unit}"),
        };
        (place, bytes.to_vec())
    }));
    for name in ["LICENSE", "README.md", "CHANGELOG.md"] {
        tree.file(name, read(&root.join(name))?);
    }
    tree.file("sbom.cdx.json", inputs.sbom.clone());
    Ok(tree)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).act(|| format!("read {}", path.display()))
}
