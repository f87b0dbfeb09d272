//! Roots on their way into builder microVMs, and what these made of them, into images. What happens to a root
//! there is the engine's.

use std::{
    io::{self, BufWriter, Write},
    thread,
};

use mvm_build::BuiltTree;
use mvm_core::{
    error::{Error, ErrorKind},
    id::{ImageHash, RequestKey},
    operation::Rebuild,
    port::{BuiltRoot, Guest, PlacedRoot, Progress},
};
use mvm_host::{disk::space, guest::VsockGuest};

use super::{BUILD_MIB, Workshop, failed, hash_of, report};
use crate::wiring;

/// The name of images whose roots were built in a builder.
const BUILT: &str = "built";

impl Workshop {
    /// The image that the same request made before, if it is there.
    pub(super) fn find(&self, request: &RequestKey) -> Result<Option<ImageHash>, Error> {
        let store = self.store()?;
        let assembly = self.assembly(&store, Rebuild::WhenChanged)?;
        let answer = assembly.answered(assembly.request(&[BUILT, request.as_str()]));
        answer.map(|image| hash_of(&image.manifest.hash.to_string())).transpose()
    }

    /// Puts the root of an image into a builder.
    pub(super) fn place(&self, root: &PlacedRoot) -> Result<(), Error> {
        let act = "cannot put the root into its builder";
        let store = self.store()?;
        let found = store.find(root.image.as_str());
        let image = found.map_err(|error| failed(ErrorKind::NotFound, act, &error))?;
        let (mut reader, writer) =
            io::pipe().map_err(|error| failed(ErrorKind::Failed, act, &error))?;
        let guests = VsockGuest::new(wiring::roots(&self.config));
        thread::scope(|scope| {
            let sent = scope.spawn(|| mvm_build::root::send(&image, BufWriter::new(writer)));
            let taken = guests.copy_in(&root.instance, &root.path, &mut reader);
            // Whoever sends hears that nobody reads any more.
            drop(reader);
            // Why the guest took no more is the reason; the sender only notices it.
            taken.map_err(|error| error.context(act))?;
            match sent.join() {
                Ok(sent) => sent.map_err(|error| failed(ErrorKind::Failed, act, &error)),
                Err(_) => Err(Error::new(ErrorKind::Failed, act)),
            }
        })
    }

    /// Takes a root out of its builder and makes an image of it. A builder is a guest, and may send
    /// without end: it gets a third of the room, for its stream is unpacked and packed again.
    pub(super) fn import(
        &self,
        root: &BuiltRoot,
        progress: &dyn Progress,
    ) -> Result<ImageHash, Error> {
        let _one_at_a_time = self.busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let room = space::room_of(&self.config.data_dir, self.config.disk_reserve_percent)?;
        room.admit("the image of a build", BUILD_MIB)?;
        let store = self.store()?;
        let unusable = |error: &(dyn std::error::Error + 'static)| {
            failed(ErrorKind::Failed, "cannot take the root out of its builder", error)
        };
        let stream = store.spool().map_err(|error| unusable(&error))?;
        let mut bounded = Bounded { to: &stream, left: (room.available_mib() / 3) << 20 };
        let guests = VsockGuest::new(wiring::roots(&self.config));
        guests
            .copy_out(&root.instance, &root.path, &mut bounded)
            .map_err(|error| error.context("cannot take the root out of its builder"))?;
        let kernel = store.find(root.kernel.as_str()).map_err(|error| unusable(&error))?;
        let assembly = self.assembly(&store, Rebuild::WhenChanged)?;
        let request = root.request.as_ref();
        let request = request.map(|key| assembly.request(&[BUILT, key.as_str()]));
        let tree = BuiltTree { name: BUILT, stream, base: &kernel, request };
        let on = |step: mvm_build::Progress<'_>| progress.report(&report(step));
        let image = tree.build(&assembly, &on).map_err(|error| {
            failed(ErrorKind::Invalid, "cannot make an image of what was built", &error)
        })?;
        hash_of(&image.manifest.hash.to_string())
    }
}

/// Takes so many bytes and no more.
struct Bounded<'a> {
    to: &'a std::fs::File,
    left: u64,
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        let left = self.left.checked_sub(length);
        self.left = left.ok_or_else(|| io::Error::other("it does not fit on this host's disk"))?;
        self.to.write_all(bytes)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
