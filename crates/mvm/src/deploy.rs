//! Deployments: what a manifest or a template asks for, and the operations that bring it about.
//!
//! ```text
//! the tenant, if it has secrets and is not there ─▶ its secrets, if they differ ─▶ the desired state
//! ```
//!
//! What a manifest does not say is taken from the tenant as it is; one that is not there yet gets the
//! network that `tenant create` would give it. Nothing here is a second way to do anything: each step is
//! an operation that a person could ask for.

use std::{
    fs,
    path::{Path, PathBuf},
};

use mvm_core::{
    desired::{DesiredNetwork, DesiredState, DesiredTenant, manifest::Manifest},
    error::{Error, ErrorKind},
    id::TenantId,
    layout,
    net::{NetId, Subnet},
    operation::Operation,
    pool::Source,
    secrets::SecretsSource,
    tenant::TenantPolicy,
};
use mvm_engine::{
    Acted, Context, Failed, Made, Outcome, Preview,
    query::{Filter, InstanceView, PoolView, TenantView},
};
use serde_json::{Map, Value};

use crate::{
    Mvm,
    forward::{CallerPath, InputPath},
    image::absolute_images,
    manifest, mvmfile,
};

/// A tenant and its pools, as a file or a template asks for them.
#[derive(Debug, Clone)]
pub struct Deployment {
    manifest: Manifest,
    /// What its findings are about.
    name: String,
    /// What its secrets' files are named from.
    directory: PathBuf,
    net: Option<NetId>,
    subnet: Option<Subnet>,
}

/// What `mvm new` makes a deployment of.
#[derive(Debug, Clone)]
pub struct NewDeployment {
    /// The template.
    pub template: String,
    /// The tenant.
    pub name: TenantId,
    /// Its secrets, and what is not as in the template.
    pub config: Option<InputPath>,
    /// What all of its pools are made of, instead of what the template or the file says.
    pub source: Option<Source>,
    /// The network id, instead of a free one.
    pub net: Option<NetId>,
    /// The subnet, instead of a free one.
    pub subnet: Option<Subnet>,
}

/// A deployment as it is.
#[derive(Debug, Clone)]
pub struct Deployed {
    /// Its tenant.
    pub tenant: TenantView,
    /// The bridge of its network.
    pub bridge: String,
    /// Its pools, gateways first.
    pub pools: Vec<PoolView>,
    /// Its instances.
    pub instances: Vec<InstanceView>,
}

impl Deployment {
    /// Reads a manifest.
    ///
    /// # Errors
    /// `Invalid` with one cause for each finding.
    pub fn read(file: &CallerPath) -> Result<Self, Error> {
        let name = file.typed().to_owned();
        let mut value = manifest::read(file)?;
        let directory = directory(file)?;
        absolute_images(&mut value, &directory).map_err(|error| error.context(&*name))?;
        let manifest = Manifest::read(&value)
            .and_then(|manifest| manifest.sized(mvmfile::pool_defaults))
            .map_err(|error| error.context(&*name))?;
        Ok(Self { manifest, name, directory, net: None, subnet: None })
    }

    /// What a template makes.
    ///
    /// # Errors
    /// `NotFound` of the template; `Invalid` with one cause for each finding.
    pub fn of_template(new: NewDeployment) -> Result<Self, Error> {
        let file = new.config.as_deref();
        let mut config = file.map_or_else(|| Ok(Value::Object(Map::new())), manifest::read)?;
        let name = file.map_or(&*new.template, CallerPath::typed).to_owned();
        let source = new.source.as_ref();
        let directory = file.map_or_else(|| Ok(PathBuf::new()), directory)?;
        absolute_images(&mut config, &directory).map_err(|error| error.context(&*name))?;
        let manifest = Manifest::of_template(&new.template, new.name, &config, source)
            .and_then(|manifest| manifest.sized(mvmfile::pool_defaults))
            .map_err(|error| error.context(&*name))?;
        Ok(Self { manifest, name, directory, net: new.net, subnet: new.subnet })
    }

    fn secrets(&self) -> Option<SecretsSource> {
        let places = &self.manifest.secrets;
        (!places.is_empty())
            .then(|| SecretsSource::Each(manifest::absolute(places.clone(), &self.directory)))
    }
}

