//! Logs from a time to a time: what was written then, found without reading the rest, on each coordinator, also after the end.

use crate::support::{open, shared};
use cluster_tests::{Cluster, PATIENCE, until};
use std::time::Duration;
use tokio::time::sleep;
use types::{JobId, Timestamp};

/// Longer than supervisors note times apart (5 s): what is tested is that time passes.
const APART: Duration = Duration::from_millis(5_500);

async fn said(cluster: &Cluster, job: JobId, more: &[&str]) -> anyhow::Result<String> {
    let job = job.to_string();
    Ok(cluster.muster(&[&["logs", job.as_str()], more].concat()).await?.good()?.stdout)
}

async fn until_said(cluster: &Cluster, job: JobId, wanted: &str) -> anyhow::Result<()> {
    until(wanted, PATIENCE, async || said(cluster, job, &[]).await.ok().filter(|text| text.ends_with(wanted)).map(drop))
        .await
}

/// The second that begins within the next one, as a user writes it.
fn next_second() -> String {
    daemon::clock::text(Timestamp(daemon::clock::now().0 + 1_000))
}

#[tokio::test]
async fn what_was_written_in_a_window_is_read_in_whole_lines() {
    shared(async |cluster| {
        let folder = cluster.folder().display();
        let wait = |gate: &str| format!("while [ ! -e {folder}/by-time-{gate} ]; do sleep 0.02; done");
        let command = format!(
            "echo one; printf 'half of '; {}; echo two; {}; echo three; {}; echo four",
            wait("two"),
            wait("three"),
            wait("four")
        );
        let job = cluster.submit("by-time/job.yml", &format!("command: \"{command}\"\n")).await?;
        until_said(cluster, job, "half of ").await?;
        let first = next_second();
        sleep(APART).await;
        open(cluster, "by-time-two")?;
        until_said(cluster, job, "two\n").await?;
        let second = next_second();
        sleep(APART).await;
        open(cluster, "by-time-three")?;
        until_said(cluster, job, "three\n").await?;
        let windows = [
            (vec!["--since", &first], "half of two\nthree\n"),
            (vec!["--since", &second], "three\n"),
            (vec!["--until", &first], "one\nhalf of two\n"),
            (vec!["--since", &first, "--until", &second], "half of two\n"),
            (vec!["--since", &first, "--grep", "three"], "three\n"),
            (vec!["--since", "1h"], "one\nhalf of two\nthree\n"),
            (vec!["--until", "1h"], ""),
        ];
        for (window, wanted) in &windows {
            assert_eq!(said(cluster, job, window).await?, *wanted, "{window:?} while it runs");
        }
        open(cluster, "by-time-four")?;
        let followed = said(cluster, job, &["-f", "--since", &second]).await?;
        assert_eq!(followed, "three\nfour\n");
        cluster.ended(job).await?;
        for id in 1..=3 {
            let address = cluster.addresses_of(id)?.0.clone();
            let window = ["--since", first.as_str(), "--until", second.as_str(), "--coordinators", address.as_str()];
            assert_eq!(said(cluster, job, &window).await?, "half of two\n", "at coordinator {id}");
        }
        let wrong = cluster.muster(&["logs", &job.to_string(), "--since", "yesterday"]).await?;
        assert!(wrong.code == 2 && wrong.stderr.contains("such as 10m"), "{}", wrong.stderr);
        let wrong = cluster.muster(&["logs", &job.to_string(), "--since", &second, "--until", &first]).await?;
        assert!(wrong.code == 2 && wrong.stderr.contains("ends before it begins"), "{} {}", wrong.code, wrong.stderr);
        Ok(())
    })
    .await;
}
