//! The arguments of `mvm agent certs …`, `mvm coordinator …` and `mvm add …`.

use clap::{Args, Subcommand};
use mvm::{
    InstanceRef, Since, TenantId, TlsFiles, Token, api,
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
    /// Install a certificate that `coordinator approve` signed for this node
    Install {
        /// What it wrote: the certificate and the authority's, PEM; `-` reads standard input
        file: InputPath,
    },
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
    /// A join token of `coordinator token`: with it this node waits for its approval
    #[arg(long, conflicts_with_all = ["role", "name"])]
    pub(crate) token: Option<Token>,
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
    /// Show what a node is, its certificate, and which state it follows
    Status(PeerArgs),
    /// Show what a node holds
    Stats(PeerArgs),
    /// List the instances of a node
    ListInstances(RemoteListArgs),
    /// List the tenants of a node
    ListTenants(PeerArgs),
    /// Wake an instance of a node
    Wake(RemoteMoveArgs),
    /// Put an instance of a node to sleep
    Sleep(RemoteMoveArgs),
    /// Show what happened to a tenant of a node, oldest first
    Events(RemoteEventsArgs),
    /// Make a join token, with which one machine may become a node
    #[command(after_long_help = examples::COORDINATOR_TOKEN)]
    Token(TokenArgs),
    /// Sign the certificate of a node that waits, when both sides know its join token
    #[command(after_long_help = examples::COORDINATOR_APPROVE)]
    Approve(ApproveArgs),
    /// Renew the certificate of a node, with its own key
    Renew(RenewArgs),
    /// Revoke certificates, and tell nodes whom to believe no longer
    #[command(after_long_help = examples::COORDINATOR_REVOKE)]
    Revoke(RevokeArgs),
}

/// Where the authority is that signs.
#[derive(Debug, Clone, Args)]
pub(crate) struct AuthorityArgs {
    /// The fleet's authority with its key, PEM [default: the own one of this side]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<InputPath>,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// For how long it may be used: 30m, 1h, 2d
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = span)]
    pub(crate) valid: u32,
    #[command(flatten)]
    pub(crate) authority: AuthorityArgs,
}

/// Seconds, at most thirty days.
fn span(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no span up to 30 days: write 30m, 1h or 2d");
    match text.parse() {
        Ok(Since::Ago(seconds)) if (1..=2_592_000).contains(&seconds) => {
            u32::try_from(seconds).map_err(|_| wrong())
        }
        Ok(Since::Ago(_) | Since::At(_) | Since::Seq(_)) | Err(_) => Err(wrong()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct ApproveArgs {
    /// The node's address; its API listens on port 4433 unless told otherwise
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "request", requires = "token")]
    pub(crate) node: Option<String>,
    /// The join token that the node was given
    #[arg(long)]
    pub(crate) token: Option<Token>,
    /// Without a network: the request of the node, as `agent certs request` prints it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["node", "token"], requires = "out")]
    pub(crate) request: Option<InputPath>,
    /// Write what was signed to this file, for `agent certs install` on the node
    #[arg(long, value_name = "FILE", requires = "request")]
    pub(crate) out: Option<OutputPath>,
    /// What the request may be for: coordinator, node or observer
    #[arg(long, default_value_t = api::Role::Node, requires = "request")]
    pub(crate) role: api::Role,
    #[command(flatten)]
    pub(crate) authority: AuthorityArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RenewArgs {
    #[command(flatten)]
    pub(crate) peer: PeerArgs,
    #[command(flatten)]
    pub(crate) authority: AuthorityArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// A node's id, or the serial or fingerprint of one certificate; without it the list is pushed as it is
    #[arg(value_name = "NODE|SERIAL|FINGERPRINT", required_unless_present = "node")]
    pub(crate) what: Option<String>,
    /// Push the list to these nodes
    #[arg(long, value_name = "HOST:PORT", num_args = 1..)]
    pub(crate) node: Vec<String>,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    #[command(flatten)]
    pub(crate) authority: AuthorityArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RemoteEventsArgs {
    #[command(flatten)]
    pub(crate) peer: PeerArgs,
    /// Whose log; `node` for what belongs to no tenant
    pub(crate) tenant: TenantId,
    /// Only entries after this number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    pub(crate) after: u64,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(crate) limit: usize,
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
pub(crate) struct RemoteMoveArgs {
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
    /// Without it, and without a token, an own one is made, for development
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<InputPath>,
    /// A join token of `coordinator token`: the node waits for `coordinator approve` once its agent serves
    #[arg(long)]
    pub(crate) token: Option<Token>,
    /// The coordinator's public key, as `coordinator keygen` wrote it
    #[arg(long, value_name = "FILE")]
    pub(crate) signing_key: Option<InputPath>,
    /// Refuse from now on what weakens isolation and what is not signed: writes `production = true` into
    /// config.toml
    #[arg(long)]
    pub(crate) production: bool,
}