impl Mvm {
    /// Brings a deployment about. A second time it does nothing.
    ///
    /// # Errors
    /// `Invalid` with one cause for each finding; as [`Mvm::operate`] when nothing was done.
    pub fn deploy(&self, cx: &Context, deployment: &Deployment) -> Result<Outcome, Error> {
        let mut all = Outcome::default();
        for operation in self.steps(cx, deployment)? {
            let done = self.operate(cx, &operation);
            let part = match done {
                Err(error) if all == Outcome::default() => return Err(error),
                Err(error) => {
                    let subject = deployment.manifest.tenant.to_string();
                    Outcome { failures: vec![Failed { subject, error }], ..Outcome::default() }
                }
                Ok(mut part) => {
                    part.acts.extend(told(&operation));
                    part
                }
            };
            (all.operation, all.duration_ms) =
                (part.operation.clone(), all.duration_ms + part.duration_ms);
            all.absorb(part);
            if !all.failures.is_empty() {
                break;
            }
        }
        Ok(all)
    }

    /// What [`Mvm::deploy`] would do.
    ///
    /// # Errors
    /// `Invalid` with one cause for each finding; why the store failed.
    pub fn deploy_preview(&self, cx: &Context, deployment: &Deployment) -> Result<Preview, Error> {
        let steps = self.steps(cx, deployment)?;
        let Some(last) = steps.last() else { return Ok(Preview::default()) };
        let mut preview = self.plan(cx, last)?;
        // As it goes on: a tenant that is not there comes first.
        let place = preview.acts.iter().take_while(|act| act.act == "tenant_create").count();
        preview.acts.splice(place..place, steps.iter().filter_map(told));
        Ok(preview)
    }

    /// A deployment as it is: its tenant, its pools with gateways first, its instances.
    ///
    /// # Errors
    /// `NotFound`; why store or host failed.
    pub fn connect(&self, name: &TenantId) -> Result<Deployed, Error> {
        let tenant = self.tenant_info(name)?;
        let mut pools = self.pool_list(name)?;
        pools.sort_by_key(|pool| pool.record.role.priority());
        let instances = self.instance_list(&Filter::Tenant(name.clone()))?;
        let bridge = layout::bridge(tenant.record.network.net);
        Ok(Deployed { tenant, bridge, pools, instances })
    }

    fn steps(&self, cx: &Context, deployment: &Deployment) -> Result<Vec<Operation>, Error> {
        let id = &deployment.manifest.tenant;
        let all = self.engine.desired(None)?;
        let there = all.tenants.into_iter().find(|one| one.tenant_id == *id);
        let is_there = there.is_some();
        let mut present = match there {
            Some(tenant) => tenant,
            None => self.newcomer(cx, deployment)?,
        };
        // What is there and was asked otherwise is refused as in any desired state.
        present.network.tenant_net_id = deployment.net.unwrap_or(present.network.tenant_net_id);
        present.network.ipv4_subnet = deployment.subnet.unwrap_or(present.network.ipv4_subnet);
        let reconcile = |tenant| {
            let desired = DesiredState { tenants: vec![tenant], ..DesiredState::of(&all.node_id) };
            Operation::AgentReconcile { desired: Box::new(desired) }
        };
        let alone = DesiredTenant { pools: Vec::new(), ..present.clone() };
        let manifest = deployment.manifest.clone();
        let tenant = manifest.onto(present).map_err(|error| error.context(&*deployment.name))?;
        let mut steps = Vec::new();
        if let Some(source) = deployment.secrets() {
            if !is_there {
                steps.push(reconcile(alone));
            }
            if !is_there || self.engine.secrets_differ(id, &source)? {
                steps.push(Operation::TenantSecretsSet { tenant: id.clone(), source });
            }
        }
        steps.push(reconcile(tenant));
        Ok(steps)
    }

