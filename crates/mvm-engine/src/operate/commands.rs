//! Running the commands of an `Mvmfile.toml` in the root of an image, in a builder.
//!
//! It refuses to know where the commands and the image came from, and how a root is entered: a program of the
//! builder image does.

use std::time::Duration;

use mvm_core::{
    error::{Error, ErrorKind},
    id::ImageHash,
    port::{BuildOrder, ExecStatus, PlacedRoot, RootCommands},
};

use super::builder::{Asked, Job, ROOT, broken_off};
use crate::engine::{Context, Engine};

/// The program that runs them: `ROOT COMMAND…`.
const PROGRAM: &str = "/usr/lib/mvm/run-commands";

impl Engine {
    pub(super) fn run_commands(
        &self,
        cx: &Context,
        asked: &Asked<'_>,
        order: &BuildOrder,
        (image, commands): (ImageHash, RootCommands),
        until: Duration,
    ) -> Result<ImageHash, Error> {
        let tools = self.builder_image(cx, asked, order)?;
        let RootCommands { lines, key } = commands;
        if let Some(image) = self.answered(order, &key)? {
            return Ok(image);
        }
        let place = image.clone();
        let job = Job {
            feed: Box::new(move |builder| {
                let (instance, path) = (builder.clone(), ROOT.to_owned());
                self.ports.builder.place_root(&PlacedRoot { instance, path, image: place })
            }),
            argv: [PROGRAM, ROOT].map(str::to_owned).into_iter().chain(lines).collect(),
            kernel: image,
            key: Some(key),
            failure: Box::new(failure),
        };
        self.build_apart(cx, asked, &tools, job, until)
    }
}

fn failure(ended: ExecStatus) -> Error {
    match ended {
        ExecStatus::Code(code) => {
            Error::new(ErrorKind::Failed, format!("a command of [[run]] failed: exit code {code}"))
        }
        ExecStatus::Signal(_) | ExecStatus::Absent | ExecStatus::NotExecutable => broken_off(ended),
    }
}
