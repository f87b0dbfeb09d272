//! `add host`: what makes a machine a node of a fleet.
//!
//! It refuses to know what microVMs need; `bootstrap` does.

use std::path::PathBuf;

use mvm_core::error::{Error, ErrorKind};
use mvm_fleet::{
    certs::{Step, Token},
    keys,
};

use super::CertsAsk;
use crate::Mvm;

/// What a node of a fleet shall have.
#[derive(Debug, Clone, Default)]
pub struct HostAsk {
    /// The fleet's authority; an own one for development when it is not given.
    pub ca: Option<PathBuf>,
    /// The join token of a node that waits for its approval; without one it has a certificate at once.
    pub token: Option<Token>,
    /// The public key of the coordinator.
    pub signing_key: Option<PathBuf>,
}

impl Mvm {
    /// Gives this machine certificates, and trust in a coordinator's key. What is there stays.
    ///
    /// # Errors
    /// As [`Mvm::agent_certs_init`]; `Invalid` when the key is none.
    pub fn add_host(&self, ask: &HostAsk) -> Result<Vec<Step>, Error> {
        // Nothing is done before all that was given makes sense.
        let key = ask.signing_key.as_ref().map(|file| {
            let text = std::fs::read_to_string(file).map_err(|error| {
                Error::new(ErrorKind::Invalid, format!("cannot read {}", file.display()))
                    .because(&error)
            })?;
            keys::read_public(&text).map_err(|reason| {
                let message = format!("{} holds no public key: {reason}", file.display());
                Error::new(ErrorKind::Invalid, message)
                    .hint("give the .pub file that mvm coordinator keygen wrote")
            })?;
            Ok::<_, Error>(text)
        });
        let key = key.transpose()?;
        let mut steps = match &ask.token {
            Some(token) => self.prepare_join(token, ask.ca.as_deref())?,
            None => {
                self.agent_certs_init(&CertsAsk { ca: ask.ca.clone(), ..CertsAsk::default() })?
            }
        };
        if let Some(text) = key {
            let (signer, is_new) = keys::trust(&self.trusted_keys(), &text)?;
            let act = if is_new { "trusted the signer" } else { "the signer is trusted:" };
            steps.push(Step { act: format!("{act} {signer}"), changed: is_new });
        }
        Ok(steps)
    }
}
