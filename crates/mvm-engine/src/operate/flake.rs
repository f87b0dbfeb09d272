//! Building a flake in a builder.
//!
//! It refuses to know what is in a flake and how Nix is called: a program of the builder image does.

use std::time::Duration;

use mvm_core::{
    error::{Error, ErrorKind},
    id::ImageHash,
    port::{BuildOrder, ExecStatus, Flake, FlakeSource},
};

use super::builder::{Asked, Job, broken_off};
use crate::engine::{Context, Engine};

/// The program that builds a flake: `FLAKE closed|open ATTRIBUTE…`.
const PROGRAM: &str = "/usr/lib/mvm/build-flake";
/// Where it finds a flake that is a directory of the host.
const FLAKE: &str = "/data/flake";
/// How it ends when the flake has none of the attributes.
const NO_ATTRIBUTE: u8 = 65;

impl Engine {
    pub(super) fn build_flake(
        &self,
        cx: &Context,
        asked: &Asked<'_>,
        order: &BuildOrder,
        reference: &str,
        until: Duration,
    ) -> Result<ImageHash, Error> {
        let tools = self.builder_image(cx, asked, order)?;
        let Flake { source, key } =
            self.ports.sources.flake(reference, &order.profile, &order.role, &tools)?;
        if let Some(key) = &key
            && let Some(image) = self.answered(order, key)?
        {
            return Ok(image);
        }
        let (reference, net) = match &source {
            FlakeSource::Directory { has_inputs, .. } => {
                (format!("path:{FLAKE}"), if *has_inputs { "open" } else { "closed" })
            }
            FlakeSource::Reference(reference) => (reference.clone(), "open"),
        };
        let argv = [PROGRAM.to_owned(), reference, net.to_owned()];
        let job = Job {
            feed: Box::new(|builder| match source {
                FlakeSource::Directory { mut files, .. } => {
                    self.ports.guest.copy_in(builder, FLAKE, &mut files).map(drop)
                }
                FlakeSource::Reference(_) => Ok(()),
            }),
            argv: argv.into_iter().chain(attributes(order)).collect(),
            kernel: tools.clone(),
            key,
            failure: Box::new(|ended| failure(ended, order)),
        };
        self.build_apart(cx, asked, &tools, job, until)
    }
}

/// What is looked for in a flake, in this order (SPEC §10).
fn attributes(order: &BuildOrder) -> [String; 3] {
    let (role, profile) = (&order.role, &order.profile);
    [format!("tenant-{role}-{profile}"), format!("tenant-{profile}"), profile.clone()]
}

fn failure(ended: ExecStatus, order: &BuildOrder) -> Error {
    match ended {
        ExecStatus::Code(NO_ATTRIBUTE) => {
            let names = attributes(order).join(", ");
            let message = format!("the flake has no package of the name {names}");
            Error::new(ErrorKind::Invalid, message)
        }
        ExecStatus::Code(code) => {
            Error::new(ErrorKind::Failed, format!("the flake does not build: exit code {code}"))
        }
        ExecStatus::Signal(_) | ExecStatus::Absent | ExecStatus::NotExecutable => broken_off(ended),
    }
}
