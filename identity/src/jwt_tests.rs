//! Tokens of a provider that is made here, and everything that must not pass for one.
#![allow(clippy::unwrap_used)]

use super::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::json;

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

struct Provider {
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Provider {
    fn new() -> Self {
        let random = SystemRandom::new();
        let kind = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let ec = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self {
            ec: EcdsaKeyPair::from_pkcs8(kind, ec.as_ref(), &random).unwrap(),
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
        }
    }

    fn set(&self) -> Value {
        let point = &self.ec.public_key().as_ref()[1..];
        json!({ "keys": [
            { "kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "x": encode(&point[..32]), "y": encode(&point[32..]) },
            { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encode(self.ed.public_key()) },
            { "kty": "oct", "kid": "shared", "k": encode(b"a secret that both have") },
        ]})
    }

    fn keys(&self) -> KeySet {
        KeySet::parse(&self.set().to_string()).unwrap()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = match header["alg"].as_str() {
            Some("EdDSA") => self.ed.sign(signed.as_bytes()).as_ref().to_vec(),
            _ => self.ec.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{signed}.{}", encode(signature))
    }
}

fn claims() -> Value {
    json!({ "iss": "https://idp.example", "aud": ["other", "muster"], "sub": "7", "exp": 2_000, "iat": 1_000.5, "nbf": 1_000 })
}

#[test]
fn a_token_of_the_provider_counts_with_each_kind_of_key() {
    let provider = Provider::new();
    for header in [json!({"alg": "ES256", "kid": "ec"}), json!({"alg": "EdDSA", "kid": "ed"}), json!({"alg": "ES256"})]
    {
        let token = provider.sign(&header, &claims());
        assert!(is_jwt(&token));
        let proven = Claims::proven(&token, &provider.keys()).unwrap();
        assert_eq!(proven, Claims::unproven(&token).unwrap());
        assert_eq!(proven.user("sub").unwrap(), "7");
        assert_eq!(proven.check("https://idp.example", &BTreeSet::from(["muster".into()]), 1_999), Ok(2_000));
    }
}

#[test]
fn an_rsa_key_serves_and_a_short_one_does_not() {
    // From RFC 7515, A.2: its key, its token, its signature.
    let n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let keys = |n: &str| KeySet::parse(&json!({"keys": [{"kty": "RSA", "n": n, "e": "AQAB"}]}).to_string());
    assert_eq!(Claims::proven(token, &keys(n).unwrap()).unwrap().issuer(), Some("joe"));
    let bent = token.replace("cC4hi", "cC4hj");
    assert_eq!(Claims::proven(&bent, &keys(n).unwrap()), Err(JwtError::Signature));
    assert!(keys(&n[..300]).is_err());
}

#[test]
fn what_its_provider_did_not_sign_is_refused() {
    let provider = Provider::new();
    let good = provider.sign(&json!({"alg": "ES256", "kid": "ec"}), &claims());
    let refused = |token: &str| Claims::proven(token, &provider.keys()).unwrap_err();
    let with_header = |header: Value| {
        let (_, rest) = good.split_once('.').unwrap();
        format!("{}.{rest}", encode(header.to_string()))
    };
    // No signature at all, and the public key as a shared secret.
    for algorithm in ["none", "None", "HS256", "HS512", "", "RS1"] {
        let token = with_header(json!({"alg": algorithm, "kid": "ec"}));
        assert!(matches!(refused(&token), JwtError::Algorithm(_)), "{algorithm}");
    }
    // A key serves its own kind only.
    for (algorithm, key) in [("RS256", "ec"), ("EdDSA", "ec"), ("ES256", "ed"), ("ES256", "shared"), ("ES256", "new")] {
        let token = with_header(json!({"alg": algorithm, "kid": key}));
        assert!(matches!(refused(&token), JwtError::UnknownKey(_)), "{algorithm} {key}");
    }
    assert!(matches!(refused(&with_header(json!({"alg": "ES256", "crit": ["x"]}))), JwtError::Form(_)));
    assert_eq!(refused(&with_header(json!({"alg": "ES256", "kid": "ec", "typ": "x"}))), JwtError::Signature);
    assert_eq!(refused(&Provider::new().sign(&json!({"alg": "ES256", "kid": "ec"}), &claims())), JwtError::Signature);
    let (signed, _) = good.rsplit_once('.').unwrap();
    assert_eq!(refused(&format!("{signed}.")), JwtError::Signature);
    let mut other = claims();
    other["sub"] = "8".into();
    let forged = provider.sign(&json!({"alg": "ES256", "kid": "ec"}), &other);
    let mixed = format!("{}.{}", forged.rsplit_once('.').unwrap().0, good.rsplit_once('.').unwrap().1);
    assert_eq!(refused(&mixed), JwtError::Signature);
    for junk in ["", "eyJ", "a.b", "a.b.c", "eyJ.eyJ.eyJ", &"eyJ.".repeat(5_000)] {
        assert!(matches!(refused(junk), JwtError::Form(_)), "{junk:.20}");
    }
}

#[test]
fn what_does_not_count_here_and_now_is_refused() {
    let audiences = BTreeSet::from(["muster".to_owned()]);
    let at =
        |claims: &Value, now| Claims(claims.as_object().unwrap().clone()).check("https://idp.example", &audiences, now);
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        at(&claims, 1_500)
    };
    assert_eq!(at(&claims(), 1_500), Ok(2_000));
    assert!(at(&claims(), 2_000).is_err(), "expired");
    assert!(at(&claims(), 900).is_err(), "not yet");
    assert!(at(&claims(), 950).is_ok(), "another clock");
    for (name, value) in [
        ("iss", json!("https://idp.example/")),
        ("iss", json!(["https://idp.example"])),
        ("aud", json!("others")),
        ("aud", json!({"muster": true})),
        ("exp", json!("9999")),
        ("exp", json!(null)),
        ("exp", json!(-1)),
        ("nbf", json!("soon")),
        ("nbf", json!(9_999)),
        ("iat", json!(9_999)),
    ] {
        assert!(with(name, value.clone()).is_err(), "{name} {value}");
    }
    for name in ["iss", "aud", "exp"] {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        assert!(at(&claims, 1_500).is_err(), "{name}");
    }
    assert_eq!(with("aud", json!("muster")), Ok(2_000));
}

#[test]
fn users_and_groups_are_found_where_providers_put_them() {
    let claims = |value: Value| Claims(value.as_object().unwrap().clone());
    let of = claims(json!({
        "email": "ana@x", "email_verified": true, "groups": ["a", 7, "b"], "team": "c", "realm_access": {"roles": ["d"]},
        "https://x.example/roles": ["e"],
    }));
    assert_eq!(of.user("email"), Ok("ana@x"));
    let groups = |claim: &str| of.groups(claim).collect::<Vec<_>>();
    assert_eq!(groups("groups"), ["a", "b"]);
    assert_eq!(
        (groups("team"), groups("realm_access.roles"), groups("https://x.example/roles")),
        (vec!["c"], vec!["d"], vec!["e"])
    );
    assert!(groups("none").is_empty() && groups("team.x").is_empty());
    for bad in [
        json!({}),
        json!({"email": ""}),
        json!({"email": 7}),
        json!({"email": "a", "email_verified": false}),
        json!({"email": "a", "email_verified": "true"}),
    ] {
        assert!(claims(bad.clone()).user("email").is_err(), "{bad}");
    }
}

#[test]
fn a_set_without_a_key_of_use_is_refused() {
    for bad in [
        "",
        "{}",
        r#"{"keys": []}"#,
        r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#,
        r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}"#,
    ] {
        assert!(KeySet::parse(bad).is_err(), "{bad}");
    }
}
