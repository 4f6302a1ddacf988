//! Files of jobs in an object store: they go from the coordinators' disks, and come back by their hashes or not at all.

use crate::support::{add_worker, alone, hex, shape};
use cluster_tests::{Cluster, PATIENCE, until};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use types::JobId;

/// Until what is in the store may go from the disks.
const GRACE: &str = "2s";
const JOB: &str = "
code: code
command: cat code.txt > ${{outputs.copy}}/it
outputs: {copy: }
";

async fn ended(cluster: &Cluster, name: &str) -> anyhow::Result<JobId> {
    cluster.write(&format!("{name}/code/code.txt"), name)?;
    let job = cluster.submit(&format!("{name}/job.yml"), JOB).await?;
    let summary = cluster.ended(job).await?.summary.unwrap_or_default();
    assert_eq!(summary.phase, "Completed", "{}", summary.reason);
    Ok(job)
}

/// Where the blob of these bytes lies below a folder of blobs.
fn below(folder: &Path, bytes: &[u8]) -> PathBuf {
    let hash = hex(bytes);
    folder.join(&hash[..2]).join(&hash[2..])
}

async fn gone_from_disks(cluster: &Cluster, text: &str) -> anyhow::Result<()> {
    let is_gone = |id| !below(&cluster.folder().join(format!("coordinator-{id}/blobs")), text.as_bytes()).exists();
    until(&format!("{text} to be gone from each disk"), PATIENCE, async || (1..=3).all(is_gone).then_some(())).await
}

async fn download(cluster: &Cluster, job: JobId, to: &str) -> anyhow::Result<cluster_tests::Answer> {
    let folder = cluster.folder().join(to).display().to_string();
    cluster.muster(&["download", &job.to_string(), &folder]).await
}

#[tokio::test]
async fn files_of_ended_jobs_go_to_a_shared_folder_and_come_back_as_they_were_or_not_at_all() {
    let outside = tempfile::tempdir().unwrap();
    let url = format!("file://{}", outside.path().display());
    alone(shape(3, &["--object-store", &url, "--keep-unnamed-files-for", GRACE]), async |cluster| {
        add_worker(cluster, "worker-1", 4, &[])?;
        cluster.until_ready(1).await?;
        let job = ended(cluster, "first").await?;
        gone_from_disks(cluster, "first").await?;
        let leader = cluster.leader().await?;
        cluster.coordinator(leader)?.kill()?;
        let second = ended(cluster, "second").await?;
        cluster.restart_coordinator(leader).await?;
        gone_from_disks(cluster, "second").await?;
        for (job, text) in [(job, "first"), (second, "second")] {
            download(cluster, job, text).await?.good()?;
            assert_eq!(std::fs::read_to_string(cluster.folder().join(text).join("it"))?, text);
        }
        for id in 1..=3 {
            let address = cluster.addresses_of(id)?.0.clone();
            cluster.muster(&["lineage", "verify", "--deep", "--coordinators", &address]).await?.good()?;
        }
        // The same code again: it is needed again.
        assert_ne!(ended(cluster, "first").await?, job);
        gone_from_disks(cluster, "second").await?;
        let object = below(&outside.path().join("blobs/default"), b"second");
        std::fs::write(&object, "Second")?;
        let answer = download(cluster, second, "damaged").await?;
        assert!(answer.code != 0 && answer.stderr.contains("object store"), "{}", answer.stderr);
        assert!(!cluster.folder().join("damaged/it").exists());
        std::fs::write(&object, "second")?;
        download(cluster, second, "mended").await?.good()?;
        Ok(())
    })
    .await;
}

/// Objects by path, with the hash that their sender gave.
type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// As much of S3 as whole objects need; one that is not signed by this key, or comes otherwise than its sender's hash says, is refused.
async fn s3(key: &'static str) -> anyhow::Result<(String, Objects)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let objects = Objects::default();
    let all = objects.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, key, all.clone()));
        }
    });
    Ok((url, objects))
}

