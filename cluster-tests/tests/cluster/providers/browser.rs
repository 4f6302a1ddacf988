//! A log-in by a browser on this machine: the provider sends the browser back with a code, which is worth a token to who has the proof.

use super::{Provider, encode, key, let_in, published, sign};
use crate::support::alone;
use anyhow::Context as _;
use cluster_tests::{Cluster, PATIENCE, Shape, until};
use ring::signature::EcdsaKeyPair;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

type Fields = BTreeMap<String, String>;

/// What an address asks for.
fn fields(query: &str) -> Fields {
    identity::https::read_form(query).unwrap_or_default().into_iter().collect()
}

/// Runs the command; `browser` is what its user does with the address, by the fields of its query. Its exit code and words.
async fn login(
    cluster: &Cluster,
    provider: &Provider,
    more: &str,
    browser: impl AsyncFnOnce(Fields) -> anyhow::Result<()>,
) -> anyhow::Result<(i32, String)> {
    let (folder, authority) = (cluster.folder(), cluster.credentials()?.authority());
    let (said, config) = (folder.join("said"), folder.join("ana.json"));
    let _ = std::fs::remove_file(&said);
    let line = format!(
        "export MUSTER_CREDENTIALS= MUSTER_CONFIG={}; exec muster login {} --issuer {} --client-id muster --authority {authority} \
         --browser {more} > {said} 2>&1",
        config.display(),
        cluster.addresses().join(","),
        provider.issuer,
        said = said.display()
    );
    let acting = async {
        let begins = format!("{}/authorize?tenant=1&", provider.issuer);
        let query = until("the address", PATIENCE, async || {
            let text = std::fs::read_to_string(&said).ok()?;
            Some(text.lines().find_map(|line| line.strip_prefix(&begins))?.to_owned())
        });
        browser(fields(&query.await?)).await
    };
    let (ended, acted) = tokio::join!(cluster.shell(&line), acting);
    acted?;
    Ok((ended?.code, std::fs::read_to_string(&said)?))
}

/// What is answered to the browser that is sent back with these fields.
async fn come_back(asked: &Fields, answer: &[(&str, &str)]) -> anyhow::Result<String> {
    get(asked, &format!("/muster?{}", identity::https::form(answer))).await
}

async fn get(asked: &Fields, path: &str) -> anyhow::Result<String> {
    let host = asked["redirect_uri"].strip_prefix("http://").and_then(|rest| rest.strip_suffix("/muster"));
    let host = host.context("no address of this machine")?;
    let mut stream = TcpStream::connect(host).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await??;
    Ok(text)
}

/// An ID token that was issued for this log-in, or for another.
fn token(provider: &Provider, key: &EcdsaKeyPair, nonce: &str) -> anyhow::Result<String> {
    let mut claims = provider.claims("ana", &["team"]);
    claims["nonce"] = nonce.into();
    sign(key, &json!({ "alg": "ES256", "kid": "k1" }), &claims)
}

async fn begin(cluster: &Cluster) -> anyhow::Result<(EcdsaKeyPair, Provider)> {
    let key = key()?;
    let provider = Provider::start(json!([published("k1", &key)])).await?;
    provider.describe(|about| {
        about["authorization_endpoint"] = format!("{}/authorize?tenant=1", about["issuer"].as_str().unwrap()).into();
        about["code_challenge_methods_supported"] = json!(["plain", "S256"]);
    });
    let_in(cluster, &provider, &["team=reader"]).await?;
    Ok((key, provider))
}

