//! Makes a member ready to start: its folders, code, data and checkpoint, its ranks' sockets, and its expanded texts.

use super::{Context, Fault};
use crate::blobs::{For, TransferError};
use crate::expand::{Names, expand};
use crate::layout::MemberLayout;
use crate::secrets::{Secrets, TakeError};
use crate::spares::Spares;
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use stores::trees::TreeBlobError;
use types::{Endpoint, Input, InputKind, JobSpec, RankIndex, Wish};

/// A member that can start.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) names: Names,
    pub(super) command: String,
    pub(super) sockets: Vec<Sockets>,
    pub(super) secrets: Secrets,
    /// False: its folders are made when it is launched, in one go with the rest.
    pub(super) has_folders: bool,
}

/// One rank's addresses, held until it starts.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) data: TcpListener,
    /// Bound, not listening, and closed when the rank starts: nobody else is given the port before.
    pub(super) framework: OwnedFd,
    pub(super) endpoint: Endpoint,
}

impl Prepared {
    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        self.sockets.iter().map(|sockets| sockets.endpoint.clone()).collect()
    }
}

/// Fetches and binds everything. Dropping the future leaves a folder that the caller removes.
pub(super) async fn prepare(context: &Context, wish: &Wish, layout: &MemberLayout) -> Result<Prepared, Fault> {
    if let Some(reason) = context.encryption.refuses(wish) {
        return Err(Fault::job(reason));
    }
    let is_data = |input: &Input| matches!(input, Input::Data { .. });
    let fetches = wish.spec.code.is_some() || wish.checkpoint.is_some() || wish.spec.inputs.values().any(is_data);
    // Of a gang, each member must be sure that it can start.
    let has_folders = fetches || wish.placement.members.len() > 1;
    if has_folders {
        let (spec, folders, spares) = (wish.spec.clone(), layout.clone(), context.spares.clone());
        let made = tokio::task::spawn_blocking(move || make_folders(&spec, &folders, &spares)).await;
        made.unwrap_or_else(|error| Err(Fault::machine(error.to_string())))?;
    }
    if let Some(code) = &wish.spec.code {
        fetch(context, wish, code.tree, layout.code(), "code").await?;
    }
    let names = fetch_inputs(context, wish, layout).await?;
    if let Some(checkpoint) = &wish.checkpoint {
        fetch(context, wish, checkpoint.tree, layout.resume(), "checkpoint").await?;
    }
    let command = expand(&wish.spec.command, &names).map_err(|error| Fault::job(format!("command: {error}")))?;
    for (name, value) in &wish.spec.environment_variables {
        expand(value, &names).map_err(|error| Fault::job(format!("environment variable {name}: {error}")))?;
    }
    let secrets = context.secrets.take(wish).await.map_err(|error| match error {
        TakeError::Refused(_) => Fault::job(error.to_string()),
        TakeError::Unreachable(_) => Fault::machine(error.to_string()),
    })?;
    let sockets = bind_all(context, wish)
        .map_err(|error| Fault::machine(format!("cannot bind on {}: {error}", context.data_address)))?;
    Ok(Prepared { names, command, sockets, secrets, has_folders })
}

/// Those that the job has a use for: see `layout`. Blocks.
pub(super) fn make_folders(spec: &JobSpec, layout: &MemberLayout, spares: &Spares) -> Result<(), Fault> {
    try_make_folders(spec, layout, spares).map_err(|error| Fault::machine(format!("cannot make its folders: {error}")))
}

fn try_make_folders(spec: &JobSpec, layout: &MemberLayout, spares: &Spares) -> io::Result<()> {
    // What a life before this one left half-made.
    match std::fs::remove_dir_all(layout.root()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Its code comes as a folder of its own.
    if spec.code.is_some() || !spares.take(layout) {
        daemon::files::create_private_folder(layout.root())?;
        std::fs::create_dir(layout.checkpoints())?;
        std::fs::create_dir(layout.tmp())?;
        if spec.code.is_none() {
            std::fs::create_dir(layout.code())?;
        }
    }
    if spec.inputs.values().any(|input| matches!(input, Input::Data { .. })) {
        std::fs::create_dir(layout.inputs())?;
    }
    if !spec.outputs.is_empty() {
        std::fs::create_dir(layout.outputs())?;
    }
    spec.outputs.keys().try_for_each(|name| std::fs::create_dir(layout.output(name)))
}

async fn fetch_inputs(context: &Context, wish: &Wish, layout: &MemberLayout) -> Result<Names, Fault> {
    let mut names = Names::default();
    for (name, input) in &wish.spec.inputs {
        let value = match input {
            Input::Literal(text) => text.clone(),
            Input::Data { kind, tree, .. } => {
                let folder = layout.input(name);
                let tree = fetch(context, wish, *tree, folder.clone(), name).await?;
                let path = match (kind, tree.entries()) {
                    (InputKind::Folder, _) => folder,
                    (InputKind::File, [file]) => folder.join(&file.path),
                    (InputKind::File, files) => {
                        return Err(Fault::job(format!("input {name} is a file but has {} files", files.len())));
                    }
                };
                path.display().to_string()
            }
        };
        names.inputs.insert(name.clone(), value);
    }
    for name in wish.spec.outputs.keys() {
        names.outputs.insert(name.clone(), layout.output(name).display().to_string());
    }
    Ok(names)
}

async fn fetch(
    context: &Context,
    wish: &Wish,
    hash: types::ContentHash,
    folder: PathBuf,
    what: &str,
) -> Result<types::Tree, Fault> {
    let job = For { job: wish.key.job, workspace: wish.spec.workspace().clone() };
    let made = context.blobs.materialise(job, hash, folder).await;
    made.map_err(|error| {
        let reason = format!("cannot fetch {what}: {}", error.chain());
        // What no coordinator has, and what no snapshot may hold, would be the same on any other machine.
        let is_hopeless = match &error {
            TransferError::NotFound(_) => true,
            TransferError::Tree(tree) => !matches!(tree, TreeBlobError::Blob(_)),
            _ => false,
        };
        if is_hopeless { Fault::job(reason) } else { Fault::machine(reason) }
    })
}

fn bind_all(context: &Context, wish: &Wish) -> io::Result<Vec<Sockets>> {
    let ranks = wish.member().map(|member| member.ranks.as_slice()).unwrap_or_default();
    ranks.iter().map(|placed| bind(context, wish, placed.rank)).collect()
}

fn bind(context: &Context, wish: &Wish, rank: RankIndex) -> io::Result<Sockets> {
    let any_port = SocketAddr::new(context.data_address, 0);
    let data = TcpListener::bind(any_port)?;
    let family = if any_port.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let framework = rustix::net::socket_with(family, SocketType::STREAM, rustix::net::SocketFlags::CLOEXEC, None)?;
    // The framework binds with this option too, and may do so while a connection of the past lingers.
    sockopt::set_socket_reuseaddr(&framework, true)?;
    rustix::net::bind(&framework, &any_port)?;
    let reserved = SocketAddr::try_from(rustix::net::getsockname(&framework)?)?;
    let framework_at = context.networks.tell(wish, reserved);
    let endpoint = Endpoint { rank, data: data.local_addr()?.to_string(), framework: framework_at };
    Ok(Sockets { data, framework, endpoint })
}
