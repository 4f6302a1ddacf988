//! A log-in by a browser on another machine: the provider gives a code, lets the program wait, and then a token or none.

use super::{Provider, key, let_in, published, sign};
use crate::isolation_users::set_mode;
use crate::support::alone;
use cluster_tests::{Cluster, Shape};
use serde_json::{Value, json};

/// What the program says with its exit code.
async fn login(cluster: &Cluster, provider: &Provider, more: &[&str]) -> anyhow::Result<(i32, String)> {
    let config = cluster.folder().join("ana.json").display().to_string();
    let ana = [("MUSTER_CREDENTIALS", ""), ("MUSTER_CONFIG", config.as_str())];
    let (addresses, authority) = (cluster.addresses().join(","), cluster.credentials()?.authority().to_string());
    let line = ["login", &addresses, "--issuer", &provider.issuer, "--authority", &authority];
    let said = cluster.muster_with(&[&line[..], more].concat(), &ana).await?;
    Ok((said.code, format!("{}{}", said.stdout, said.stderr)))
}

const ID: [&str; 2] = ["--client-id", "muster"];

#[tokio::test]
async fn a_user_logs_in_by_the_browser_of_another_machine() {
    alone(Shape::new(1, 0), async |cluster| {
        let key = key()?;
        let provider = Provider::start(json!([published("k1", &key)])).await?;
        let_in(cluster, &provider, &["team=reader"]).await?;
        let token = sign(&key, &json!({ "alg": "ES256", "kid": "k1" }), &provider.claims("ana", &["team"]))?;
        let code = json!({ "device_code": "of this device&", "user_code": "WDJB-\u{1b}[31mMJHT", "interval": 1, "expires_in": 600,
            "verification_uri": "https://login.example/device", "verification_uri_complete": "https://login.example/device?c=1" });
        let pending = json!({ "error": "authorization_pending" });
        provider.answer(&[code.clone(), pending.clone(), json!({ "id_token": token, "access_token": "other" })]);
        let secret = cluster.write("client-secret", "of the client\n")?;
        set_mode(&secret, 0o600)?;
        let secret = secret.display().to_string();
        let (exit, said) =
            login(cluster, &provider, &[&ID[..], &["--client-secret-file", &secret]].concat()).await?;
        assert_eq!(exit, 0, "{said}");
        for part in ["user/corp:ana (reader)", "open https://login.example/device in a browser", "MJHT within 10 min", "device?c=1"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains('\u{1b}') && !said.contains(&token), "{said}");
        let asked = provider.asked();
        let all = "client_id=muster&client_secret=of%20the%20client";
        assert_eq!(asked[0], format!("{all}&scope=openid%20profile%20email"));
        let question = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code&device_code=of%20this%20device%26";
        assert_eq!(asked[1..], [format!("{all}&{question}"), format!("{all}&{question}")]);
        let config = cluster.folder().join("ana.json").display().to_string();
        cluster.muster_with(&["jobs", "list"], &[("MUSTER_CREDENTIALS", ""), ("MUSTER_CONFIG", &config)]).await?.good()?;

        let refused = |error: &str| json!({ "error": error, "error_description": "says\u{7} the provider" });
        let cases: [(&[Value], &str); 6] = [
            (&[refused("unauthorized_client")], "refuses: unauthorized_client: says\u{fffd} the provider"),
            (&[json!({ "device_code": 7 })], "does not say its code as RFC 8628 has it"),
            (&[code.clone(), pending.clone(), refused("access_denied")], "the log-in was refused at"),
            (&[code.clone(), refused("expired_token")], "nobody confirmed the code in time"),
            (&[code.clone(), json!({ "access_token": "alone" })], "gives no ID token"),
            (&[code.clone(), json!({ "id_token": format!("{token}x") })], "signature"),
        ];
        for (answers, words) in cases {
            provider.answer(answers);
            let (exit, said) = login(cluster, &provider, &ID).await?;
            assert!(exit != 0 && said.contains(words), "{words}: {exit} {said}");
        }
        let mut short = code;
        short["expires_in"] = 1.into();
        provider.answer(&[short, pending]);
        assert!(login(cluster, &provider, &ID).await?.1.contains("nobody confirmed the code in time"));
        for (more, words) in [(&[][..], "--client-id"), (&["--client-id", "x", "--scope", "email"], "without openid")] {
            let (exit, said) = login(cluster, &provider, more).await?;
            assert!(exit == 2 && said.contains(words), "{exit} {said}");
        }
        provider.describe(|about| about["device_authorization_endpoint"] = Value::Null);
        assert!(login(cluster, &provider, &ID).await?.1.contains("knows no log-in for programs without a browser"));
        provider.describe(|about| about["issuer"] = "https://elsewhere.example".into());
        assert!(login(cluster, &provider, &ID).await?.1.contains("says that it is"));
        Ok(())
    })
    .await;
}
