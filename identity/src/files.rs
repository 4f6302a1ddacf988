//! A node's certificate, key and authorities on disk: one file of its own, replaced whole, that only its user may read.
//!
//! ```text
//!  identity/node.pem            certificate, key           0600
//!  identity/authorities.pem     whom it believes, the one that signs now last
//!  identity/vouched.pem         what the one before it says of that one, while both count
//!  identity/authority-HASH.pem  certificate, key           0600, coordinators only
//!  identity/secrets.key         what seals secrets of jobs 0600, coordinators only; or where the operator holds it; a key a
//!                               line, while one is exchanged for another
//! ```

use crate::authority::Authority;
use crate::node::{Material, certificates, to_pem};
use crate::sealing::SealingKeys;
use crate::secret::{Fingerprint, fingerprint};
use crate::tls::TlsError;
use daemon::files::{create_private_folder, read_secret, write_atomically, write_secret};
use rustls_pki_types::CertificateDer;
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The file with the keys for secrets, among those that all coordinators have.
pub const SECRETS_KEY: &str = "secrets.key";
/// Below the data folder of a daemon.
const FOLDER: &str = "identity";

/// Why the files could not be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Reading or writing.
    #[error("cannot use {}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in them.
    #[error("{} is damaged", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: TlsError,
    },
    /// The file that is to hold the key for secrets.
    #[error("{} holds no key for secrets", .path.display())]
    SealingKey {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: crate::SealingError,
    },
}

/// Name and content of a file that all coordinators have..
pub type SharedFile = (String, Zeroizing<Vec<u8>>);

/// The folder.
#[derive(Clone, Debug)]
pub struct NodeFolder {
    path: PathBuf,
    /// Where the operator holds the key for secrets; none = in the folder.
    held: Option<PathBuf>,
}

impl NodeFolder {
    /// Below this data folder; made if need be.
    pub fn open(data: &Path) -> Result<Self, FilesError> {
        let path = data.join(FOLDER);
        create_private_folder(&path).map_err(|source| FilesError::Io { path: path.clone(), source })?;
        Ok(Self { path, held: None })
    }

    /// With the key for secrets in a file of the operator's, which is read whenever it is needed and never written.
    pub fn with_sealing_key(self, held: Option<PathBuf>) -> Self {
        Self { held, ..self }
    }

    /// Does the operator hold the key for secrets?
    pub fn sealing_key_is_held(&self) -> bool {
        self.held.is_some()
    }

    /// The keys for secrets, where they are here.
    pub fn sealing_keys(&self) -> Result<Option<SealingKeys>, FilesError> {
        let path = self.held.clone().unwrap_or_else(|| self.path.join(SECRETS_KEY));
        let read = absent(read_secret(&path)).map_err(|source| FilesError::Io { path: path.clone(), source })?;
        let Some(bytes) = read.map(Zeroizing::new) else { return Ok(None) };
        let keys = SealingKeys::parse(&String::from_utf8_lossy(&bytes));
        keys.map(Some).map_err(|source| FilesError::SealingKey { path, source })
    }

    /// Stores the keys for secrets in place of those that are there, unless the operator holds them.
    pub fn store_sealing_keys(&self, keys: &SealingKeys) -> Result<(), FilesError> {
        if self.held.is_some() {
            return Ok(());
        }
        let path = self.path.join(SECRETS_KEY);
        write_secret(&path, keys.text().as_bytes()).map_err(|source| FilesError::Io { path, source })
    }

    /// What was stored; none before the first time.
    pub fn load(&self) -> Result<Option<Material>, FilesError> {
        let path = self.path.join("node.pem");
        let Some(node) = absent(read_secret(&path)).map_err(|source| FilesError::Io { path: path.clone(), source })?
        else {
            return Ok(None);
        };
        let (trusted, vouched) = (self.authorities()?, self.vouched()?);
        let read = || {
            let certificate = certificates(&node)?.into_iter().next();
            let certificate = certificate.ok_or_else(|| TlsError::Certificate("there is none in it".into()))?;
            Material::new(certificate, key_of(&node)?, trusted, vouched)
        };
        read().map(Some).map_err(|source| FilesError::Damaged { path, source })
    }

    /// Stores it, whom it believes first: a certificate is never there without them.
    pub fn store(&self, material: &Material) -> Result<(), FilesError> {
        let texts = [("authorities.pem", to_pem(material.trusted())), ("vouched.pem", to_pem(material.vouched()))];
        for (name, text) in texts {
            let path = self.path.join(name);
            write_atomically(&path, text.as_bytes()).map_err(|source| FilesError::Io { path, source })?;
        }
        let path = self.path.join("node.pem");
        let text = format!("{}{}", to_pem([material.certificate()]), material.key_pem());
        write_secret(&path, text.as_bytes()).map_err(|source| FilesError::Io { path, source })
    }

