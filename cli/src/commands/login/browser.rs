//! A log-in by a browser on this machine: the authorization code flow with PKCE (RFC 6749, 7636, 8252; OpenID Connect Core).
//!
//! ```text
//!  state, nonce, verifier: by chance ─> the address to open ─> browser, provider ─> 127.0.0.1: the code, with the same state
//!                                                                                        │
//!  ID token with the same nonce <── the provider's token endpoint, over HTTPS <── code and verifier
//! ```
//!
//! Whoever else on this machine sees the address or the code can do nothing with the code: it counts only with the verifier, which never leaves this
//! process but to the provider. The browser is not started from here: its command line would show the address to every user of the machine.

use super::landing::{Landed, Landing};
use super::provider::{Answer, Provider};
use crate::output::note;
use crate::output::table::clean;
use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use identity::{Claims, https};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// How the verifier is hidden until it is shown (RFC 7636, section 4.2).
const METHOD: &str = "S256";

/// What this log-in is known by, each 256 bits by chance.
struct Chance {
    /// Between this process and the browser's answer.
    state: String,
    /// Between this process and the ID token.
    nonce: String,
    /// Between this process and the code.
    verifier: String,
}

impl Chance {
    fn new() -> anyhow::Result<Self> {
        let random = || {
            let bytes: [u8; 32] = daemon::random::bytes().context("this machine gives no random numbers")?;
            anyhow::Ok(URL_SAFE_NO_PAD.encode(bytes))
        };
        Ok(Self { state: random()?, nonce: random()?, verifier: random()? })
    }

    fn challenge(&self) -> String {
        challenge(&self.verifier)
    }
}

/// As RFC 7636 has it, section 4.2.
fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier))
}

/// Tells the user which address to open, and waits for what comes of it: the ID token. Port 0 is any that is free.
pub(super) async fn log_in(provider: &Provider<'_>, port: u16, wait: Duration) -> anyhow::Result<String> {
    let issuer = provider.issuer;
    let endpoint = provider.about.authorization_endpoint.as_deref();
    let endpoint =
        endpoint.ok_or_else(|| anyhow!("{issuer} knows no log-in by a browser: try it without --browser"))?;
    if let Some(fault) = https::address_fault(endpoint) {
        anyhow::bail!("{issuer} would have its users log in at {}", clean(&fault));
    }
    let methods = provider.about.code_challenge_methods_supported.as_deref();
    anyhow::ensure!(
        methods.is_none_or(|methods| methods.iter().any(|method| method == METHOD)),
        "{issuer} takes no code with a proof by {METHOD} (RFC 7636): try it without --browser"
    );
    let (chance, landing) = (Chance::new()?, Landing::bind(port).await?);
    let back = landing.address();
    note(&format!("open this address in a browser on this machine:\n{}", address(provider, endpoint, &chance, &back)));
    let landed = tokio::time::timeout(wait, landing.wait(&chance.state, issuer)).await;
    let landed =
        landed.map_err(|_| anyhow!("the browser did not come back within {} s: log in again", wait.as_secs()))?;
    let code = match landed? {
        Landed::Code(code) => code,
        Landed::Refused { error, .. } if error == "access_denied" => {
            anyhow::bail!("the log-in was refused at {issuer}")
        }
        Landed::Refused { error, description } => return Err(provider.refused(&error, description.as_deref())),
        Landed::Strange(what) => anyhow::bail!("what came back to this machine is no answer to this log-in: {what}"),
    };
    redeem(provider, &code, &chance, &back).await
}

fn address(provider: &Provider<'_>, endpoint: &str, chance: &Chance, back: &str) -> String {
    let challenge = chance.challenge();
    let query = https::form(&[
        ("response_type", "code"),
        ("client_id", provider.client),
        ("redirect_uri", back),
        ("scope", provider.scope),
        ("state", &chance.state),
        ("nonce", &chance.nonce),
        ("code_challenge", &challenge),
        ("code_challenge_method", METHOD),
    ]);
    let joint = if endpoint.contains('?') { '&' } else { '?' };
    format!("{}{joint}{query}", clean(endpoint))
}

/// The ID token for a code, if it was issued for this log-in. Its signature and everything else is for the coordinators to check.
async fn redeem(provider: &Provider<'_>, code: &str, chance: &Chance, back: &str) -> anyhow::Result<String> {
    let form = [
        &provider.who()[..],
        &[
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", back),
            ("code_verifier", &chance.verifier),
        ],
    ]
    .concat();
    let text = provider.post(&provider.about.token_endpoint, &form).await?;
    let token = provider.id_token(provider.read::<Answer>("its token", "RFC 6749", &text)?)?;
    let claims = Claims::unproven(&token).map_err(|error| anyhow!("{}: its ID token: {error}", provider.issuer))?;
    anyhow::ensure!(
        claims.nonce() == Some(chance.nonce.as_str()),
        "the ID token of {} was issued for another log-in: its nonce is not the one that was sent",
        provider.issuer
    );
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_is_that_of_the_standard() {
        // RFC 7636, appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(challenge(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
