//! Effects on files: keys, revisions, volumes, jails and whole directories.

use mvm_core::{
    Error, ErrorKind,
    effect::Jail,
    id::{ImageHash, InstanceId, InstanceRef, PoolRef, TenantId},
    volume::VolumeKind,
};

use super::{conflict, missing};
use crate::{
    disk::{Content, Path},
    world::{JailMount, World},
};

impl World {
    pub(super) fn admit_write(&self, what: &str) -> Result<(), Error> {
        if self.disk.full {
            return Err(Error::new(ErrorKind::Refused, format!("the disk has no room for {what}")));
        }
        Ok(())
    }

    /// Draws the key at `path`, if there is none.
    pub(super) fn ensure_key(&mut self, path: Path) -> Result<(), Error> {
        if self.disk.get(&path).is_none() {
            self.admit_write("a key")?;
            let key = self.entropy();
            self.disk.put(path.clone(), Content::Key(key));
        }
        self.disk.sync(&path);
        Ok(())
    }

    pub(super) fn remove_tenant_files(&mut self, tenant: &TenantId) -> Result<(), Error> {
        let (key, directory) = (Path::Key(tenant.clone()), Path::Tenant(tenant.clone()));
        self.remove_files(&Path::NextKey(tenant.clone()))?;
        if self.disk.has_any(&key) || self.disk.has_any(&directory) {
            let archive = Path::Archive(tenant.clone());
            self.disk.put(archive.clone(), Content::Bare);
            self.disk.sync(&archive);
        }
        self.remove_files(&key)?;
        self.remove_files(&directory)
    }

    pub(super) fn remove_files(&mut self, path: &Path) -> Result<(), Error> {
        self.disk.remove(path);
        self.disk.sync(path);
        Ok(())
    }

    pub(super) fn ensure_revision(
        &mut self,
        pool: &PoolRef,
        image: &ImageHash,
    ) -> Result<(), Error> {
        if !self.images.contains(image) {
            return Err(missing(format!("there is no image {}", image.short())));
        }
        self.admit_write("a revision")?;
        for (path, content) in [
            (Path::Tenant(pool.tenant.clone()), Content::Bare),
            (Path::Pool(pool.clone()), Content::Bare),
            (Path::Revision(pool.clone(), image.clone()), Content::Bare),
            (Path::Current(pool.clone()), Content::Current(image.clone())),
        ] {
            self.disk.put(path, content);
        }
        self.disk.sync(&Path::Tenant(pool.tenant.clone()));
        Ok(())
    }

    pub(super) fn remove_revision(
        &mut self,
        pool: &PoolRef,
        image: &ImageHash,
    ) -> Result<(), Error> {
        let current = Content::Current(image.clone());
        if self.disk.get(&Path::Current(pool.clone())) == Some(&current) {
            return Err(conflict(format!("{} is current in {pool}", image.short())));
        }
        self.remove_files(&Path::Revision(pool.clone(), image.clone()))
    }

    /// Directories of an instance, as far as they are not there.
    pub(super) fn make_directories(&mut self, instance: &InstanceRef) {
        self.disk.put(Path::Tenant(instance.tenant.clone()), Content::Bare);
        self.disk.put(Path::Pool(instance.pool_ref()), Content::Bare);
        self.disk.put(Path::Instance(instance.clone()), Content::Bare);
    }

    pub(super) fn ensure_jail(&mut self, jail: &Jail) -> Result<(), Error> {
        let id = &jail.instance.instance;
        if !self.images.contains(&jail.image) {
            return Err(missing(format!("there is no image {}", jail.image.short())));
        }
        if jail.resources.data_disk_mib.0 > 0 {
            match self.disk.get(&Path::Volume(jail.instance.clone())) {
                Some(Content::Volume { uid, .. }) if *uid == jail.uid => {}
                Some(_) => {
                    return Err(conflict(format!("the volume of {id} belongs to another user")));
                }
                None => return Err(missing(format!("{id} has no volume to link into its jail"))),
            }
        }
        if jail.resources.data_disk_mib.0 > 0
            && jail.volume == VolumeKind::Luks
            && !self.mappings.contains(id)
        {
            return Err(missing(format!("the volume of {id} is not open")));
        }
        self.admit_write("a jail")?;
        let secrets = self.drive_secrets(&jail.instance.tenant, &jail.secrets)?;
        self.disk.put(Path::Jail(id.clone()), Content::Bare);
        let tap = (jail.identity.network.net, jail.identity.offset);
        let mount = JailMount { uid: jail.uid, image: jail.image.clone(), tap, secrets };
        self.mounts.insert(id.clone(), mount);
        Ok(())
    }

    pub(super) fn remove_jail(&mut self, instance: &InstanceId) -> Result<(), Error> {
        if self.vmms.contains_key(instance) {
            return Err(conflict(format!("the jail of {instance} is in use")));
        }
        self.mounts.remove(instance);
        self.remove_files(&Path::Jail(instance.clone()))
    }
}
