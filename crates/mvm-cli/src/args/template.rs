//! The arguments of `mvm template …`.

use clap::{Args, Subcommand};
use mvm::{
    Operation, TemplateId, TenantId, VariantId,
    forward::{InputPath, OutputPath},
};

use super::examples;

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// Write a template.toml to start from
    Init {
        /// The directory, made when missing
        #[arg(default_value = ".")]
        dir: OutputPath,
    },
    /// Make a template of a file, or change it to what the file says
    #[command(after_long_help = examples::TEMPLATE)]
    Create {
        /// The file, TOML or JSON
        #[arg(default_value = "template.toml")]
        file: InputPath,
    },
    /// Build a template's variants, once for all pools of it
    Build(TemplateBuildArgs),
    /// List the templates
    List,
    /// Show a template: its variants, their builds and the pools that use them
    Info {
        /// The template
        template: TemplateId,
    },
    /// Sign a template and put it with its builds into a storage
    Push {
        /// The template
        template: TemplateId,
        /// The storage, as `s3://BUCKET/PREFIX` [default: storage.url of the configuration]
        #[arg(long, value_name = "URL")]
        to: Option<String>,
        /// The signing key [default: signing.key in the configuration directory]
        #[arg(long, value_name = "FILE")]
        key: Option<InputPath>,
    },
    /// Take a template out of a storage, if somebody signed it whom this host trusts
    Pull {
        /// The template
        template: TemplateId,
        /// The storage, as `s3://BUCKET/PREFIX` [default: storage.url of the configuration]
        #[arg(long, value_name = "URL")]
        from: Option<String>,
    },
    /// Read all files of a template's builds and check them, and its signature; exit 9 when one is wrong
    Verify {
        /// The template
        template: TemplateId,
    },
    /// Delete a template that no pool uses
    Delete {
        /// The template
        template: TemplateId,
        /// Do not ask
        #[arg(long, visible_alias = "yes")]
        force: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TemplateBuildArgs {
    /// The template
    pub(crate) template: TemplateId,
    /// Only this variant
    #[arg(long, value_name = "NAME")]
    pub(crate) variant: Option<VariantId>,
    /// Whose network a flake is built in; nothing else needs one
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Option<TenantId>,
    /// How long each build may take
    #[arg(long, value_name = "SECS", default_value_t = Operation::BUILD_TIMEOUT.0)]
    pub(crate) timeout: u32,
    /// Build again although nothing changed
    #[arg(long)]
    pub(crate) force: bool,
}
