//! Users of an identity provider, from outside: a provider is made here, with keys of its own and everything that an attacker would try.

mod browser;
mod device;

use crate::support::alone;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::{Client, Error, Secret};
use cluster_tests::{Cluster, PATIENCE, Shape, spec, until};
use futures::future::try_join_all;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn key() -> anyhow::Result<EcdsaKeyPair> {
    let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
    let unusable = |_| anyhow::anyhow!("no key");
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).map_err(unusable)?;
    EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).map_err(|error| anyhow::anyhow!("{error}"))
}

fn published(id: &str, key: &EcdsaKeyPair) -> Value {
    let point = &key.public_key().as_ref()[1..];
    json!({ "kty": "EC", "crv": "P-256", "kid": id, "x": encode(&point[..32]), "y": encode(&point[32..]) })
}

fn sign(key: &EcdsaKeyPair, header: &Value, claims: &Value) -> anyhow::Result<String> {
    let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).map_err(|_| anyhow::anyhow!("no signature"))?;
    Ok(format!("{signed}.{}", encode(signature)))
}

/// A provider that describes itself, publishes its keys and answers what it is told to, over HTTP on this machine.
struct Provider {
    issuer: String,
    keys: Arc<Mutex<Value>>,
    about: Arc<Mutex<Value>>,
    /// To forms, in order.
    answers: Arc<Mutex<VecDeque<Value>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Provider {
    async fn start(keys: Value) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let issuer = format!("http://{}", listener.local_addr()?);
        let about = json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys"),
            "device_authorization_endpoint": format!("{issuer}/device"), "token_endpoint": format!("{issuer}/token") });
        let (keys, about) = (Arc::new(Mutex::new(keys)), Arc::new(Mutex::new(about)));
        let provider = Self { issuer, keys, about, answers: Arc::default(), asked: Arc::default() };
        let serving = Self {
            issuer: provider.issuer.clone(),
            keys: provider.keys.clone(),
            about: provider.about.clone(),
            answers: provider.answers.clone(),
            asked: provider.asked.clone(),
        };
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some((line, form)) = request(&mut stream).await else { continue };
                let (status, body) = serving.serve(&line, form);
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            }
        });
        Ok(provider)
    }

    fn serve(&self, line: &str, form: String) -> (&'static str, String) {
        if !line.starts_with("POST ") {
            let about = self.about.lock().unwrap().clone();
            let keys = json!({ "keys": *self.keys.lock().unwrap() });
            return ("200 OK", if line.starts_with("GET /keys ") { keys } else { about }.to_string());
        }
        self.asked.lock().unwrap().push(form);
        // The last one stays.
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }.unwrap_or_default();
        (if answer["error"].is_null() { "200 OK" } else { "400 Bad Request" }, answer.to_string())
    }

    /// From now on.
    fn answer(&self, answers: &[Value]) {
        *self.answers.lock().unwrap() = answers.iter().cloned().collect();
    }

    fn describe(&self, change: impl FnOnce(&mut Value)) {
        change(&mut self.about.lock().unwrap());
    }

    /// The forms that came.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// What it says of a user who may come in for an hour.
    fn claims(&self, user: &str, groups: &[&str]) -> Value {
        let now = daemon::clock::now().0 / 1_000;
        json!({ "iss": self.issuer, "aud": "muster", "sub": user, "groups": groups, "iat": now, "exp": now + 3_600 })
    }
}

/// The first line and the body.
async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let (mut text, mut part) = (String::new(), vec![0; 4_096]);
    loop {
        let length = stream.read(&mut part).await.ok().filter(|length| *length > 0)?;
        text.push_str(&String::from_utf8_lossy(&part[..length]));
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            return Some((head.lines().next()?.to_owned(), body.to_owned()));
        }
    }
}

/// A client of one coordinator by this token.
fn by(cluster: &Cluster, coordinator: usize, token: &str) -> anyhow::Result<Client> {
    let authority = cluster.credentials()?.authority();
    let secret = Secret::of_provider(token, authority)?;
    Ok(Client::connect(vec![cluster.addresses()[coordinator].clone()], &secret))
}

