//! JSON Web Tokens of an identity provider: its published keys (RFC 7517), the signature over a token (RFC 7515), and what the
//! token claims (RFC 7519), as OpenID Connect 1.0 asks to check it.
//!
//! Only signatures that a public key proves: RSA (PKCS #1 v1.5 and PSS), ECDSA P-256 and P-384, Ed25519. `none` and the HMAC family are no
//! algorithms here, and a key serves those of its own kind only, so none can be exchanged for another.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Longest token that is looked at.
pub const JWT_BYTES_MAX: usize = 8 << 10;
/// Seconds by which another clock may be ahead of ours.
const SKEW_SECONDS: u64 = 60;
/// Keys of one provider.
const KEYS_MAX: usize = 64;
/// Bits of an RSA modulus.
const RSA_BITS_MIN: usize = 2_048;

/// True for what looks like a token of this kind: three parts in base64url, the first a JSON object.
pub fn is_jwt(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.starts_with("eyJ") && text.bytes().filter(|byte| *byte == b'.').count() == 2 && text.bytes().all(plain)
}

/// Why a token is refused, in words that its owner can use; nothing of the signature is in them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Not one at all.
    #[error("it is no JSON Web Token: {0}")]
    Form(&'static str),
    /// Not one of those that are taken.
    #[error("its algorithm {0:?} is not taken: RS256, PS256, ES256, EdDSA and their longer forms are")]
    Algorithm(String),
    /// The provider has published no such key, or not yet as far as is known here.
    #[error("its provider has no key {0:?} for it")]
    UnknownKey(String),
    /// The bytes were changed, or another key signed.
    #[error("its signature is not its provider's")]
    Signature,
    /// What it claims does not let anybody in here and now.
    #[error("{0}")]
    Claims(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Published {
    id: Option<String>,
    algorithm: Option<String>,
    key: Key,
}

/// The public keys of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet(Vec<Published>);

#[derive(Deserialize)]
struct SetForm {
    keys: Vec<KeyForm>,
}

#[derive(Deserialize)]
struct KeyForm {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

impl KeySet {
    /// Reads a set as a provider publishes it. Keys that are of no use here are passed over; one at least must be of use.
    pub fn parse(text: &str) -> Result<Self, String> {
        let set: SetForm = serde_json::from_str(text).map_err(|error| format!("it is no set of keys: {error}"))?;
        if set.keys.len() > KEYS_MAX {
            return Err(format!("it has {} keys, more than {KEYS_MAX}", set.keys.len()));
        }
        let keys: Vec<Published> = set.keys.into_iter().filter_map(published).collect();
        if keys.is_empty() {
            return Err("it has no key that proves a signature: RSA from 2048 bits, P-256, P-384 or Ed25519".to_owned());
        }
        Ok(Self(keys))
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

fn published(form: KeyForm) -> Option<Published> {
    if form.usage.is_some_and(|usage| usage != "sig") {
        return None;
    }
    let part = |part: &Option<String>| decode(part.as_deref()?);
    let point = |length: usize| {
        let (x, y) = (part(&form.x)?, part(&form.y)?);
        (x.len() == length && y.len() == length).then(|| [&[4][..], &x, &y].concat())
    };
    let key = match (form.kty.as_str(), form.crv.as_deref()) {
        ("RSA", _) => {
            let (n, e) = (part(&form.n)?, part(&form.e)?);
            let zeros = n.iter().take_while(|byte| **byte == 0).count();
            let n = n[zeros..].to_vec();
            (n.len() * 8 >= RSA_BITS_MIN).then_some(Key::Rsa { n, e })?
        }
        ("EC", Some("P-256")) => Key::P256(point(32)?),
        ("EC", Some("P-384")) => Key::P384(point(48)?),
        ("OKP", Some("Ed25519")) => Key::Ed25519(part(&form.x).filter(|x| x.len() == 32)?),
        _ => return None,
    };
    Some(Published { id: form.kid, algorithm: form.alg, key })
}

/// Does a key of this kind make signatures of this algorithm?
fn serves(key: &Key, algorithm: &str) -> bool {
    match key {
        Key::Rsa { .. } => matches!(algorithm, "RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512"),
        Key::P256(_) => algorithm == "ES256",
        Key::P384(_) => algorithm == "ES384",
        Key::Ed25519(_) => algorithm == "EdDSA",
    }
}

fn is_signed(key: &Key, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
    let rsa = match algorithm {
        "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
        _ => &signature::RSA_PSS_2048_8192_SHA512,
    };
    match key {
        Key::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(rsa, message, signature).is_ok(),
        Key::P256(point) => {
            UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
        }
        Key::P384(point) => {
            UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, signature).is_ok()
        }
        Key::Ed25519(key) => UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature).is_ok(),
    }
}

/// What a token says, proven or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims(Map<String, Value>);

fn parts(token: &str) -> Result<(Header, &str, &str, &str), JwtError> {
    if token.len() > JWT_BYTES_MAX {
        return Err(JwtError::Form("it is longer than 8 KiB"));
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Form("it has no signature"))?;
    let (header, claims) = signed.split_once('.').ok_or(JwtError::Form("it has no claims"))?;
    let header = decode(header).ok_or(JwtError::Form("its header is no base64url"))?;
    let header: Header =
        serde_json::from_slice(&header).map_err(|_| JwtError::Form("its header is not as it must be"))?;
    if header.crit.is_some() {
        return Err(JwtError::Form("its header asks for what is not known here"));
    }
    Ok((header, claims, signed, signature))
}

impl Claims {
    /// What the token says of itself, proven by nothing: to find its provider.
    pub fn unproven(token: &str) -> Result<Self, JwtError> {
        let (_, claims, ..) = parts(token)?;
        Self::read(claims)
    }

    /// What the token says, signed by one of these keys.
    pub fn proven(token: &str, keys: &KeySet) -> Result<Self, JwtError> {
        let (header, claims, signed, signature) = parts(token)?;
        let algorithm = header.alg.as_str();
        let any = Key::Rsa { n: Vec::new(), e: Vec::new() };
        if !serves(&any, algorithm) && !matches!(algorithm, "ES256" | "ES384" | "EdDSA") {
            return Err(JwtError::Algorithm(algorithm.chars().take(16).collect()));
        }
        let signature = decode(signature).ok_or(JwtError::Form("its signature is no base64url"))?;
        let named = |known: &&Published| header.kid.is_none() || known.id == header.kid;
        let fits = |known: &&Published| {
            serves(&known.key, algorithm) && known.algorithm.as_deref().is_none_or(|only| only == algorithm)
        };
        let mut candidates = keys.0.iter().filter(named).filter(fits).peekable();
        if candidates.peek().is_none() {
            return Err(JwtError::UnknownKey(header.kid.unwrap_or_default().chars().take(64).collect()));
        }
        if !candidates.any(|known| is_signed(&known.key, algorithm, signed.as_bytes(), &signature)) {
            return Err(JwtError::Signature);
        }
        Self::read(claims)
    }

    fn read(claims: &str) -> Result<Self, JwtError> {
        let claims = decode(claims).ok_or(JwtError::Form("its claims are no base64url"))?;
        serde_json::from_slice(&claims).map(Self).map_err(|_| JwtError::Form("its claims are no JSON object"))
    }

    /// Who issued it, as it says.
    pub fn issuer(&self) -> Option<&str> {
        self.0.get("iss")?.as_str()
    }

    /// What the log-in that it was issued for was begun with.
    pub fn nonce(&self) -> Option<&str> {
        self.0.get("nonce")?.as_str()
    }

    /// Is it of this issuer, for one of these audiences, and does it count now? Answers with its end in seconds since 1970.
    pub fn check(&self, issuer: &str, audiences: &BTreeSet<String>, now_seconds: u64) -> Result<u64, JwtError> {
        let fault = |text: String| Err::<u64, _>(JwtError::Claims(text));
        if self.issuer() != Some(issuer) {
            return fault(format!("it is not of issuer {issuer:?}"));
        }
        if !strings(self.0.get("aud")).any(|audience| audiences.contains(audience)) {
            return fault("it is for another audience".to_owned());
        }
        let date = |name: &str| match self.0.get(name) {
            None => Ok(None),
            // A date is a number of seconds, fractions allowed; anything else must not count as none.
            Some(value) => match value.as_f64() {
                Some(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(Some(seconds as u64)),
                _ => fault(format!("its {name:?} is no date")).map(Some),
            },
        };
        let Some(end) = date("exp")? else { return fault("it has no end (\"exp\")".to_owned()) };
        if end <= now_seconds {
            return fault(format!("it expired {} s ago", now_seconds - end));
        }
        for name in ["nbf", "iat"] {
            if date(name)?.is_some_and(|from| from > now_seconds + SKEW_SECONDS) {
                return fault(format!("it counts only later (its {name:?})"));
            }
        }
        Ok(end)
    }

    /// The user by this claim. An address that its provider has not verified is nobody's.
    pub fn user(&self, claim: &str) -> Result<&str, JwtError> {
        let missing = || JwtError::Claims(format!("it has no claim {claim:?} to tell a user by"));
        let user = self.at(claim).and_then(Value::as_str).filter(|user| !user.is_empty()).ok_or_else(missing)?;
        if claim == "email" && self.0.get("email_verified").is_some_and(|verified| *verified != Value::Bool(true)) {
            return Err(JwtError::Claims("its address is not verified".to_owned()));
        }
        Ok(user)
    }

    /// The user's groups by this claim, whose name may lead into objects by points; none without it.
    pub fn groups(&self, claim: &str) -> impl Iterator<Item = &str> {
        strings(self.at(claim))
    }

    /// By its name, or by a path of names: `realm_access.roles`.
    fn at(&self, claim: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(claim) {
            return Some(value);
        }
        let mut names = claim.split('.');
        let first = self.0.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    }
}

/// One text, or each text of a list.
fn strings(value: Option<&Value>) -> impl Iterator<Item = &str> {
    let one = value.and_then(Value::as_str);
    let list = value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    one.into_iter().chain(list)
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