async fn serve(stream: TcpStream, key: &str, objects: Objects) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut request, mut fields) = (String::new(), BTreeMap::new());
        if stream.read_line(&mut request).await? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            fields.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = fields.get("content-length").map_or(Ok(0), |length| length.parse())?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let field = |name: &str| fields.get(name).map_or("", String::as_str);
        let is_signed = field("authorization").starts_with(&format!("AWS4-HMAC-SHA256 Credential={key}/"));
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().to_owned());
        let (status, body) = match method {
            _ if !is_signed => ("403 Forbidden", Vec::new()),
            "PUT" if field("x-amz-content-sha256") != hex(&body) => ("400 Bad Request", Vec::new()),
            "PUT" => {
                objects.lock().unwrap().insert(path, body);
                ("200 OK", Vec::new())
            }
            _ => match objects.lock().unwrap().get(&path) {
                Some(object) => ("200 OK", object.clone()),
                None => ("404 Not Found", Vec::new()),
            },
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"e\"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n\r\n",
            body.len()
        );
        stream.get_mut().write_all(head.as_bytes()).await?;
        if method != "HEAD" {
            stream.get_mut().write_all(&body).await?;
        }
    }
}

#[tokio::test]
async fn files_of_ended_jobs_go_to_a_bucket_signed_with_the_key_in_the_file() {
    let (endpoint, objects) = s3("muster-key").await.unwrap();
    let options = tempfile::tempdir().unwrap();
    let file = options.path().join("options");
    let text = format!("access_key_id = muster-key\nsecret_access_key = s3cret-of-the-lab\nendpoint = {endpoint}\n");
    daemon::files::write_secret(&file, text.as_bytes()).unwrap();
    let (url, file) = ("s3://models/lab", file.display().to_string());
    let arguments = ["--object-store", url, "--object-store-options", &file, "--keep-unnamed-files-for", GRACE];
    alone(shape(3, &arguments), async |cluster| {
        add_worker(cluster, "worker-1", 4, &[])?;
        cluster.until_ready(1).await?;
        let job = ended(cluster, "first").await?;
        gone_from_disks(cluster, "first").await?;
        let paths: Vec<String> = objects.lock().unwrap().keys().cloned().collect();
        let is_ours = |path: &String| path.starts_with("/models/lab/blobs/default/");
        // The file, which is code and output, and the lists of both folders.
        assert!(paths.len() == 3 && paths.iter().all(is_ours), "{paths:?}");
        download(cluster, job, "back").await?.good()?;
        assert_eq!(std::fs::read_to_string(cluster.folder().join("back/it"))?, "first");
        assert!(!cluster.logs().contains("s3cret-of-the-lab"));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_object_store_that_is_none_or_cannot_be_used_is_told_at_once() {
    alone(shape(1, &[]), async |cluster| {
        let data = cluster.folder().join("other").display().to_string();
        let open = cluster.write("open", "access_key_id = a\nsecret_access_key = s3cret\n")?.display().to_string();
        let start = [
            "coordinator",
            "--id",
            "9",
            "--data",
            &data,
            "--bootstrap",
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
        ];
        for (flags, said) in [
            (vec!["--object-store", "ftp://models"], "s3://BUCKET/PREFIX"),
            (vec!["--object-store", "file:///nowhere/shared"], "mount it"),
            (vec!["--object-store", "s3://models", "--object-store-options", &open], "chmod 600"),
            (vec!["--object-store-options", &open], "--object-store"),
        ] {
            let answer = cluster.muster(&[&start[..], &flags].concat()).await?;
            assert!(answer.code != 0 && answer.stderr.contains(said), "{flags:?}: {}", answer.stderr);
            assert!(!answer.stderr.contains("s3cret"), "{}", answer.stderr);
        }
        Ok(())
    })
    .await;
}
