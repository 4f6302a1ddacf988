//! Which store it is: its address, and the operator's file of options that prove who asks.

use super::http::Connector;
use super::words;
use crate::config::{Config, ConfigError};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreScheme, RetryConfig};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Times that a request is repeated which the store did not take, and for how long.
const REPEATED_MAX: usize = 4;
const REPEATED_FOR_MAX: Duration = Duration::from_secs(30);
/// Lines of options.
const OPTIONS_MAX: usize = 64;

/// What an address may be.
const KINDS: &str = "it is one of s3://BUCKET/PREFIX, az://CONTAINER/PREFIX, gs://BUCKET/PREFIX, file:///FOLDER";

/// A store, and where in it.
type Place = (Arc<dyn ObjectStore>, Path);

/// What the flags say and the files hold: all that is wrong with it, before anything runs. Nothing is asked of the store.
pub(crate) fn check(config: &Config) -> Result<(), ConfigError> {
    let mut faults = Vec::new();
    let scheme = match config.object_store.as_deref().map(parse_url).transpose() {
        Ok(parsed) => parsed.map(|(_, scheme, _)| scheme),
        Err(fault) => {
            faults.push(format!("--object-store: {fault}"));
            None
        }
    };
    match config.object_store_options.as_deref().map(options).transpose() {
        Ok(options) => {
            let options = options.unwrap_or_default();
            faults.extend(scheme.iter().flat_map(|scheme| unknown(scheme, &options)));
        }
        Err(fault) => faults.push(format!("--object-store-options: {fault}")),
    }
    if faults.is_empty() { Ok(()) } else { Err(ConfigError(faults)) }
}

pub(super) async fn open(url: &str, file: Option<&FilePath>) -> Result<Place, String> {
    let (url, scheme, path) = parse_url(url)?;
    let options = file.map(options).transpose()?.unwrap_or_default();
    if let Some(fault) = unknown(&scheme, &options).first() {
        return Err(fault.clone());
    }
    let connector = Connector::new().await?;
    let store = match scheme {
        ObjectStoreScheme::Local => return shared_folder(&url),
        ObjectStoreScheme::AmazonS3 => s3(&url, &options, connector),
        ObjectStoreScheme::MicrosoftAzure => azure(&url, &options, connector),
        ObjectStoreScheme::GoogleCloudStorage => google(&url, &options, connector),
        _ => return Err(unknown_scheme(&url)),
    };
    Ok((store.map_err(|error| words(&error))?, path))
}

fn parse_url(text: &str) -> Result<(Url, ObjectStoreScheme, Path), String> {
    // Not shown before it is known to prove nothing.
    let url: Url = text.parse().map_err(|error| format!("it is no address: {error}; {KINDS}"))?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        let why = "an address with a user, a password, a query or a fragment";
        return Err(format!("{why}: what proves who asks goes into --object-store-options"));
    }
    let (scheme, path) = ObjectStoreScheme::parse(&url).map_err(|_| unknown_scheme(&url))?;
    match scheme {
        ObjectStoreScheme::Local
        | ObjectStoreScheme::AmazonS3
        | ObjectStoreScheme::MicrosoftAzure
        | ObjectStoreScheme::GoogleCloudStorage => Ok((url, scheme, path)),
        _ => Err(unknown_scheme(&url)),
    }
}

fn unknown_scheme(url: &Url) -> String {
    format!("{:?} is none; {KINDS}", url.as_str())
}

/// Lines `name = value` of a file of its user's own. No value is in an error.
fn options(file: &FilePath) -> Result<Vec<(String, String)>, String> {
    let bytes = daemon::files::read_secret(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{}: it is no text", file.display()))?;
    parse_options(&text).map_err(|faults| format!("{}: {}", file.display(), faults.join("; ")))
}

fn parse_options(text: &str) -> Result<Vec<(String, String)>, Vec<String>> {
    let (mut options, mut faults) = (Vec::new(), Vec::new());
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once('=').map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned())) {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => options.push((name, value)),
            _ => faults.push(format!("line {number}: no option; it is `name = value`")),
        }
    }
    if options.len() > OPTIONS_MAX {
        faults.push(format!("{} options, more than {OPTIONS_MAX}", options.len()));
    }
    if faults.is_empty() { Ok(options) } else { Err(faults) }
}

