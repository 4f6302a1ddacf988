//! Secrets of jobs. Values go in and never come out to a person.

use crate::call::timed;
use crate::error::Error;
use crate::pool::Client;
use crate::v1;
use proto::v1::secrets_client::SecretsClient;

impl Client {
    /// Makes a secret, or gives one another value.
    pub async fn set_secret(&self, wanted: v1::SetSecretRequest) -> Result<v1::SecretInfo, Error> {
        self.call(|channel, span| {
            let request = timed(wanted.clone(), span);
            async move { SecretsClient::new(channel).set(request).await }
        })
        .await
    }

    /// Those that the caller may give to a job, by name.
    pub async fn secrets(&self) -> Result<Vec<v1::SecretInfo>, Error> {
        let asked = self.ask(|channel, span| {
            let request = timed(v1::ListSecretsRequest {}, span);
            async move { SecretsClient::new(channel).list(request).await }
        });
        Ok(asked.await?.secrets)
    }

    /// Changes who else may give it to their jobs.
    pub async fn share_secret(&self, wanted: v1::ShareSecretRequest) -> Result<v1::SecretInfo, Error> {
        self.call(|channel, span| {
            let request = timed(wanted.clone(), span);
            async move { SecretsClient::new(channel).share(request).await }
        })
        .await
    }

    /// Exchanges the key under which values are sealed. What names the new one, and how many values this call sealed again.
    pub async fn rekey_secrets(&self) -> Result<v1::RekeySecretsResponse, Error> {
        let listed = self.ask(|channel, span| {
            let request = timed(v1::ListSecretsRequest {}, span);
            async move { SecretsClient::new(channel).list(request).await }
        });
        let replaces = listed.await?.key;
        self.call(|channel, span| {
            let request = timed(v1::RekeySecretsRequest { replaces: replaces.clone() }, span);
            async move { SecretsClient::new(channel).rekey(request).await }
        })
        .await
    }

    /// Forgets a secret.
    pub async fn remove_secret(&self, name: &str) -> Result<(), Error> {
        let asked = self.call(|channel, span| {
            let request = timed(v1::RemoveSecretRequest { name: name.to_owned() }, span);
            async move { SecretsClient::new(channel).remove(request).await }
        });
        asked.await.map(|_| ())
    }
}
