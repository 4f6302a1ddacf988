//! What a person or program has to call a cluster: addresses, a token, and the fingerprint of its authority, as one file.

use crate::dial::{Authorized, Bearer, Dialer};
use crate::secret::{Fingerprint, Secret};
use crate::tls::TlsError;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Endpoint;

/// Of one cluster. Cloning shares nothing; there is no `Debug`, for it holds a token.
#[derive(Clone)]
pub struct Credentials {
    /// `host:port` of coordinators.
    pub coordinators: Vec<String>,
    /// The token, with its cluster's fingerprint.
    pub token: Secret,
}

/// As JSON on disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    coordinators: Vec<String>,
    token: String,
}

/// Why a file of credentials could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Reading or writing.
    #[error("cannot use {}", .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not what was written.
    #[error("{} holds no credentials: {why}", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why; never what it holds.
        why: String,
    },
}

/// `Bearer TOKEN`, marked so that it is not shown by accident.
pub(crate) fn bearer_value(token: &Secret) -> Result<AsciiMetadataValue, tonic::Status> {
    let mut value: AsciiMetadataValue =
        format!("Bearer {}", token.bearer()).parse().map_err(|_| tonic::Status::internal("a token is plain text"))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Credentials {
    /// Reads a file that `store` wrote; refuses one that others may read.
    pub fn load(path: &Path) -> Result<Self, CredentialsError> {
        let bytes = daemon::files::read_secret(path)
            .map_err(|source| CredentialsError::Io { path: path.to_owned(), source })?;
        let damaged = |why: String| CredentialsError::Damaged { path: path.to_owned(), why };
        let file: File = serde_json::from_slice(&bytes)
            .map_err(|error| damaged(format!("line {}, column {}", error.line(), error.column())))?;
        let token = Secret::parse(&file.token).map_err(|error| damaged(error.to_string()))?;
        Ok(Self { coordinators: file.coordinators, token })
    }

    /// Writes a file for its owner alone.
    pub fn store(&self, path: &Path) -> Result<(), CredentialsError> {
        let file = File { coordinators: self.coordinators.clone(), token: self.token.expose() };
        let failed = |source| CredentialsError::Io { path: path.to_owned(), source };
        let mut text = serde_json::to_vec_pretty(&file).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        daemon::files::write_secret(path, &text).map_err(failed)
    }

    /// Puts the token on a call.
    pub fn authorize(&self, metadata: &mut tonic::metadata::MetadataMap) -> Result<(), tonic::Status> {
        metadata.insert("authorization", bearer_value(&self.token)?);
        Ok(())
    }

    /// The authority that the cluster must have.
    pub fn authority(&self) -> Fingerprint {
        self.token.authority()
    }

    /// A channel to one of its coordinators, with the token on every call.
    pub fn lazy(&self, endpoint: &Endpoint) -> Result<Authorized, tonic::Status> {
        let dialer = self.dialer().map_err(|error| tonic::Status::internal(error.to_string()))?;
        Ok(Authorized::new(dialer.lazy(endpoint), Bearer::new(&self.token)?))
    }

    /// To its coordinators.
    pub fn dialer(&self) -> Result<Dialer, TlsError> {
        Dialer::pinned(&[self.authority()])
    }
}
