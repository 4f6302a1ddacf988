//! Secrets of a job: asked of a coordinator when a member is prepared, given to the ranks' supervisors in memory, and never
//! written to a disk of this machine.

use identity::Dialer;
use proto::v1::TakeSecretsRequest;
use proto::v1::secrets_client::SecretsClient;
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Code;
use types::{Limits, Wish};
use zeroize::Zeroizing;

/// Longest wait for one coordinator's answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Rounds over all coordinators before it is given up.
const ROUNDS: u32 = 6;
const ROUND_WAIT: Duration = Duration::from_millis(250);
/// A gift of more bytes is nobody's of ours.
const GIFT_BYTES_MAX: u64 = 2 * (Limits::SECRETS_OF_JOB_MAX * Limits::SECRET_BYTES_MAX) as u64;

/// Variables of a rank with their values. No `Debug` of a value, and gone from memory when it is dropped.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Vec<(String, Zeroizing<Vec<u8>>)>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(variable, _)| variable)).finish()
    }
}

impl Secrets {
    #[cfg(test)]
    pub(crate) fn of(all: &[(&str, &str)]) -> Self {
        Self(all.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec().into())).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each variable with its value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(variable, value)| (variable.as_str(), value.as_slice()))
    }

    /// The value of this variable, as a file in memory that nobody can change and its owner alone may read; it is gone with the last
    /// process that holds it.
    pub(crate) fn file_of(&self, variable: &str, owner: Option<(u32, u32)>) -> io::Result<OwnedFd> {
        use rustix::fs::SealFlags;
        let missing = || io::Error::other(format!("there is no secret for variable {variable}"));
        let (_, value) = self.iter().find(|(known, _)| *known == variable).ok_or_else(missing)?;
        let memory = rustix::fs::memfd_create("secret", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut file = File::from(memory);
        file.write_all(value)?;
        rustix::fs::fchmod(&file, rustix::fs::Mode::RUSR)?;
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(file.into())
    }

    /// As a file in memory, for a process that inherits nothing else of this one; none when there is nothing to give.
    pub(crate) fn gift(&self) -> io::Result<Option<OwnedFd>> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut file = File::from(rustix::fs::memfd_create("secrets", MemfdFlags::CLOEXEC)?);
        let all: Vec<(&str, &[u8])> = self.iter().collect();
        file.write_all(&Zeroizing::new(postcard::to_stdvec(&all).map_err(io::Error::other)?))?;
        Ok(Some(file.into()))
    }

    /// What `gift` made.
    pub(crate) fn receive(gift: OwnedFd) -> io::Result<Self> {
        let (mut file, mut bytes) = (File::from(gift), Zeroizing::new(Vec::new()));
        file.rewind()?;
        file.take(GIFT_BYTES_MAX).read_to_end(&mut bytes)?;
        let all: Vec<(String, Vec<u8>)> = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
        Ok(Self(all.into_iter().map(|(variable, value)| (variable, value.into())).collect()))
    }
}

/// Why a job's secrets did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    /// The same everywhere: they are not there for this job any more, or were altered.
    #[error("{0}")]
    Refused(String),
    /// Nobody could answer.
    #[error("no coordinator could give the job's secrets: {0}")]
    Unreachable(String),
}

/// Where they come from.
#[derive(Debug)]
pub(crate) struct Source {
    coordinators: watch::Receiver<Vec<String>>,
    dialer: Dialer,
}

impl Source {
    pub(crate) fn new(coordinators: watch::Receiver<Vec<String>>, dialer: Dialer) -> Self {
        Self { coordinators, dialer }
    }

    /// All that the member's ranks are to have.
    pub(crate) async fn take(&self, wish: &Wish) -> Result<Secrets, TakeError> {
        if wish.spec.secrets.is_empty() {
            return Ok(Secrets::default());
        }
        let mut reason = "none is known".to_owned();
        for round in 0..ROUNDS {
            if round > 0 {
                tokio::time::sleep(ROUND_WAIT * 2_u32.pow(round - 1)).await;
            }
            let coordinators = self.coordinators.borrow().clone();
            for address in coordinators {
                match timeout(ANSWER_MAX, self.ask(&address, wish)).await {
                    Ok(Ok(secrets)) => return Ok(secrets),
                    Ok(Err(refused @ TakeError::Refused(_))) => return Err(refused),
                    Ok(Err(TakeError::Unreachable(why))) => reason = format!("{address}: {why}"),
                    Err(_) => reason = format!("{address}: no answer within {ANSWER_MAX:?}"),
                }
            }
        }
        Err(TakeError::Unreachable(reason))
    }

    async fn ask(&self, address: &str, wish: &Wish) -> Result<Secrets, TakeError> {
        let connected = crate::dial::connect(&self.dialer, address).await;
        let channel = connected.map_err(|error| TakeError::Unreachable(identity::chain_of(&error)))?;
        let mut client = SecretsClient::new(channel).max_decoding_message_size(Limits::MESSAGE_BYTES_MAX);
        let request = TakeSecretsRequest { job_id: wish.key.job.0, token: wish.token.0 };
        let answer = client.take(request).await.map_err(|status| match status.code() {
            Code::FailedPrecondition => TakeError::Refused(status.message().to_owned()),
            _ => TakeError::Unreachable(status.message().to_owned()),
        })?;
        let all = answer.into_inner().variables;
        Ok(Secrets(all.into_iter().map(|(variable, value)| (variable, value.to_vec().into())).collect()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_gift_arrives_as_it_was_given_and_says_nothing_of_itself() {
        let secrets = Secrets::of(&[("TOKEN", "hunter2-hunter2"), ("OTHER", "line one\nline two\n")]);
        let received = Secrets::receive(secrets.gift().unwrap().unwrap()).unwrap();
        assert!(received.iter().eq(secrets.iter()));
        assert_eq!(format!("{received:?}"), r#"["TOKEN", "OTHER"]"#);
    }

    #[test]
    fn a_file_of_a_secret_is_its_owners_to_read_and_nobodys_to_change() {
        use std::os::unix::fs::MetadataExt as _;
        let secrets = Secrets::of(&[("TOKEN", "hunter2-hunter2"), ("OTHER", "line one\nline two\n")]);
        let file = File::from(secrets.file_of("OTHER", None).unwrap());
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line one\nline two\n");
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o400);
        assert!((&file).write_all(b"x").is_err() && file.set_len(0).is_err(), "it is sealed");
        assert!(secrets.file_of("MISSING", None).is_err());
        assert!(Secrets::default().gift().unwrap().is_none());
    }
}
