//! LUKS2 files and their open devices, through `cryptsetup`.
//!
//! ```text
//!  file:  header 4 MiB (two slots of metadata, key slots) ─ data: aes-xts-plain64, 512 bit
//!  open:  /dev/mapper/mvm-<instance>, over a loop device that the kernel frees with it
//! ```
//! A passphrase is 32 random bytes, so the key derivation needs no time to be strong: pbkdf2 with
//! the fewest iterations. It goes over standard input and nowhere else. It does not know where
//! passphrases come from.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use zeroize::Zeroizing;

use super::error::Error;
use crate::tool;

/// The length of a passphrase in bytes.
pub(super) const LENGTH: usize = 32;
/// A passphrase; its memory is cleared.
pub(super) type Passphrase = Zeroizing<[u8; LENGTH]>;
/// What the header takes at the start of a file, in bytes.
pub(super) const HEADER: u64 = 4 << 20;

/// How long one act may take: milliseconds, and seconds on a software CPU.
const DEADLINE: Duration = Duration::from_secs(60);
/// `cryptsetup`'s exit status for "no key available with this passphrase".
const NO_KEY: &str = "status 2";
const DEVICES: &str = "/dev/mapper";

/// How a passphrase is read, and derived.
const FROM_STDIN: [&str; 3] = ["--key-file=-", "--keyfile-size=32", "--batch-mode"];
const DERIVED: [&str; 2] = ["--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"];
const FORMAT: [&str; 7] = [
    "--type=luks2",
    "--cipher=aes-xts-plain64",
    "--key-size=512",
    "--hash=sha256",
    "--sector-size=4096",
    // In sectors of 512 bytes: the header.
    "--offset=8192",
    "--luks2-metadata-size=16k",
];

fn run(words: &[&str], paths: &[&Path], input: &[u8]) -> Result<(), Error> {
    let program = tool::find("cryptsetup")?;
    let args: Vec<&OsStr> = words
        .iter()
        .map(|word| OsStr::new(*word))
        .chain(paths.iter().map(|path| path.as_os_str()))
        .collect();
    tool::run(&program, &args, input, DEADLINE)?;
    Ok(())
}

fn words<'a>(act: &'a str, groups: &[&'a [&'a str]]) -> Vec<&'a str> {
    std::iter::once(act).chain(groups.iter().flat_map(|group| group.iter().copied())).collect()
}

/// The device of an open file.
pub(super) fn device(name: &str) -> PathBuf {
    Path::new(DEVICES).join(name)
}

/// Makes a file of its final size an empty LUKS2 file that the passphrase opens.
pub(super) fn format(file: &Path, passphrase: &Passphrase) -> Result<(), Error> {
    run(&words("luksFormat", &[&FORMAT, &DERIVED, &FROM_STDIN]), &[file], passphrase.as_slice())
}

/// Opens a file as the device `name` with the first passphrase that fits.
pub(super) fn open(file: &Path, name: &str, passphrases: &[Passphrase]) -> Result<(), Error> {
    let act = words("open", &[&["--type=luks2"], &FROM_STDIN]);
    for passphrase in passphrases {
        match run(&act, &[file, Path::new(name)], passphrase.as_slice()) {
            Err(error) if is_no_key(&error) => {}
            done => return done,
        }
    }
    Err(Error::integrity(file, "the tenant's key does not open it"))
}

/// Whether a passphrase opens a file.
pub(super) fn opens(file: &Path, passphrase: &Passphrase) -> Result<bool, Error> {
    let act = words("open", &[&["--type=luks2", "--test-passphrase"], &FROM_STDIN]);
    match run(&act, &[file], passphrase.as_slice()) {
        Ok(()) => Ok(true),
        Err(error) if is_no_key(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Closes a device. Its last user must be gone.
pub(super) fn close(name: &str) -> Result<(), Error> {
    run(&["close"], &[Path::new(name)], b"")
}

/// Makes an open device as large as its file has become.
pub(super) fn resize(name: &str, passphrases: &[Passphrase]) -> Result<(), Error> {
    let act = words("resize", &[&FROM_STDIN]);
    for passphrase in passphrases {
        match run(&act, &[Path::new(name)], passphrase.as_slice()) {
            Err(error) if is_no_key(&error) => {}
            done => return done,
        }
    }
    Err(Error::integrity(device(name), "the tenant's key does not open it"))
}

/// Makes `to` the only passphrase of a file that `to` or one of `from` opens. At no moment does none
/// of them open it.
pub(super) fn swap(file: &Path, from: &[Passphrase], to: &Passphrase) -> Result<(), Error> {
    let others = || from.iter().filter(|one| one.as_slice() != to.as_slice());
    if !opens(file, to)? {
        let mut old = None;
        for one in others() {
            if opens(file, one)? {
                old = Some(one);
                break;
            }
        }
        let Some(old) = old else {
            return Err(Error::integrity(file, "the tenant's key does not open it"));
        };
        let act = words("luksAddKey", &[&DERIVED, &FROM_STDIN, &["--new-keyfile-size=32"]]);
        let both = Zeroizing::new([old.as_slice(), to.as_slice()].concat());
        run(&act, &[file, Path::new("-")], &both)?;
    }
    for one in others() {
        if opens(file, one)? {
            run(&words("luksRemoveKey", &[&FROM_STDIN]), &[file], one.as_slice())?;
        }
    }
    Ok(())
}

/// Destroys every key slot: nothing opens the file ever again.
pub(super) fn erase(file: &Path) -> Result<(), Error> {
    run(&["luksErase", "--batch-mode"], &[file], b"")
}

fn is_no_key(error: &Error) -> bool {
    matches!(error, Error::Tool(tool::Error::Failed { status, .. }) if status == NO_KEY)
}
