//! What callers prove themselves with, and the keys that providers publish.

use identity::{Claims, KeySet, Secret};
use std::collections::BTreeSet;

/// A token of ours, or of a provider with the cluster's authority behind it.
pub(crate) fn token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(secret) = Secret::parse(&text) else { return };
    let again = Secret::parse(&secret.expose());
    let is_same = again.is_ok_and(|again| again.kind() == secret.kind() && again.authority() == secret.authority());
    assert!(is_same, "a token that was taken is not taken again");
}

pub(crate) fn tokens() -> Vec<Vec<u8>> {
    let digits = "0f".repeat(32);
    let jwt = String::from_utf8(jwts().remove(0)).unwrap_or_default();
    let jwt = jwt.lines().last().unwrap_or_default().to_owned();
    [format!("muster_pat_{digits}.{digits}"), format!("muster_join_{digits}.{digits}\n"), format!("{jwt}.{digits}")]
        .map(String::into_bytes)
        .into()
}

/// A set of keys, and in the next line a token.
pub(crate) fn jwt(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (keys, token) = text.split_once('\n').unwrap_or(("", &text));
    if let Ok(claims) = Claims::unproven(token) {
        let _ = claims.check("https://issuer", &BTreeSet::from(["muster".to_owned()]), 1_700_000_000);
        let _ = claims.user("email").map(str::len);
        let _ = claims.groups("realm_access.roles").count();
    }
    let Ok(keys) = KeySet::parse(keys) else { return };
    // Nobody who makes up bytes has a private key.
    assert!(Claims::proven(token, &keys).is_err(), "a made-up signature is taken");
}

pub(crate) fn jwts() -> Vec<Vec<u8>> {
    // {"alg":"EdDSA"} and {"iss":"https://issuer","aud":["muster"],"exp":4102444800}, signed by nobody.
    let token = "eyJhbGciOiJFZERTQSJ9.\
        eyJpc3MiOiJodHRwczovL2lzc3VlciIsImF1ZCI6WyJtdXN0ZXIiXSwiZXhwIjo0MTAyNDQ0ODAwfQ.\
        AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let point = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let ed = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{point}","kid":"a"}}]}}"#);
    let ec = format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","x":"{point}","y":"{point}"}}]}}"#);
    let rsa = format!(r#"{{"keys":[{{"kty":"RSA","n":"{}","e":"AQAB"}}]}}"#, "_".repeat(342));
    [ed, ec, rsa].map(|keys| format!("{keys}\n{token}").into_bytes()).into()
}
