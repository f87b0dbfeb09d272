//! The arguments of `mvm new`, `mvm deploy` and `mvm connect`.

use clap::Args;
use mvm::{
    Error, NetId, Source, Subnet, TenantId,
    forward::{ImagePath, InputPath},
    image::recorded,
};

use super::tenant::net_id;

#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    /// The manifest, JSON or TOML; `-` reads JSON from standard input
    pub(crate) manifest: InputPath,
    /// Read it again and again, until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
    /// How long to wait in between
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86400), requires = "watch")]
    pub(crate) interval: u32,
}

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// The template: `openclaw`, a gateway pool and a worker pool
    pub(crate) template: String,
    /// The deployment's name, which becomes the tenant's id
    pub(crate) name: TenantId,
    /// Its secrets, and what is not as in the template, JSON or TOML
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<InputPath>,
    #[command(flatten)]
    pub(crate) source: NewSource,
    /// Its network id, 1 to 4095 [default: the lowest free one]
    #[arg(long, value_name = "N", value_parser = net_id)]
    pub(crate) net_id: Option<NetId>,
    /// Its subnet within 10.240.0.0/12 [default: 10.(240+N/256).(N mod 256).0/24]
    #[arg(long, value_name = "CIDR")]
    pub(crate) subnet: Option<Subnet>,
}

/// What all pools are made of, instead of what the template says.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct NewSource {
    /// Make all pools of this Nix flake
    #[arg(long, value_name = "REF")]
    flake: Option<String>,
    /// Make all pools of this image: `default`, a name or hash, `oci:…`, `oci-archive:/…`, `deb:…` or a path
    #[arg(long, value_name = "IMAGE")]
    image: Option<ImagePath>,
}

impl NewSource {
    /// The source that was given.
    ///
    /// # Errors
    /// `NotFound` and `Invalid` of a relative path.
    pub(crate) fn source(&self) -> Result<Option<Source>, Error> {
        let Self { flake, image } = self;
        let image = image.as_ref().map(recorded).transpose()?.map(Source::Image);
        Ok(flake.clone().map(Source::Flake).or(image))
    }
}
