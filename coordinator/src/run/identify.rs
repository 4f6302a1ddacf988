//! Who this coordinator is, settled before anything is served: from its folder, as the founder of a cluster, or by joining one.
//!
//! The founder makes the authority and one token of a user `admin` with the role `owner`, written to `admin.json` below its
//! data folder for its own user alone: nobody types it and nobody else can.

use super::Error;
use crate::config::{Config, Start};
use crate::raft::{Addresses, Node};
use cluster_state::{ApiToken, Command, SetUser};
use identity::{
    Authority, Credentials, Joined, Joiner, Material, NodeFolder, NodeRequest, SealingKey, SealingKeys, Secret,
    SecretKind, Subject, fingerprint, signing,
};
use std::path::PathBuf;
use std::time::Duration;
use types::{Role, Timestamp};

/// Below the data folder: how the founder's owner gets in.
const ADMIN: &str = "admin.json";
/// The founder's first user.
const ADMIN_NAME: &str = "admin";
/// Its token counts for so long: a year.
const ADMIN_LIFE: Duration = Duration::from_hours(365 * 24);
/// Between two tries to join.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Between two tries to write what the cluster is founded with.
const FOUND_PAUSE: Duration = Duration::from_millis(100);

/// Who it is.
#[derive(Clone)]
pub(super) struct Identified {
    pub(super) node: identity::Node,
    pub(super) folder: NodeFolder,
    pub(super) hosts: Vec<String>,
    pub(super) admin: PathBuf,
}

/// Reads who it is, or becomes somebody.
pub(super) async fn identify(config: &Config, advertised: &Addresses) -> Result<Identified, Error> {
    let folder = NodeFolder::open(&config.data_dir)?.with_sealing_key(config.secrets_key.clone());
    let hosts = hosts(config, advertised);
    let admin = config.data_dir.join(ADMIN);
    let named = types::Principal::Coordinator(config.id);
    let is_new = !config.data_dir.join("raft").exists();
    let material = match (folder.load()?, &config.start) {
        // Its store was put aside, and it comes back under a number that was never used.
        (Some(former), Start::Join(addresses)) if former.subject.principal() != named && is_new => {
            join(config, &folder, addresses, &hosts).await?
        }
        (Some(material), _) => renewed(&folder, material, &hosts, config.certificate_life)?,
        (None, _) if !is_new => {
            let missing = config.data_dir.join("identity");
            return Err(Error::Failed(format!(
                "it has a store of a cluster, but not its certificate: put {} back, or move the store aside and join under a new --id",
                missing.display()
            )));
        }
        (None, Start::Bootstrap) => begin(config, &folder, advertised, &hosts, &admin)?,
        (None, Start::Join(addresses)) => join(config, &folder, addresses, &hosts).await?,
        (None, Start::Wait) => return Err(Error::Nowhere),
    };
    if material.subject.principal() != named {
        return Err(Error::Failed(format!("the data folder is that of {}, not of {named}", material.subject)));
    }
    Ok(Identified { node: identity::Node::new(material), folder, hosts, admin })
}

/// Names and addresses by which clients that check them may reach it.
fn hosts(config: &Config, advertised: &Addresses) -> Vec<String> {
    let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let advertised = advertised.grpc.rsplit_once(':').map(|(host, _)| host.trim_matches(['[', ']']).to_owned());
    let listening = Some(config.listen.ip()).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
    for host in advertised.into_iter().chain(listening).chain([own]) {
        let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte));
        if plain && !host.is_empty() && !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