/// Options that such a store does not have, or that are about connections, which are Muster's own.
fn unknown(scheme: &ObjectStoreScheme, options: &[(String, String)]) -> Vec<String> {
    let is_known = |name: &str| match scheme {
        ObjectStoreScheme::AmazonS3 => {
            name.parse().is_ok_and(|key| !matches!(key, AmazonS3ConfigKey::Client(_) | AmazonS3ConfigKey::Bucket))
        }
        ObjectStoreScheme::MicrosoftAzure => {
            name.parse().is_ok_and(|key| !matches!(key, AzureConfigKey::Client(_) | AzureConfigKey::ContainerName))
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            name.parse().is_ok_and(|key| !matches!(key, GoogleConfigKey::Client(_) | GoogleConfigKey::Bucket))
        }
        _ => false,
    };
    let unknown = options.iter().filter(|(name, _)| !is_known(name));
    unknown.map(|(name, _)| format!("such a store has no option {name:?}")).collect()
}

fn retry() -> RetryConfig {
    RetryConfig { max_retries: REPEATED_MAX, retry_timeout: REPEATED_FOR_MAX, ..RetryConfig::default() }
}

/// The connector refuses plain HTTP to other machines, whatever the builder permits.
fn s3(url: &Url, options: &[(String, String)], connector: Connector) -> object_store::Result<Arc<dyn ObjectStore>> {
    let builder = AmazonS3Builder::new().with_url(url.as_str()).with_allow_http(true).with_retry(retry());
    let mut builder = builder.with_checksum_algorithm(Checksum::SHA256).with_http_connector(connector);
    for (name, value) in options {
        builder = builder.with_config(name.parse()?, value);
    }
    Ok(Arc::new(builder.build()?))
}

fn azure(url: &Url, options: &[(String, String)], connector: Connector) -> object_store::Result<Arc<dyn ObjectStore>> {
    let builder = MicrosoftAzureBuilder::new().with_url(url.as_str()).with_allow_http(true).with_retry(retry());
    let mut builder = builder.with_http_connector(connector);
    for (name, value) in options {
        builder = builder.with_config(name.parse()?, value);
    }
    Ok(Arc::new(builder.build()?))
}

fn google(url: &Url, options: &[(String, String)], connector: Connector) -> object_store::Result<Arc<dyn ObjectStore>> {
    let mut builder = GoogleCloudStorageBuilder::new().with_url(url.as_str()).with_retry(retry());
    builder = builder.with_http_connector(connector);
    for (name, value) in options {
        builder = builder.with_config(name.parse()?, value);
    }
    Ok(Arc::new(builder.build()?))
}

/// A folder that is there: one that is not may be a disk that is not mounted.
fn shared_folder(url: &Url) -> Result<Place, String> {
    let folder: PathBuf = url.to_file_path().map_err(|()| unknown_scheme(url))?;
    if !folder.is_dir() {
        return Err(format!("{} is no folder: make it, or mount it", folder.display()));
    }
    let store = LocalFileSystem::new_with_prefix(&folder).map_err(|error| words(&error))?;
    Ok((Arc::new(store.with_fsync(true)), Path::default()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_kind_of_store_and_proves_nothing() {
        for good in ["s3://models/muster", "az://models", "gs://models/a/b", "file:///mnt/shared"] {
            assert!(parse_url(good).is_ok(), "{good}");
        }
        for bad in [
            "models",
            "http://h/b",
            "https://h/b",
            "ftp://h/b",
            "memory:///x",
            "s3://key:s3cret@b/p",
            "s3://key:s3cret@",
            "s3cret",
            "gs://b/p#s3cret",
            "az://c/p?sig=s3cret",
        ] {
            let fault = parse_url(bad).map(drop).unwrap_err();
            assert!(!fault.contains("s3cret"), "{fault}");
        }
    }

    #[test]
    fn options_are_read_and_faults_show_no_value() {
        let options = parse_options("# of the lab\n\nACCESS_KEY_ID = k\nsecret_access_key=s3=cret\n").unwrap();
        assert_eq!(options[1], ("secret_access_key".to_owned(), "s3=cret".to_owned()));
        assert!(unknown(&ObjectStoreScheme::AmazonS3, &options).is_empty());
        assert_eq!(unknown(&ObjectStoreScheme::GoogleCloudStorage, &options).len(), 2);
        let connections = parse_options("proxy_url=http://p\nallow_http=true\nbucket=other").unwrap();
        assert_eq!(unknown(&ObjectStoreScheme::AmazonS3, &connections).len(), 3);
        let faults = parse_options("s3cret\n= s3cret\nendpoint =\n").unwrap_err();
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[2].starts_with("line 3") && !faults.join("").contains("s3cret"), "{faults:?}");
        assert!(parse_options(&"a=b\n".repeat(OPTIONS_MAX + 1)).is_err());
    }

    #[tokio::test]
    async fn a_shared_folder_must_be_there() {
        let fault = open("file:///nowhere/at-all", None).await.map(drop).unwrap_err();
        assert!(fault.contains("mount it"), "{fault}");
    }
}