#[tokio::test]
async fn a_user_logs_in_by_the_browser_of_this_machine() {
    alone(Shape::new(1, 0), async |cluster| {
        let (key, provider) = begin(cluster).await?;
        let mut challenge = String::new();
        let (exit, said) = login(cluster, &provider, "", async |asked| {
            let has = |name: &str, value: &str| assert_eq!(asked[name], value);
            has("response_type", "code");
            has("client_id", "muster");
            has("scope", "openid profile email");
            has("code_challenge_method", "S256");
            assert!(["state", "nonce", "code_challenge"].iter().all(|name| asked[*name].len() == 43), "{asked:?}");
            challenge.clone_from(&asked["code_challenge"]);
            let token = token(&provider, &key, &asked["nonce"])?;
            provider.answer(&[json!({ "id_token": token, "access_token": "other" })]);
            // What browsers do besides: an icon, and a connection that is not used.
            let idle =
                TcpStream::connect(asked["redirect_uri"].trim_start_matches("http://").trim_end_matches("/muster"))
                    .await?;
            assert!(get(&asked, "/favicon.ico").await?.starts_with("HTTP/1.1 404"));
            let page = come_back(
                &asked,
                &[("state", &asked["state"]), ("code", "of this log-in&"), ("iss", &provider.issuer)],
            )
            .await?;
            assert!(page.starts_with("HTTP/1.1 200") && page.contains("Close this page"), "{page}");
            assert!(page.contains("default-src 'none'") && !page.contains("<script"), "{page}");
            drop(idle);
            Ok(())
        })
        .await?;
        assert_eq!(exit, 0, "{said}");
        assert!(said.contains("user/corp:ana (reader)"), "{said}");
        let form = fields(&provider.asked()[0]);
        assert_eq!((form["grant_type"].as_str(), form["code"].as_str()), ("authorization_code", "of this log-in&"));
        assert!(form["redirect_uri"].starts_with("http://127.0.0.1:") && form["client_id"] == "muster", "{form:?}");
        let proof = ring::digest::digest(&ring::digest::SHA256, form["code_verifier"].as_bytes());
        assert_eq!(encode(proof), challenge, "the proof is of what was asked with");
        let config = cluster.folder().join("ana.json").display().to_string();
        cluster
            .muster_with(&["jobs", "list"], &[("MUSTER_CREDENTIALS", ""), ("MUSTER_CONFIG", &config)])
            .await?
            .good()?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_is_no_answer_to_this_log_in_logs_nobody_in() {
    alone(Shape::new(1, 0), async |cluster| {
        let (key, provider) = begin(cluster).await?;
        let cases: [(&[(&str, &str)], &str); 6] = [
            (&[("state", "STATE"), ("error", "access_denied")], "the log-in was refused at"),
            (&[("state", "STATE"), ("error", "server_error"), ("error_description", "says\u{7} it")], "refuses: server_error: says\u{fffd} it"),
            (&[("state", "of another"), ("code", "x")], "its state is not the one that was sent"),
            (&[("code", "x")], "its state is not the one that was sent"),
            (&[("state", "STATE"), ("code", "x"), ("iss", "https://evil.example")], "it is of another provider"),
            (&[("state", "STATE")], "neither a code nor a reason"),
        ];
        for (answer, words) in cases {
            let (exit, said) = login(cluster, &provider, "", async |asked| {
                let answer: Vec<_> =
                    answer.iter().map(|(name, value)| (*name, if *value == "STATE" { &asked["state"] } else { *value })).collect();
                let page = come_back(&asked, &answer).await?;
                assert!(page.starts_with("HTTP/1.1 400") && page.contains("the terminal says why"), "{page}");
                Ok(())
            })
            .await?;
            assert!(exit != 0 && said.contains(words), "{words}: {exit} {said}");
        }
        assert!(provider.asked().is_empty(), "no code was used");
        let right = token(&provider, &key, "NONCE")?;
        let answers: [(Value, &str); 5] = [
            (json!({ "id_token": right }), "its nonce is not the one that was sent"),
            (json!({ "id_token": sign(&key, &json!({ "alg": "ES256", "kid": "k1" }), &provider.claims("ana", &["team"]))? }), "its nonce"),
            (json!({ "access_token": "alone" }), "gives no ID token"),
            (json!({ "id_token": "no.token" }), "its ID token"),
            (json!({ "error": "invalid_grant", "error_description": "used" }), "refuses: invalid_grant: used"),
        ];
        for (answer, words) in answers {
            provider.answer(&[answer]);
            let (exit, said) = login(cluster, &provider, "", async |asked| {
                come_back(&asked, &[("state", &asked["state"]), ("code", "x")]).await.map(drop)
            })
            .await?;
            assert!(exit != 0 && said.contains(words), "{words}: {exit} {said}");
        }
        let (exit, said) = login(cluster, &provider, "--browser-wait 1s", async |_| Ok(())).await?;
        assert!(exit != 0 && said.contains("the browser did not come back within 1 s"), "{exit} {said}");
        // The signature is for the coordinators.
        let (exit, said) = login(cluster, &provider, "", async |asked| {
            provider.answer(&[json!({ "id_token": format!("{}x", token(&provider, &key, &asked["nonce"])?) })]);
            come_back(&asked, &[("state", &asked["state"]), ("code", "x")]).await.map(drop)
        })
        .await?;
        assert!(exit != 0 && said.contains("signature"), "{exit} {said}");
        for (about, value, words) in [
            ("code_challenge_methods_supported", json!(["plain"]), "takes no code with a proof by S256"),
            ("authorization_endpoint", json!("http://idp.example/a"), "would have its users log in at"),
            ("authorization_endpoint", Value::Null, "knows no log-in by a browser"),
        ] {
            provider.describe(|all| all[about] = value);
            let (folder, authority) = (cluster.folder().join("bo.json"), cluster.credentials()?.authority());
            let line = format!(
                "export MUSTER_CREDENTIALS= MUSTER_CONFIG={}; muster login {} --issuer {} --client-id muster --authority {authority} --browser",
                folder.display(), cluster.addresses().join(","), provider.issuer
            );
            let said = cluster.shell(&line).await?;
            assert!(said.code != 0 && said.stderr.contains(words), "{words}: {}", said.stderr);
            provider.describe(|all| all["code_challenge_methods_supported"] = Value::Null);
        }
        Ok(())
    })
    .await;
}
