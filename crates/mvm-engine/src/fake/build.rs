//! Images, flakes and the builders of the small world: a build says what it was told to say.

use std::{
    io::{Read, Write},
    thread,
};

use mvm_core::pool::Role;

use super::*;

/// What building comes to, and what was asked of it.
#[derive(Default)]
pub(crate) struct Building {
    /// How programs in guests end.
    pub(crate) ends: Option<ExecStatus>,
    /// Whether a program in a guest goes on until its VMM is gone.
    pub(crate) is_endless: bool,
    /// What is in the image store.
    pub(crate) images: BTreeSet<ImageHash>,
    /// Images by what was asked for.
    pub(crate) answers: BTreeMap<RequestKey, ImageHash>,
    /// What stands in the flakes of this world; another content is another key.
    pub(crate) content: u8,
    /// What runs in the roots of images that a directory asks for.
    pub(crate) commands: Vec<String>,
    /// Programs that ran in guests, and what was copied there first.
    pub(crate) ran: Vec<Vec<String>>,
    pub(crate) copied: Vec<(String, String)>,
}

impl Building {
    /// The key and the image of the flakes of this world.
    fn made(&self) -> (RequestKey, ImageHash) {
        let text = format!("{:02x}", self.content).repeat(32);
        (text.parse().unwrap(), text.parse().unwrap())
    }
}

impl World {
    pub(super) fn copied_in(
        &self,
        id: &InstanceRef,
        path: &str,
        stream: &mut dyn Read,
    ) -> Result<CopyReport, Error> {
        self.alive(id)?;
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        self.look().building.copied.push((path.to_owned(), text));
        Ok(CopyReport::default())
    }

    pub(super) fn executed(
        &self,
        id: &InstanceRef,
        request: &ExecRequest,
        mut streams: ExecStreams,
    ) -> Result<ExecStatus, Error> {
        self.alive(id)?;
        self.look().building.ran.push(request.argv.clone());
        while self.look().building.is_endless {
            self.alive(id)?;
            thread::yield_now();
        }
        streams.stderr.write_all(b"first line\nthe last words").unwrap();
        Ok(self.look().building.ends.unwrap_or(ExecStatus::Code(0)))
    }

    fn alive(&self, id: &InstanceRef) -> Result<(), Error> {
        match self.look().vmms.get(&id.instance).map(|vmm| vmm.phase) {
            Some(Phase::Running) => Ok(()),
            Some(Phase::Empty | Phase::Paused(_) | Phase::Silent) | None => {
                Err(Error::new(ErrorKind::Unavailable, format!("the agent of {id} is lost")))
            }
        }
    }
}

impl Builder for World {
    fn ensure_image(&self, order: &BuildOrder, _: &Arc<dyn Progress>) -> Result<Prepared, Error> {
        if order.source.text() == "absent" {
            return Err(Error::new(ErrorKind::NotFound, "there is no image absent"));
        }
        let content = self.look();
        if order.source.text().starts_with('/') && !content.building.commands.is_empty() {
            let image = "ab".repeat(32).parse().unwrap();
            let (lines, (key, _)) = (content.building.commands.clone(), content.building.made());
            return Ok(Prepared { image, commands: Some(RootCommands { lines, key }) });
        }
        drop(content);
        // One that is named by its hash is there already.
        let text = order.source.text();
        let byte = text.strip_prefix("image-").unwrap_or("ab");
        let image: ImageHash = text.parse().unwrap_or_else(|_| byte.repeat(32).parse().unwrap());
        self.look().building.images.insert(image.clone());
        Ok(image.into())
    }

    fn find_image(&self, request: &RequestKey) -> Result<Option<ImageHash>, Error> {
        Ok(self.look().building.answers.get(request).cloned())
    }

    fn place_root(&self, root: &PlacedRoot) -> Result<(), Error> {
        self.alive(&root.instance)?;
        self.look().building.copied.push((root.path.clone(), root.image.to_string()));
        Ok(())
    }

    fn import_root(&self, root: &BuiltRoot, _: &Arc<dyn Progress>) -> Result<ImageHash, Error> {
        self.alive(&root.instance)?;
        let mut content = self.look();
        let (_, image) = content.building.made();
        content.building.images.insert(image.clone());
        if let Some(key) = &root.request {
            content.building.answers.insert(key.clone(), image.clone());
        }
        Ok(image)
    }
}

impl Sources for World {
    fn flake(&self, reference: &str, _: &str, _: &Role, _: &ImageHash) -> Result<Flake, Error> {
        if !reference.starts_with('/') {
            return Ok(Flake { source: FlakeSource::Reference(reference.to_owned()), key: None });
        }
        let (key, _) = self.look().building.made();
        let files = Box::new(std::io::Cursor::new(reference.as_bytes().to_vec()));
        Ok(Flake { source: FlakeSource::Directory { files, has_inputs: false }, key: Some(key) })
    }

    fn build_log(&self, pool: &PoolRef) -> Result<(Box<dyn Write + Send>, String), Error> {
        Ok((Box::new(std::io::sink()), format!("{pool}/build.log")))
    }
}