/// The refusal of this token.
async fn refusal(cluster: &Cluster, token: &str) -> anyhow::Result<String> {
    match by(cluster, 0, token)?.who_am_i().await {
        Err(Error::Denied(why)) => Ok(why),
        other => anyhow::bail!("it was not denied: {other:?}"),
    }
}

async fn let_in(cluster: &Cluster, provider: &Provider, groups: &[&str]) -> anyhow::Result<()> {
    let set = ["providers", "set", "corp", "--issuer", &provider.issuer, "--audience", "muster"];
    let groups = groups.iter().flat_map(|group| ["--group", group]);
    cluster.muster(&set.into_iter().chain(groups).collect::<Vec<_>>()).await?.good().map(drop)
}

#[tokio::test]
async fn users_of_an_identity_provider_come_in_by_its_tokens_and_have_what_their_groups_give() {
    alone(Shape::new(3, 0), async |cluster| {
        let first = key()?;
        let provider = Provider::start(json!([published("k1", &first)])).await?;
        let header = json!({ "alg": "ES256", "kid": "k1" });
        let token = sign(&first, &header, &provider.claims("ana@lab", &["team", "others"]))?;
        assert!(refusal(cluster, &token).await?.contains("no identity provider"));
        let_in(cluster, &provider, &["team=data-scientist", "boss=owner"]).await?;

        // By the command, as a person does it.
        let (file, config) = (cluster.write("ana.jwt", &token)?, cluster.folder().join("ana.json"));
        let (file, config) = (file.display().to_string(), config.display().to_string());
        let ana = [("MUSTER_CREDENTIALS", ""), ("MUSTER_CONFIG", config.as_str())];
        let (addresses, authority) = (cluster.addresses().join(","), cluster.credentials()?.authority().to_string());
        let login = ["login", &addresses, "--token-file", &file, "--authority", &authority, "-o", "json"];
        let who = cluster.muster_with(&login, &ana).await?.good()?.json()?;
        assert_eq!(who["principal"], "user/corp:ana@lab");
        assert_eq!(who["roles"], json!(["data-scientist"]));
        cluster.muster_with(&["jobs", "list"], &ana).await?.good()?;
        assert_eq!(cluster.muster_with(&["users", "list"], &ana).await?.code, 5, "access/read is an owner's");

        // By a crowd at all coordinators at once: one token it is.
        let clients = (0..3).map(|n| by(cluster, n, &token)).collect::<Result<Vec<_>, _>>()?;
        try_join_all((0..30).map(|n: usize| clients[n % 3].list(client::v1::ListJobsRequest::default()))).await?;
        let bo = sign(&first, &header, &provider.claims("bo", &["boss"]))?;
        let clients = (0..3).map(|n| by(cluster, n, &bo)).collect::<Result<Vec<_>, _>>()?;
        try_join_all((0..30).map(|n: usize| clients[n % 3].users())).await?;
        let tokens = cluster.client().tokens("").await?;
        let of = |user: &str| tokens.iter().filter(|token| token.user == user).count();
        assert_eq!((of("corp:ana@lab"), of("corp:bo")), (1, 1));
        let job = by(cluster, 1, &token)?.submit(&spec("true")).await?;
        let records = cluster.muster(&["audit", "list", "-n", "1000", "-o", "json"]).await?.good()?.json()?;
        let has = |action: &str, object: &str| {
            let mut records = records["records"].as_array().into_iter().flatten();
            records.any(|record| {
                record["action"] == action && record["object"] == object && record["who"] == "user/corp:ana@lab"
            })
        };
        assert!(has("users/log-in", "corp:ana@lab") && has("jobs/submit", &job.to_string()), "{records}");

        // Other terms count at once, for open streams too.
        let mut watch = by(cluster, 2, &token)?.watch(None, 0);
        let_in(cluster, &provider, &["boss=owner"]).await?;
        let ended = until("the end of the stream", PATIENCE, async || watch.next().await.err()).await?;
        assert!(matches!(&ended, Error::Denied(why) if why.contains("no group that has a role")), "{ended:?}");
        let_in(cluster, &provider, &["team=reader"]).await?;
        let denied = by(cluster, 1, &token)?.submit(&spec("true")).await;
        assert!(matches!(&denied, Err(Error::Denied(why)) if why.contains("jobs/submit")), "{denied:?}");
        assert!(refusal(cluster, &bo).await?.contains("no group that has a role"));
        cluster.muster(&["providers", "remove", "corp"]).await?.good()?;
        assert!(refusal(cluster, &token).await?.contains("no identity provider"));
        assert!(cluster.client().users().await?.iter().all(|user| !user.name.starts_with("corp:")));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn tokens_that_an_identity_provider_did_not_make_for_here_and_now_let_nobody_in() {
    alone(Shape::new(1, 0), async |cluster| {
        let (first, second) = (key()?, key()?);
        let provider = Provider::start(json!([published("k1", &first)])).await?;
        let_in(cluster, &provider, &["*=owner"]).await?;
        let header = json!({ "alg": "ES256", "kid": "k1" });
        let good = provider.claims("ana", &[]);
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            sign(&first, &header, &claims)
        };
        let now = daemon::clock::now().0 / 1_000;
        let unsigned = |alg: &str| {
            let header = encode(json!({ "alg": alg, "kid": "k1" }).to_string());
            format!("{header}.{}.{}", encode(good.to_string()), encode("signature"))
        };
        let bent = format!("{}AAAA", &with("sub", json!("bo"))?[..200]);
        for (token, why) in [
            (unsigned("none"), "algorithm"),
            // The public key as a shared secret begins with this header.
            (unsigned("HS256"), "algorithm"),
            (sign(&second, &header, &good)?, "signature"),
            (bent, ""),
            (with("aud", json!("another"))?, "audience"),
            (with("iss", json!("http://127.0.0.1:1"))?, "no identity provider"),
            (with("exp", json!(now - 1))?, "expired"),
            (with("exp", json!("never"))?, "no date"),
            (with("nbf", json!(now + 600))?, "later"),
            (with("sub", json!("a b"))?, "no user's name"),
            (with("sub", json!(null))?, "claim \"sub\""),
            (sign(&second, &json!({ "alg": "ES256", "kid": "k2" }), &good)?, "no key \"k2\""),
        ] {
            let refused = refusal(cluster, &token).await?;
            assert!(refused.contains(why), "{why}: {refused}");
        }
        assert!(by(cluster, 0, &sign(&first, &header, &good)?)?.who_am_i().await.is_ok(), "the real one does");
        until("the trail of denials", PATIENCE, async || {
            let trail = cluster.muster(&["audit", "list", "-n", "1000", "-o", "json"]).await.ok()?.stdout;
            let noted = ["false signature", "not taken", "unknown key", "here and now", "no such identity provider"];
            noted.iter().all(|text| trail.contains(text)).then_some(())
        })
        .await?;

        // A new key of the provider counts as soon as it may be asked for again.
        *provider.keys.lock().unwrap() = json!([published("k2", &second)]);
        let renewed = sign(&second, &json!({ "alg": "ES256", "kid": "k2" }), &provider.claims("cy", &[]))?;
        let client = by(cluster, 0, &renewed)?;
        until("the new key", PATIENCE, async || client.who_am_i().await.ok()).await?;
        let old = sign(&first, &header, &provider.claims("di", &[]))?;
        assert!(refusal(cluster, &old).await?.contains("no key \"k1\""));
        let faults = ["providers", "set", "Bad", "--issuer", "http://10.0.0.1", "--audience", "m", "--group", "g=king"];
        let faults = cluster.muster(&faults).await?;
        assert_eq!(faults.code, 2, "{}", faults.stderr);
        assert!(["king", "https://", "name"].iter().all(|fault| faults.stderr.contains(fault)), "{}", faults.stderr);
        Ok(())
    })
    .await;
}