    /// What the authority before says of the one that signs, while both count.
    pub fn vouched(&self) -> Result<Option<CertificateDer<'static>>, FilesError> {
        Ok(self.several("vouched.pem")?.into_iter().next())
    }

    /// What a coordinator needs to be one of its cluster, apart from its own certificate: names and contents of files.
    pub fn shared_files(&self) -> Result<Vec<SharedFile>, FilesError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| FilesError::Io { path, source }
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(failed(&self.path))? {
            let path = entry.map_err(failed(&self.path))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| is_shared(name)) else {
                continue;
            };
            let bytes = std::fs::read(&path).map_err(failed(&path))?;
            files.push((name.to_owned(), Zeroizing::new(bytes)));
        }
        files.sort_by(|left, right| left.0.cmp(&right.0));
        Ok(files)
    }

    /// Stores one of these. Another name is refused.
    pub fn store_shared_file(&self, name: &str, bytes: &[u8]) -> Result<(), FilesError> {
        let path = self.path.join(name);
        if !is_shared(name) {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "no such file belongs there");
            return Err(FilesError::Io { path, source });
        }
        write_secret(&path, bytes).map_err(|source| FilesError::Io { path, source })
    }

    /// Whom the node believes.
    pub fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, FilesError> {
        self.several("authorities.pem")
    }

    fn several(&self, name: &str) -> Result<Vec<CertificateDer<'static>>, FilesError> {
        let path = self.path.join(name);
        let read = absent(std::fs::read(&path)).map_err(|source| FilesError::Io { path: path.clone(), source })?;
        certificates(&read.unwrap_or_default()).map_err(|source| FilesError::Damaged { path, source })
    }

    /// An authority by its fingerprint, where its key is here.
    pub fn authority(&self, which: Fingerprint) -> Result<Option<Authority>, FilesError> {
        let path = self.authority_path(which);
        let Some(bytes) = absent(read_secret(&path)).map_err(|source| FilesError::Io { path: path.clone(), source })?
        else {
            return Ok(None);
        };
        let read = || {
            let certificate = certificates(&bytes)?.into_iter().next();
            let certificate = certificate.ok_or_else(|| TlsError::Certificate("there is none in it".into()))?;
            if fingerprint(&certificate) != which {
                return Err(TlsError::Certificate("it is another authority's".into()));
            }
            Authority::load(certificate, &key_of(&bytes)?)
        };
        read().map(Some).map_err(|source| FilesError::Damaged { path, source })
    }

    /// Stores an authority with its key.
    pub fn store_authority(&self, authority: &Authority) -> Result<(), FilesError> {
        let path = self.authority_path(fingerprint(authority.certificate()));
        let text = format!("{}{}", to_pem([authority.certificate()]), authority.key_pem());
        write_secret(&path, text.as_bytes()).map_err(|source| FilesError::Io { path, source })
    }

    /// Removes the keys of all authorities but these.
    pub fn forget_authorities_but(&self, kept: &[Fingerprint]) -> Result<(), FilesError> {
        let kept: Vec<PathBuf> = kept.iter().map(|one| self.authority_path(*one)).collect();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| FilesError::Io { path, source }
        };
        for entry in std::fs::read_dir(&self.path).map_err(failed(&self.path))? {
            let path = entry.map_err(failed(&self.path))?.path();
            let is_authority = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"authority-"));
            if is_authority && !kept.contains(&path) {
                std::fs::remove_file(&path).map_err(failed(&path))?;
            }
        }
        Ok(())
    }

    fn authority_path(&self, which: Fingerprint) -> PathBuf {
        self.path.join(format!("authority-{}.pem", &which.to_string()[..16]))
    }
}

fn is_shared(name: &str) -> bool {
    let authority = name.strip_prefix("authority-").and_then(|rest| rest.strip_suffix(".pem"));
    let is_authority =
        authority.is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
    is_authority || ["authorities.pem", "vouched.pem", SECRETS_KEY].contains(&name)
}

fn absent<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// The private key's part of a PEM file.
fn key_of(bytes: &[u8]) -> Result<String, TlsError> {
    let bad = || TlsError::Certificate("there is no private key in it".into());
    let blocks = pem::parse_many(bytes).map_err(|_| bad())?;
    let key = blocks.iter().find(|block| block.tag() == "PRIVATE KEY").ok_or_else(bad)?;
    Ok(pem::encode(key))
}
