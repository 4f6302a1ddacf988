//! What people get wrong: said at once, with place and advice, and nothing is submitted.

use crate::support::shared;
use client::Blob;
use cluster_tests::{Cluster, spec};
use types::CodeSnapshot;

/// Submits a file that must be refused; answers with what was said.
async fn refused(cluster: &Cluster, name: &str, text: &str) -> anyhow::Result<String> {
    let path = cluster.write(name, text)?.display().to_string();
    let answer = cluster.muster(&["submit", &path]).await?;
    assert_eq!(answer.code, 2, "{text}: {} {}", answer.stdout, answer.stderr);
    assert!(answer.stdout.is_empty(), "{}", answer.stdout);
    Ok(answer.stderr)
}

#[tokio::test]
async fn a_job_file_with_faults_is_refused_with_all_of_them() {
    shared(async |cluster| {
        let malformed = refused(cluster, "bad/malformed.yml", "command: [echo\nresources: }\n").await?;
        assert!(malformed.contains("malformed.yml:"), "{malformed}");
        let unknown = refused(cluster, "bad/unknown.yml", "comand: echo\nresources:\n  instance_cout: 2\n").await?;
        for part in ["unknown.yml:1:", "\"command\"", "unknown.yml:3:", "\"instance_count\""] {
            assert!(unknown.contains(part), "{part} in {unknown}");
        }
        let missing = refused(cluster, "bad/missing.yml", "command: echo\ncode: ./nowhere\n").await?;
        assert!(missing.contains("missing.yml:2:") && missing.contains("nowhere"), "{missing}");
        let sweep = refused(cluster, "bad/sweep.yml", "type: sweep\ntrial: {}\n").await?;
        assert!(sweep.contains("sweep jobs are not supported"), "{sweep}");
        let empty = refused(cluster, "bad/empty.yml", "").await?;
        assert!(empty.contains("empty.yml"), "{empty}");
        let unbound = refused(cluster, "bad/unbound.yml", "command: echo ${{inputs.rate}}\n").await?;
        assert!(unbound.contains("rate"), "{unbound}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn links_that_leave_the_code_folder_are_refused_and_others_are_not() {
    shared(async |cluster| {
        cluster.write("links/outside.txt", "secret\n")?;
        cluster.write("links/code/inside.txt", "inside\n")?;
        let folder = cluster.folder().join("files/links/code");
        for (name, target) in [("up", "../outside.txt"), ("absolute", "/etc/passwd")] {
            std::os::unix::fs::symlink(target, folder.join(name))?;
            let said = refused(cluster, "links/job.yml", "command: cat up\ncode: code\n").await?;
            assert!(said.contains(name) && said.contains("job.yml:2:"), "{said}");
            std::fs::remove_file(folder.join(name))?;
        }
        Ok(())
    })
    .await;
}

/// A tree made by hand, as no client of ours would: its paths leave the folder.
#[tokio::test]
async fn a_snapshot_that_would_leave_its_folder_is_refused_by_the_worker() {
    shared(async |cluster| {
        let client = cluster.client();
        let content = Blob::from_bytes(b"owned\n".to_vec());
        let honest = types::Tree::new(vec![types::TreeEntry {
            path: "name".into(),
            kind: types::FileKind::File,
            bytes: content.bytes,
            hash: content.hash,
        }])?;
        let target = cluster.folder().join("owned");
        for path in ["../../../../owned", &target.display().to_string(), "a/../../owned"] {
            let text = serde_json::to_string(&honest)?.replace("\"name\"", &serde_json::to_string(path)?);
            let tree = Blob::from_bytes(text.into_bytes());
            client.upload(&client::Place::Own, &[content.clone(), tree.clone()], &|_| ()).await?;
            let mut job = spec("echo must not run");
            job.code = Some(CodeSnapshot { tree: tree.hash, git: None });
            let ended = cluster.ended(client.submit(&job).await?).await?;
            let summary = ended.summary.unwrap_or_default();
            assert_eq!(summary.phase, "Failed");
            assert_eq!(ended.attempts[0].cause_kind, "not_prepared", "{}", summary.reason);
            assert!(summary.reason.contains("path"), "{}", summary.reason);
        }
        assert!(!target.exists());
        for worker in 1..=4 {
            assert!(!cluster.folder().join(format!("worker-{worker}/owned")).exists());
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn code_that_the_cluster_does_not_have_fails_the_attempt_with_its_reason() {
    shared(async |cluster| {
        let mut job = spec("echo must not run");
        job.code = Some(CodeSnapshot { tree: Blob::from_bytes(b"never sent".to_vec()).hash, git: None });
        let ended = cluster.ended(cluster.client().submit(&job).await?).await?;
        let summary = ended.summary.unwrap_or_default();
        assert_eq!((summary.phase.as_str(), ended.attempts[0].cause_kind.as_str()), ("Failed", "not_prepared"));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_request_that_no_worker_could_serve_is_refused_or_waits_as_the_user_likes() {
    shared(async |cluster| {
        let file = cluster.write("impossible/job.yml", "command: nvidia-smi\nx-muster: {gpus_per_rank: 8}\n")?;
        let file = file.display().to_string();
        let refused = cluster.muster(&["submit", &file]).await?;
        assert_ne!(refused.code, 0);
        assert!(
            refused.stderr.contains("one instance needs 8 GPUs") && refused.stderr.contains("has 0"),
            "{refused:?}"
        );
        let accepted = cluster.muster(&["submit", &file, "--wait-for-workers"]).await?.good()?;
        let job = types::JobId(accepted.stdout.trim().parse()?);
        let explained = cluster.muster(&["jobs", "explain", &job.to_string(), "-o", "json"]).await?.json()?;
        assert_eq!(
            (&explained["phase"], &explained["obstacle"]),
            (&"Queued".into(), &"never_fits".into()),
            "{explained}"
        );
        // It holds nobody up.
        let other = cluster.client().submit(&spec("true")).await?;
        assert_eq!(cluster.ended(other).await?.summary.unwrap_or_default().phase, "Completed");
        assert_eq!(cluster.muster(&["jobs", "cancel", &job.to_string()]).await?.code, 0);
        assert_eq!(cluster.ended(job).await?.summary.unwrap_or_default().phase, "Canceled");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_port_or_a_folder_that_is_taken_is_named() {
    shared(async |cluster| {
        let taken = cluster.addresses_of(1)?.0.clone();
        let data = cluster.folder().join("second").display().to_string();
        let second =
            ["coordinator", "--id", "9", "--data", &data, "--bootstrap", "--listen", &taken, "--http", "127.0.0.1:0"];
        let answer = cluster.muster(&second).await?;
        assert_eq!(answer.code, 1, "{}", answer.stderr);
        assert!(answer.stderr.contains(&taken) && answer.stderr.contains("in use"), "{}", answer.stderr);

        let owned = cluster.folder().join("coordinator-1").display().to_string();
        let thief = ["coordinator", "--id", "1", "--data", &owned, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let answer = cluster.muster(&thief).await?;
        assert_eq!(answer.code, 1, "{}", answer.stderr);
        assert!(answer.stderr.contains("in use") && answer.stderr.contains(&owned), "{}", answer.stderr);

        let open = ["coordinator", "--id", "9", "--data", &data, "--bootstrap", "--listen", "0.0.0.0:0"];
        let answer = cluster.muster(&open).await?;
        assert_eq!(answer.code, 2, "{}", answer.stderr);
        assert!(answer.stderr.contains("--advertise"), "{}", answer.stderr);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_second_worker_of_a_name_is_refused_and_the_first_goes_on() {
    shared(async |cluster| {
        let data = cluster.folder().join("impostor").display().to_string();
        let answer = cluster.muster(&["worker", "--name", "worker-1", "--data", &data]).await?;
        assert_ne!(answer.code, 0);
        assert!(answer.stderr.contains("worker-1"), "{}", answer.stderr);
        cluster.until_ready(4).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_does_not_exist_is_not_found() {
    shared(async |cluster| {
        for call in [["workers", "show", "nobody"], ["workers", "cordon", "nobody"], ["workers", "drain", "nobody"]] {
            let answer = cluster.muster(&call).await?;
            assert_eq!(answer.code, 3, "{call:?}: {}", answer.stderr);
            assert!(answer.stderr.contains("nobody"), "{}", answer.stderr);
        }
        Ok(())
    })
    .await;
}
