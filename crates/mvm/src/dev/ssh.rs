//! The SSH server of an image, and what carries one connection to it.
//!
//! OpenSSH's server serves a connection on its standard input and output. Dropbear wants a socket: it listens on the
//! guest's own loopback address, started with the first connection.

use mvm_core::{error::Error, id::InstanceRef};
use mvm_engine::Context;

use crate::Mvm;

const OPENSSH: &str = "/usr/sbin/sshd";
const DROPBEAR: &str = "/usr/sbin/dropbear";
/// Where dropbear keeps the host keys that it makes.
const KEYS: &str = "/etc/dropbear";
const LOOPBACK: &str = "127.0.0.1";

impl Mvm {
    /// The command that carries one SSH connection to the server of an instance's image; none when that has
    /// no server.
    ///
    /// # Errors
    /// As a command in the instance; `Failed` when the server does not start.
    pub fn ssh_server(&self, cx: &Context, id: &InstanceRef) -> Result<Option<Vec<String>>, Error> {
        let owned = |argv: &[&str]| Some(argv.iter().map(|word| (*word).to_owned()).collect());
        if self.holds(cx, id, &["test", "-x", OPENSSH])? {
            return Ok(owned(&[OPENSSH, "-i"]));
        }
        if !self.holds(cx, id, &["test", "-x", DROPBEAR])? {
            return Ok(None);
        }
        if !self.holds(cx, id, &["nc", "-w", "2", LOOPBACK, "22", "-e", "true"])? {
            self.does(cx, id, &["mkdir", "-p", KEYS])?;
            self.does(cx, id, &[DROPBEAR, "-R", "-p", "127.0.0.1:22"])?;
        }
        Ok(owned(&["nc", LOOPBACK, "22"]))
    }
}
