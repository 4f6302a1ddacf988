//! Which cluster a command talks to, and by which token: flags, the environment, or the contexts of
//! `~/.config/muster/config.json`, a file that only its user may read.

use crate::failure::{bad_input, not_found};
use anyhow::Context as _;
use identity::{Credentials, Secret};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a coordinator listens when nobody says otherwise.
pub const DEFAULT_COORDINATOR: &str = "127.0.0.1:7070";

/// The configuration file.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// Used when nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// By name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Cluster>,
}

/// One known cluster.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// `host:port` of its coordinators.
    pub coordinators: Vec<String>,
    /// The user's token there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// Where a command goes, and what it proves itself with.
pub struct Target {
    /// `host:port` of coordinators.
    pub coordinators: Vec<String>,
    /// The token; none when nobody said one.
    pub token: Option<Secret>,
}

/// What was said on the command line.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// `--coordinators`
    pub coordinators: Vec<String>,
    /// `--context`
    pub context: Option<String>,
}

/// What the environment says.
#[derive(Clone, Default)]
pub struct Environment {
    /// `MUSTER_COORDINATORS`
    pub coordinators: Option<String>,
    /// `MUSTER_CONTEXT`
    pub context: Option<String>,
    /// `MUSTER_ACCESS_TOKEN`
    pub token: Option<String>,
    /// `MUSTER_CREDENTIALS`: a file as the founder of a cluster writes it
    pub credentials: Option<PathBuf>,
}

impl Environment {
    /// Reads it.
    pub fn read() -> Self {
        Environment {
            coordinators: daemon::environment::text("MUSTER_COORDINATORS"),
            context: daemon::environment::text("MUSTER_CONTEXT"),
            token: daemon::environment::text("MUSTER_ACCESS_TOKEN"),
            credentials: daemon::environment::text("MUSTER_CREDENTIALS").map(PathBuf::from),
        }
    }
}

/// The addresses and the token to use. A context that is named on the command line counts first, then `MUSTER_ACCESS_TOKEN`, then
/// `MUSTER_CREDENTIALS`, then the other contexts; for bare addresses the token of a context that has one of them.
pub fn target(wanted: &Wanted, environment: &Environment, file: &Contexts) -> anyhow::Result<Target> {
    let mut coordinators = choose(wanted, environment, file)?;
    let named = |name: Option<&String>| {
        let cluster = name.and_then(|name| file.contexts.get(name));
        cluster.filter(|cluster| cluster.coordinators == coordinators).and_then(|cluster| cluster.token.as_ref())
    };
    let stored =
        |text: &String| Secret::parse(text).map_err(|error| bad_input(format!("the context's token: {error}")));
    if let Some(token) = named(wanted.context.as_ref()).filter(|_| wanted.coordinators.is_empty()) {
        return Ok(Target { token: Some(stored(token)?), coordinators });
    }
    if let Some(text) = &environment.token {
        let token = Secret::parse(text).map_err(|error| bad_input(format!("MUSTER_ACCESS_TOKEN: {error}")))?;
        return Ok(Target { coordinators, token: Some(token) });
    }
    if let Some(path) = &environment.credentials {
        let credentials = Credentials::load(path)?;
        let unsaid = wanted.coordinators.is_empty() && environment.coordinators.is_none() && wanted.context.is_none();
        if unsaid {
            coordinators = credentials.coordinators;
        }
        return Ok(Target { coordinators, token: Some(credentials.token) });
    }
    let shares = |cluster: &&Cluster| cluster.coordinators.iter().any(|address| coordinators.contains(address));
    let sharing = || file.contexts.values().filter(shares).find_map(|cluster| cluster.token.as_ref());
    let token = named(environment.context.as_ref().or(file.current.as_ref())).or_else(sharing);
    Ok(Target { token: token.map(stored).transpose()?, coordinators })
}

/// The addresses to use. The most explicit word counts: flags before environment before the file, addresses before names.
pub fn choose(wanted: &Wanted, environment: &Environment, file: &Contexts) -> anyhow::Result<Vec<String>> {
    if !wanted.coordinators.is_empty() {
        return Ok(wanted.coordinators.clone());
    }
    if let Some(name) = &wanted.context {
        return named(file, name);
    }
    if let Some(list) = &environment.coordinators {
        let addresses: Vec<String> =
            list.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
        if addresses.is_empty() {
            return Err(bad_input("MUSTER_COORDINATORS names no address: write host:port,host:port"));
        }
        return Ok(addresses);
    }
    match environment.context.as_ref().or(file.current.as_ref()) {
        Some(name) => named(file, name),
        None => Ok(vec![DEFAULT_COORDINATOR.to_owned()]),
    }
}

