//! `mvm build`.

use std::process::ExitCode;

use mvm::{Error, Rebuild, units::Seconds};

use super::{
    image::{export, file, into, said},
    would,
};
use crate::{args::BuildArgs, run::Session, show::ImageMade};

/// Makes the image of a directory.
pub(crate) fn run(session: &Session, args: &BuildArgs) -> Result<ExitCode, Error> {
    let output = args.output.as_ref();
    output.map_or(Ok(()), file)?;
    if session.is_rehearsal() {
        let path = args.path.typed();
        return would(
            session,
            "build",
            output.map_or_else(|| path.to_owned(), |to| into(path, to)),
        );
    }
    session.stop_on_signals();
    let rebuild = if args.force { Rebuild::Always } else { Rebuild::WhenChanged };
    let (path, timeout) = (args.path.as_ref(), Seconds(args.timeout));
    let image = session.mvm.build(&session.cx, path, rebuild, timeout)?;
    match output {
        Some(output) => export(session, image.as_str(), output),
        None => said(session, &ImageMade { image, file: None }),
    }
}