/// Makes a cluster's authority, its own certificate and its owner's token; its certificate is stored last, so that a start that
/// is cut short begins again.
fn begin(
    config: &Config,
    folder: &NodeFolder,
    advertised: &Addresses,
    hosts: &[String],
    admin: &std::path::Path,
) -> Result<Material, Error> {
    let random = |source| Error::Io { what: "draw random bytes".into(), source };
    let cluster = daemon::random::cluster_id().map_err(random)?;
    let now = daemon::clock::now();
    let authority = Authority::create(cluster, now)?;
    folder.store_authority(&authority)?;
    if folder.sealing_keys()?.is_none() {
        if let Some(held) = &config.secrets_key {
            return Err(Error::Failed(format!("there is no key for secrets in {}", held.display())));
        }
        let key = SealingKey::generate().map_err(|error| Error::Failed(error.to_string()))?;
        folder.store_sealing_keys(&SealingKeys::of(key))?;
    }
    let token = Secret::generate(SecretKind::Access, fingerprint(authority.certificate())).map_err(random)?;
    let credentials = Credentials { coordinators: vec![advertised.grpc.clone()], token };
    credentials.store(admin).map_err(|error| Error::Failed(error.to_string()))?;
    let subject = Subject::Coordinator { cluster, id: config.id };
    let trusted = [authority.certificate().clone()];
    let life = config.certificate_life;
    let request = NodeRequest { subject: &subject, hosts, trusted: &trusted, vouched: None, now, life };
    let material = Material::issue(&authority, &request)?;
    folder.store(&material)?;
    Ok(material)
}

/// Asks until it is admitted, or refused for good.
async fn join(config: &Config, folder: &NodeFolder, addresses: &[String], hosts: &[String]) -> Result<Material, Error> {
    let admission = config.admission.as_ref().ok_or(Error::Nowhere)?;
    let joiner = Joiner::Coordinator(config.id, hosts.to_vec());
    let mut pause = PAUSE;
    loop {
        match identity::join(addresses, admission, &joiner).await {
            Ok(Joined { material, authority, sealing_keys }) => {
                let authority = authority.ok_or_else(|| Error::Failed("no authority's key came".into()))?;
                folder.store_authority(&authority)?;
                if let Some(keys) = sealing_keys {
                    folder.store_sealing_keys(&keys)?;
                }
                folder.store(&material)?;
                tracing::info!(who = %material.subject, "admitted to the cluster");
                return Ok(material);
            }
            Err(identity::JoinError::Again(why)) => tracing::info!(why, "not admitted yet"),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

/// The next certificate when it is time, signed by the authority at hand.
fn renewed(folder: &NodeFolder, now: Material, hosts: &[String], life: Duration) -> Result<Material, Error> {
    let time = daemon::clock::now();
    let Some(signing) = signing(&now).filter(|_| time >= now.renew_at()) else { return Ok(now) };
    let Some(authority) = folder.authority(signing)? else { return Ok(now) };
    let (subject, trusted, vouched) = (&now.subject, now.trusted(), now.vouched());
    let request = NodeRequest { subject, hosts, trusted, vouched, now: time, life };
    let next = Material::issue(&authority, &request)?;
    folder.store(&next)?;
    Ok(next)
}

/// Brings the authority and the owner into the tables, once. Until then nobody is served.
pub(super) async fn found(identified: &Identified, node: &Node) {
    loop {
        if !node.look(|state| state.authorities().is_empty()) {
            return;
        }
        match founding(identified) {
            Ok(commands) => match node.propose(commands).await {
                Ok(_) => tracing::info!(file = %identified.admin.display(), "the owner's token is in this file"),
                Err(error) => tracing::info!(%error, "the cluster is not founded yet"),
            },
            Err(error) => {
                tracing::error!(%error, "the cluster cannot be founded: start again with a new data folder");
                return;
            }
        }
        tokio::time::sleep(FOUND_PAUSE).await;
    }
}

fn founding(identified: &Identified) -> Result<Vec<Command>, identity::CredentialsError> {
    let credentials = Credentials::load(&identified.admin)?;
    let now = daemon::clock::now();
    let material = identified.node.material();
    let authorities =
        material.trusted().iter().map(|one| Command::AddAuthority { certificate: one.to_vec(), vouched: Vec::new() });
    let (name, roles) = (ADMIN_NAME.into(), [Role::Owner.into()].into());
    let owner = Command::SetUser { name, roles, how: SetUser::Create, waiting_max: None };
    let token = ApiToken {
        id: "founder".into(),
        user: ADMIN_NAME.into(),
        digest: credentials.token.digest(),
        note: "made with the cluster".into(),
        created: now,
        expires: Timestamp(now.0 + ADMIN_LIFE.as_millis() as u64),
        roles: None,
    };
    // In this order: whoever sees the authority sees the rest of the same entry.
    Ok([owner, Command::CreateToken { token }].into_iter().chain(authorities).collect())
}