fn named(file: &Contexts, name: &str) -> anyhow::Result<Vec<String>> {
    if let Some(cluster) = file.contexts.get(name) {
        return Ok(cluster.coordinators.clone());
    }
    let known: Vec<&str> = file.contexts.keys().map(String::as_str).collect();
    let known = if known.is_empty() { "there are none yet".to_owned() } else { format!("known: {}", known.join(", ")) };
    Err(not_found(format!("no context {name:?}; {known}")))
}

/// `MUSTER_CONFIG`, or `config.json` under `$XDG_CONFIG_HOME/muster` or `~/.config/muster`.
pub fn config_path() -> anyhow::Result<PathBuf> {
    if let Some(path) = daemon::environment::text("MUSTER_CONFIG") {
        return Ok(path.into());
    }
    let folder = daemon::environment::text("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| daemon::environment::text("HOME").map(|home| Path::new(&home).join(".config")))
        .context("neither MUSTER_CONFIG, XDG_CONFIG_HOME nor HOME is set: no place for contexts")?;
    Ok(folder.join("muster/config.json"))
}

/// Where tokens of this user lie: ranks of the same user must not see these folders.
pub fn token_folders() -> Vec<PathBuf> {
    let credentials = daemon::environment::text("MUSTER_CREDENTIALS").map(PathBuf::from);
    let files = config_path().ok().into_iter().chain(credentials);
    let home = daemon::environment::text("HOME").map(PathBuf::from);
    let folders = files.filter_map(|file| Some(std::path::absolute(file).ok()?.parent()?.to_owned()));
    folders.filter(|folder| Some(folder) != home.as_ref()).collect()
}

/// Reads the file; an absent one holds nothing.
pub fn load(path: &Path) -> anyhow::Result<Contexts> {
    let text = match daemon::files::read_secret(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Contexts::default()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    serde_json::from_str(&text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        bad_input(format!("{} is not valid: line {line}, column {column}", path.display()))
    })
}

/// Changes the file under a lock, so that two commands at once both count.
pub fn update(path: &Path, change: impl FnOnce(&mut Contexts)) -> anyhow::Result<()> {
    let folder = path.parent().context("the configuration file has no folder")?;
    daemon::files::create_private_folder(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let lock = std::fs::File::create(path.with_extension("lock")).context("cannot lock the configuration")?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).context("cannot lock the configuration")?;
    let mut contexts = load(path)?;
    change(&mut contexts);
    let mut text = serde_json::to_string_pretty(&contexts)?;
    text.push('\n');
    daemon::files::write_secret(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// Adds or replaces a context.
pub fn remember(path: &Path, name: &str, coordinators: Vec<String>, token: Option<&Secret>) -> anyhow::Result<()> {
    update(path, |contexts| {
        contexts.contexts.insert(name.to_owned(), Cluster { coordinators, token: token.map(Secret::expose) });
    })
}

/// Writes the authority beside this token in each context and in the file of `MUSTER_CREDENTIALS`; false when it is in none.
pub fn relearn(token: &Secret, authority: identity::Fingerprint) -> anyhow::Result<bool> {
    let is_it = |other: &Secret| other.bearer() == token.bearer();
    let mut found = false;
    if let Some(path) = Environment::read().credentials {
        let credentials = Credentials::load(&path)?;
        if is_it(&credentials.token) {
            Credentials { token: token.under(authority), ..credentials }.store(&path)?;
            found = true;
        }
    }
    // A service has no home, and no contexts.
    let Ok(path) = config_path() else { return Ok(found) };
    let holds = |cluster: &Cluster| {
        cluster.token.as_ref().and_then(|text| Secret::parse(text).ok()).is_some_and(|other| is_it(&other))
    };
    if load(&path)?.contexts.values().any(holds) {
        update(&path, |contexts| {
            for cluster in contexts.contexts.values_mut().filter(|cluster| holds(cluster)) {
                cluster.token = Some(token.under(authority).expose());
            }
        })?;
        found = true;
    }
    Ok(found)
}

/// Removes a context, but only while it names these coordinators: somebody may have made it anew.
pub fn forget(path: &Path, name: &str, coordinators: &[String]) -> anyhow::Result<()> {
    update(path, |contexts| {
        if contexts.contexts.get(name).is_some_and(|cluster| cluster.coordinators == coordinators) {
            contexts.contexts.remove(name);
            if contexts.current.as_deref() == Some(name) {
                contexts.current = None;
            }
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file() -> Contexts {
        let cluster = |address: &str| Cluster { coordinators: vec![address.to_owned()], token: None };
        Contexts {
            current: Some("lab".into()),
            contexts: [("lab".to_owned(), cluster("lab:1")), ("demo".to_owned(), cluster("demo:1"))].into(),
        }
    }

    #[test]
    fn the_most_explicit_word_counts() {
        let mut wanted = Wanted { coordinators: vec!["flag:1".into()], context: Some("demo".into()) };
        let mut environment = Environment {
            coordinators: Some("env:1, env:2".into()),
            context: Some("demo".into()),
            ..Environment::default()
        };
        assert_eq!(choose(&wanted, &environment, &file()).unwrap(), ["flag:1"]);
        wanted.coordinators.clear();
        assert_eq!(choose(&wanted, &environment, &file()).unwrap(), ["demo:1"]);
        wanted.context = None;
        assert_eq!(choose(&wanted, &environment, &file()).unwrap(), ["env:1", "env:2"]);
        environment.coordinators = None;
        assert_eq!(choose(&wanted, &environment, &file()).unwrap(), ["demo:1"]);
        environment.context = None;
        assert_eq!(choose(&wanted, &environment, &file()).unwrap(), ["lab:1"]);
        assert_eq!(choose(&wanted, &environment, &Contexts::default()).unwrap(), [DEFAULT_COORDINATOR]);
    }

    #[test]
    fn an_unknown_context_is_named_with_the_known_ones() {
        let wanted = Wanted { context: Some("prod".into()), ..Wanted::default() };
        let error = choose(&wanted, &Environment::default(), &file()).unwrap_err();
        assert!(error.to_string().contains("\"prod\"") && error.to_string().contains("demo, lab"), "{error}");
        assert_eq!(crate::failure::exit_of(&error), crate::failure::Exit::NotFound);
    }

    #[test]
    fn contexts_are_kept_and_only_ones_own_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/config.json");
        assert!(load(&path).unwrap() == Contexts::default());
        remember(&path, "demo", vec!["x:1".into()], None).unwrap();
        forget(&path, "demo", &["y:1".to_owned()]).unwrap();
        assert_eq!(load(&path).unwrap().contexts["demo"].coordinators, ["x:1"]);
        forget(&path, "demo", &["x:1".to_owned()]).unwrap();
        assert!(load(&path).unwrap().contexts.is_empty());
    }

    #[test]
    fn a_token_is_found_by_name_or_by_address_and_kept_from_others() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let token = Secret::generate(identity::SecretKind::Access, identity::Fingerprint([1; 32])).unwrap();
        remember(&path, "lab", vec!["x:1".into(), "y:1".into()], Some(&token)).unwrap();
        let file = load(&path).unwrap();
        let by = |coordinators: &[&str], context: Option<&str>| {
            let coordinators = coordinators.iter().map(|one| (*one).to_owned()).collect();
            let wanted = Wanted { coordinators, context: context.map(str::to_owned) };
            target(&wanted, &Environment::default(), &file).unwrap().token
        };
        assert!(by(&[], Some("lab")) == Some(token.clone()) && by(&["y:1"], None) == Some(token.clone()));
        assert!(by(&["z:1"], None).is_none());
        let other = Secret::generate(identity::SecretKind::Access, identity::Fingerprint([2; 32])).unwrap();
        let environment = Environment { token: Some(other.expose()), ..Environment::default() };
        let wanted = Wanted { coordinators: vec!["x:1".into()], context: None };
        assert!(target(&wanted, &environment, &file).unwrap().token == Some(other));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(format!("{:#}", load(&path).err().unwrap()).contains("chmod 600"));
    }

    #[test]
    fn a_damaged_file_is_named_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        daemon::files::write_secret(&path, b"{").unwrap();
        assert!(remember(&path, "demo", vec![], None).unwrap_err().to_string().contains("config.json"));
        assert_eq!(std::fs::read(&path).unwrap(), b"{");
    }
}
