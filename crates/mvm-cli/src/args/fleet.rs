//! The arguments of `mvm agent certs …`, `mvm coordinator …` and `mvm add …`.

use clap::{Args, Subcommand};
use mvm::{
    InstanceRef, TenantId, TlsFiles, api,
    forward::{InputPath, OutputPath},
};

use super::examples;

#[derive(Debug, Subcommand)]
pub(crate) enum CertsCommand {
    /// Make certificates for talking to others: by an own authority for development, or by the fleet's
    #[command(after_long_help = examples::CERTS_INIT)]
    Init(CertsArgs),
    /// Write a request for a certificate, for whoever holds the authority's key
    Request(RequestArgs),
    /// Replace a certificate and its key; the authority stays
    Rotate(RotateArgs),
    /// Show what the certificates say, and whether they are due for renewal
    Status,
}

#[derive(Debug, Args)]
pub(crate) struct CertsArgs {
    /// The fleet's certificate authority, PEM; with its key in the file certificates are signed at once,
    /// without it a request is left
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<InputPath>,
    /// What the certificate lets its holder be: coordinator, node or observer [default: node; for an own
    /// authority node and coordinator]
    #[arg(long)]
    pub(crate) role: Option<api::Role>,
    /// Whose certificate it is [default: the node's id, or the role's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RequestArgs {
    /// What the certificate shall let its holder be: coordinator, node or observer
    #[arg(long, default_value_t = api::Role::Node)]
    pub(crate) role: api::Role,
    /// Whose certificate it shall be [default: the node's id, or the role's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// The authority with its key, where that is not kept here
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<InputPath>,
    /// Which certificate: coordinator, node or observer
    #[arg(long, default_value_t = api::Role::Node)]
    pub(crate) role: api::Role,
}

/// Where certificates lie, if not in the data directory.
#[derive(Debug, Clone, Args)]
pub(crate) struct TlsArgs {
    /// This side's certificate [default: in certs/ of the data directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert: Option<InputPath>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<InputPath>,
    /// The authority that both sides trust
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<InputPath>,
}

impl TlsArgs {
    pub(crate) fn files(&self) -> TlsFiles {
        let path = |file: &Option<InputPath>| {
            file.as_ref().map(|file| AsRef::<std::path::Path>::as_ref(file).to_owned())
        };
        TlsFiles { ca: path(&self.tls_ca), cert: path(&self.tls_cert), key: path(&self.tls_key) }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum CoordinatorCommand {
    /// Make the key that signs desired states, and its public half for the nodes
    Keygen(KeygenArgs),
    /// Sign a desired state for a node, and print it
    Sign(SignArgs),
    /// Push a desired state to a node, signed
    #[command(after_long_help = examples::COORDINATOR_PUSH)]
    Push(PushArgs),
    /// Show what a node is, and which state it follows
    Status(PeerArgs),
    /// List the instances of a node
    ListInstances(RemoteListArgs),
    /// Wake an instance of a node
    Wake(RemoteWakeArgs),
}

/// Which node is asked, and as whom.
#[derive(Debug, Clone, Args)]
pub(crate) struct PeerArgs {
    /// The node's address; its API listens on port 4433 unless told otherwise
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) node: String,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// Keep the key in this file, the public one beside it as .pub [default: signing.key in /etc/mvm]
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<OutputPath>,
}

/// Under which terms a state is signed.
#[derive(Debug, Clone, Args)]
pub(crate) struct TermsArgs {
    /// Sign with the key in this file [default: signing.key in /etc/mvm]
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<InputPath>,
    /// The node that it is for [default: the one that the document names]
    #[arg(long, value_name = "ID")]
    pub(crate) node_id: Option<String>,
    /// Its place among this signer's states [default: the time in milliseconds]
    #[arg(long, value_name = "N")]
    pub(crate) sequence: Option<u64>,
    /// For how long a node may accept it; an accepted state stays in force
    #[arg(long, value_name = "SECS", default_value_t = 3600, value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
    pub(crate) valid_secs: u32,
}

#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// The desired state, as JSON; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) desired: InputPath,
    #[command(flatten)]
    pub(crate) terms: TermsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The desired state, as JSON; `-` reads standard input
    #[arg(long, value_name = "FILE", required_unless_present = "envelope")]
    pub(crate) desired: Option<InputPath>,
    /// A state that was signed before, as `coordinator sign` prints it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["desired", "key", "node_id", "sequence", "unsigned"])]
    pub(crate) envelope: Option<InputPath>,
    /// Do not sign it; a node takes it in development only
    #[arg(long, conflicts_with_all = ["key", "node_id", "sequence"])]
    pub(crate) unsigned: bool,
    #[command(flatten)]
    pub(crate) peer: PeerArgs,
    #[command(flatten)]
    pub(crate) terms: TermsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RemoteListArgs {
    #[command(flatten)]
    pub(crate) peer: PeerArgs,
    /// Only of this tenant
    #[arg(long)]
    pub(crate) tenant: Option<TenantId>,
}

#[derive(Debug, Args)]
pub(crate) struct RemoteWakeArgs {
    #[command(flatten)]
    pub(crate) peer: PeerArgs,
    /// The instance: tenant/pool/instance
    pub(crate) instance: InstanceRef,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AddCommand {
    /// Make this machine a node of a fleet: what microVMs need, certificates, trust in the coordinator
    #[command(after_long_help = examples::ADD_HOST)]
    Host(AddHostArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AddHostArgs {
    /// The fleet's certificate authority, PEM; with its key in the file the certificate is signed at once.
    /// Without it an own one is made, for development
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<InputPath>,
    /// The coordinator's public key, as `coordinator keygen` wrote it
    #[arg(long, value_name = "FILE")]
    pub(crate) signing_key: Option<InputPath>,
    /// Refuse from now on what weakens isolation and what is not signed: writes `production = true` into
    /// config.toml
    #[arg(long)]
    pub(crate) production: bool,
}
