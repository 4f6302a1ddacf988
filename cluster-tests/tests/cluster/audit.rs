//! The audit trail as those see it who keep it elsewhere.

use crate::support::{alone, shape};
use anyhow::Context as _;
use serde_json::Value;

#[tokio::test]
async fn who_follows_the_trail_goes_on_whichever_coordinator_dies() {
    alone(shape(3, &["--sign-audit-every", "5"]), async |cluster| {
        let mut records = cluster.follow(&["audit", "export", "--follow"])?;
        let mut heads = cluster.follow(&["audit", "heads", "--follow"])?;
        let (mut trail, mut signed) = (Vec::new(), Vec::new());
        for round in 1..=3 {
            for n in 0..6 {
                cluster.muster(&["workspaces", "create", &format!("w-{round}-{n}")]).await?.good()?;
            }
            let last = format!("\"object\":\"w-{round}-5\"");
            while trail.last().is_none_or(|line: &String| !line.contains(&last)) {
                trail.push(records.line().await?.context("the trail is not followed any more")?);
            }
            signed.push(heads.line().await?.context("the heads are not followed any more")?);
            cluster.coordinator(round)?.kill()?;
            cluster.restart_coordinator(round).await?;
            cluster.until_voters(3).await?;
        }
        let number = |line: &String| Ok(serde_json::from_str::<Value>(line)?["number"].as_u64().unwrap_or_default());
        let numbers = |lines: &[String]| lines.iter().map(number).collect::<anyhow::Result<Vec<u64>>>();
        let (recorded, covered) = (numbers(&trail)?, numbers(&signed)?);
        assert!(recorded.iter().copied().eq(1..=trail.len() as u64), "{recorded:?}");
        assert!(covered.is_sorted_by(|one, next| one < next), "{covered:?}");
        // A head may be of records that came after the last one that was waited for.
        let signed = signed.into_iter().zip(covered).filter(|(_, number)| *number <= trail.len() as u64);
        let signed: Vec<_> = signed.map(|(line, _)| line).collect();
        assert!(signed.len() >= 2, "{signed:?}");
        let whole = cluster.write("followed.jsonl", &(trail.join("\n") + "\n"))?.display().to_string();
        let heads = cluster.write("heads.jsonl", &(signed.join("\n") + "\n"))?.display().to_string();
        cluster.muster(&["audit", "verify", &whole, "--head", &heads]).await?.good()?;
        Ok(())
    })
    .await;
}