    /// A tenant without pools, in the network that it would get.
    fn newcomer(&self, cx: &Context, deployment: &Deployment) -> Result<DesiredTenant, Error> {
        let (tenant, quotas) = (deployment.manifest.tenant.clone(), deployment.manifest.quotas);
        let (net, subnet) = (deployment.net, deployment.subnet);
        let create =
            Operation::TenantCreate { tenant: tenant.clone(), net, subnet, quotas, keyed: true };
        let Some(Made::Tenant(record)) = self.plan(cx, &create)?.made else {
            let message = format!("cannot find a network for tenant {tenant}");
            return Err(Error::new(ErrorKind::Failed, message));
        };
        Ok(DesiredTenant {
            tenant_id: record.tenant_id,
            network: DesiredNetwork {
                tenant_net_id: record.network.net,
                ipv4_subnet: record.network.subnet,
            },
            quotas,
            pools: Vec::new(),
            secrets_hash: None,
            policy: TenantPolicy::default(),
        })
    }
}

/// A step that reports no acts of its own.
fn told(operation: &Operation) -> Option<Acted> {
    let Operation::TenantSecretsSet { tenant, .. } = operation else { return None };
    let (act, subject) = (operation.name().to_owned(), tenant.to_string());
    Some(Acted { act, subject, detail: std::collections::BTreeMap::default() })
}

fn directory(file: &CallerPath) -> Result<PathBuf, Error> {
    let path: &Path = file.as_ref();
    let path = if file.is_stream() { Path::new(".") } else { path };
    let found = fs::canonicalize(path).map(|path| match file.is_stream() {
        true => path,
        false => path.parent().map(Path::to_path_buf).unwrap_or_default(),
    });
    found.map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("cannot find {}", file.typed())).because(&error)
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use mvm_core::{
        pool::Resources,
        units::{Mib, Vcpus},
    };

    use super::*;

    /// The sizes that the pools of a deployment get.
    fn sizes(deployment: Deployment) -> Vec<Resources> {
        let present = DesiredTenant {
            tenant_id: deployment.manifest.tenant.clone(),
            network: DesiredNetwork {
                tenant_net_id: NetId(3),
                ipv4_subnet: "10.240.3.0/24".parse().unwrap(),
            },
            quotas: deployment.manifest.quotas,
            pools: Vec::new(),
            secrets_hash: None,
            policy: TenantPolicy::default(),
        };
        let tenant = deployment.manifest.onto(present).unwrap();
        tenant.pools.iter().map(|pool| pool.instance_resources).collect()
    }

    fn size(vcpus: u32, mem_mib: u32, data_disk_mib: u32) -> Resources {
        Resources::new(Vcpus(vcpus), Mib(mem_mib), Mib(data_disk_mib))
    }

    #[test]
    fn what_nobody_says_of_sizes_is_taken_from_the_mvmfile_of_the_image() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = place.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path.display().to_string().parse::<InputPath>().unwrap()
        };
        write(
            "app/Mvmfile.toml",
            "[image]\nname = \"app\"\ndisk = 64\n[resources]\nmemory = 256\ncpus = 1\n",
        );
        let manifest = write(
            "manifest.toml",
            "[tenant]\nid = \"alice\"\n[[pools]]\nid = \"app\"\nimage = \"./app\"\nmem_mib = 512\n\
             [[pools]]\nid = \"plain\"\nimage = \"default\"\n",
        );
        let read = Deployment::read(&manifest).unwrap();
        assert_eq!(sizes(read), [size(1, 512, 64), size(2, 1024, 0)]);

        let config = write(
            "deploy.toml",
            "[overrides.gateways]\nimage = \"default\"\n[overrides.workers]\nimage = \"./app\"\nvcpus = 3\n",
        );
        let (template, name) = ("openclaw".to_owned(), "alice".parse().unwrap());
        let new = NewDeployment {
            template,
            name,
            config: Some(config),
            source: None,
            net: None,
            subnet: None,
        };
        let made = Deployment::of_template(new.clone()).unwrap();
        assert_eq!(sizes(made), [size(2, 1024, 0), size(3, 256, 64)]);
        let image = Source::Image(place.path().join("app").display().to_string());
        let made = Deployment::of_template(NewDeployment { source: Some(image), ..new }).unwrap();
        assert_eq!(sizes(made), [size(1, 256, 64), size(3, 256, 64)]);

        write("app/Mvmfile.toml", "[image]\n");
        let error = Deployment::read(&manifest).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    }
}
