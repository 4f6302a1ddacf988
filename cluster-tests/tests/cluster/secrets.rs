//! Secrets of jobs, by the released command: given to the ranks of whose they are, on no disk, in no log.

use crate::support::{alone, files_with, hex, shared};
use cluster_tests::{Cluster, Shape, spec};
use types::JobSpec;

const CANARY: &str = "c4nary/Of+the \"mine\" 0123456789";

/// As the command `muster secrets set` reads it.
async fn set(cluster: &Cluster, name: &str, value: &str) -> anyhow::Result<()> {
    let file = cluster.write(&format!("given/{name}"), &format!("{value}\n"))?;
    let path = file.display().to_string();
    cluster.muster(&["secrets", "set", name, "--value-file", &path, "--note", "for a test"]).await?.good()?;
    std::fs::remove_file(file)?;
    Ok(())
}

fn with(secret: &str, command: &str) -> JobSpec {
    JobSpec { secrets: [("CANARY".to_owned(), secret.to_owned())].into(), ..spec(command) }
}

/// All that a job said.
async fn said(cluster: &Cluster, job: types::JobId) -> anyhow::Result<String> {
    let job = job.to_string();
    let mut all = String::new();
    for stream in ["stdout", "stderr"] {
        all += &cluster.muster(&["logs", &job, "--stream", stream]).await?.good()?.stdout;
    }
    all += &cluster.muster(&["metrics", &job]).await?.good()?.stdout;
    all += &cluster.muster(&["jobs", "show", &job]).await?.good()?.stdout;
    Ok(all + &cluster.muster(&["jobs", "explain", &job, "-o", "json"]).await?.good()?.stdout)
}

/// Prints the variable in six forms, across the border of a pipe's page, over two writes, on its metrics, and as its last
/// words; it fails by itself, so that these become the job's reason. Before that it makes sure that it has the value.
const TELLTALE: &str = r#"
python3 - <<'END'
import base64, binascii, hashlib, json, os, sys, time, urllib.parse
canary = os.environ["CANARY"]
assert hashlib.sha256(canary.encode()).hexdigest() == os.environ["DIGEST"]
print("plain", canary)
print("json", json.dumps({"key": canary}))
print("base64", base64.b64encode(("user:" + canary).encode()).decode())
print("urlsafe", base64.urlsafe_b64encode(canary.encode()).decode())
print("percent", urllib.parse.quote(canary, safe=""), urllib.parse.quote_plus(canary))
print("hex", binascii.hexlify(canary.encode()).decode())
print("x" * (4096 - 10) + canary)
sys.stdout.flush()
os.write(1, canary[:11].encode()); time.sleep(0.05); os.write(1, (canary[11:] + "\n").encode())
os.write(int(os.environ["MUSTER_METRICS_FD"]), json.dumps({"name": canary, "value": 1}).encode() + b"\n")
sys.exit("failed with " + canary)
END
"#;

#[tokio::test]
async fn a_secret_reaches_its_ranks_and_neither_a_disk_nor_a_log() {
    alone(Shape::new(3, 1), async |cluster| {
        set(cluster, "canary", CANARY).await?;
        let mut job = with("canary", TELLTALE);
        let digest = hex(CANARY.as_bytes());
        job.environment_variables.insert("DIGEST".into(), digest);
        let job = cluster.client().submit(&job).await?;
        let ended = cluster.ended(job).await?;
        let summary = ended.summary.unwrap_or_default();
        assert_eq!(summary.phase, "Failed");
        assert!(summary.reason.contains("failed with [secret CANARY]"), "{}", summary.reason);
        let said = said(cluster, job).await?;
        for form in ["plain [secret CANARY]", "percent [secret CANARY] [secret CANARY]", "hex [secret CANARY]"] {
            assert!(said.contains(form), "{form}: {said}");
        }
        assert_eq!(said.matches("[secret CANARY]\n").count(), 7, "{said}");
        assert!(said.contains("canary, as CANARY") && said.contains("by admin"), "{said}");
        // Not even in a life that ended without a farewell.
        let parts = [CANARY, &CANARY[..16], "YzRuYXJ5L09mK3Ro", "c4nary%2FOf%2Bthe"];
        for id in 1..=3 {
            cluster.coordinator(id)?.kill()?;
        }
        cluster.worker("worker-1")?.kill()?;
        for part in parts {
            assert!(!said.contains(part), "{part}: {said}");
            let found = files_with(cluster.folder(), part)?;
            assert!(found.is_empty(), "{part}: {found:?}");
        }
        let logs = cluster.logs();
        assert!(parts.iter().all(|part| !logs.contains(part)));
        for id in 1..=3 {
            cluster.restart_coordinator(id).await?;
        }
        cluster.restart_worker("worker-1")?;
        cluster.until_ready(1).await?;
        // Whoever leads now can open it, and the trail says who got it.
        let again = with("canary", "test ${#CANARY} -eq 31");
        let again = cluster.client().submit(&again).await?;
        assert_eq!(cluster.ended(again).await?.summary.unwrap_or_default().phase, "Completed");
        let trail = cluster.muster(&["audit", "list", "--grep", "canary"]).await?.good()?.stdout;
        for word in ["secrets/set", "canary version 1", "worker/worker-1", "secrets/use"] {
            assert!(trail.contains(word), "{word}: {trail}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_secret_is_for_the_jobs_of_whom_it_is_shared_with() {
    shared(async |cluster| {
        set(cluster, "lab.key", "first value of it").await?;
        for user in ["sam", "tom"] {
            cluster.muster(&["users", "create", user, "--role", "data-scientist"]).await?.good()?;
        }
        let made = cluster.muster(&["tokens", "create", "--user", "sam"]).await?.good()?.stdout;
        let token = made.trim().to_owned();
        let sam = [("MUSTER_ACCESS_TOKEN", token.as_str()), ("MUSTER_CREDENTIALS", "")];
        let job = "command: test \"$KEY\" = \"second value of it\"\nx-muster:\n  secrets:\n    KEY: lab.key\n";
        let job = cluster.write("lab/job.yml", job)?.display().to_string();
        let refused = cluster.muster_with(&["submit", &job], &sam).await?;
        assert!(refused.code != 0 && refused.stderr.contains("lab.key"), "{}", refused.stderr);
        let seen = cluster.muster_with(&["secrets", "list"], &sam).await?.good()?.stdout;
        assert!(!seen.contains("lab.key"), "{seen}");
        let foreign = cluster.write("lab/foreign", "something else")?.display().to_string();
        let foreign = cluster.muster_with(&["secrets", "set", "lab.key", "--value-file", &foreign], &sam).await?;
        assert_eq!(foreign.code, 5, "{}", foreign.stderr);
        cluster.muster(&["secrets", "share", "lab.key", "--with", "sam"]).await?.good()?;
        set(cluster, "lab.key", "second value of it").await?;
        let listed = cluster.muster_with(&["secrets", "list", "-o", "json"], &sam).await?.good()?.json()?;
        let found = &listed["secrets"][0];
        assert_eq!(
            (&found["name"], &found["version"], &found["owner"]),
            (&"lab.key".into(), &2.into(), &"admin".into())
        );
        let submitted = cluster.muster_with(&["submit", &job, "-o", "json"], &sam).await?.good()?.json()?;
        let job = submitted["job_id"].as_u64().map(types::JobId);
        let job = job.ok_or_else(|| anyhow::anyhow!("no job in {submitted}"))?;
        let ended = cluster.ended(job).await?;
        let summary = ended.summary.unwrap_or_default();
        assert_eq!((summary.phase.as_str(), ended.submitted_by.as_str()), ("Completed", "sam"), "{}", summary.reason);
        // Taken back while a job waits: it does not get it, and says so.
        let waiting = with("lab.key", "true");
        let other = cluster.muster(&["secrets", "remove", "lab.key"]).await?;
        other.good()?;
        let gone = cluster.client().submit(&waiting).await;
        assert!(gone.is_err_and(|error| error.to_string().contains("lab.key")));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_secret_that_is_taken_back_ends_the_job_that_waits_for_it_in_words() {
    alone(Shape::new(1, 0), async |cluster| {
        set(cluster, "gone", "a value for later").await?;
        let job = cluster.client().submit_for_later(&with("gone", "true")).await?;
        cluster.muster(&["secrets", "remove", "gone"]).await?.good()?;
        crate::support::add_worker(cluster, "late", 1, &[])?;
        let ended = cluster.ended(job).await?.summary.unwrap_or_default();
        assert_eq!(ended.phase, "Failed");
        assert!(ended.reason.contains("secret gone is not there for this job any more"), "{}", ended.reason);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_a_secret_is_refused_in_words() {
    shared(async |cluster| {
        let attempt = async |name: &str, value: &str| {
            let path = cluster.write("given/bad", value)?.display().to_string();
            cluster.muster(&["secrets", "set", name, "--value-file", &path]).await
        };
        let (long, nul) = ("x".repeat(40_000), "with a \0 in it");
        for (name, value, words) in [
            ("short", "1234567", "8 to 32768 bytes"),
            ("long", long.as_str(), "8 to 32768 bytes"),
            ("nul", nul, "NUL"),
            ("a name", "long enough", "no name of a secret"),
        ] {
            let answer = attempt(name, value).await?;
            assert!(answer.code == 2 && answer.stderr.contains(words), "{name}: {} {}", answer.code, answer.stderr);
        }
        let job = "command: \"true\"\nenvironment_variables: { A: b }\nx-muster:\n  secrets: { A: x, \"B=\": y, C: \"no/name\" }\n";
        let job = cluster.write("given/job.yml", job)?.display().to_string();
        let answer = cluster.muster(&["submit", &job]).await?;
        assert_eq!(answer.code, 2);
        for words in [
            "job.yml:4:14: x-muster.secrets.A: is among the environment_variables too",
            "job.yml:4:20: x-muster.secrets.\"B=\": \"B=\" cannot name a variable",
            "job.yml:4:32: x-muster.secrets.C: \"no/name\" is no name of a secret",
        ] {
            assert!(answer.stderr.contains(words), "{words}: {}", answer.stderr);
        }
        let unchanged = cluster.muster(&["secrets", "share", "whatever"]).await?;
        assert_eq!(unchanged.code, 2, "{}", unchanged.stderr);
        let missing = cluster.muster(&["secrets", "remove", "no-such"]).await?;
        assert!(missing.code != 0 && missing.stderr.contains("there is no secret"), "{}", missing.stderr);
        Ok(())
    })
    .await;
}

/// Has the value by the path in the variable, in a child of a child as well; nobody may write to it; it is in no variable.
const READER: &str = r#"
set -e
case "$CANARY" in /proc/*/fd/*) ;; *) echo "no path: $CANARY"; exit 1;; esac
test "$(python3 -c 'import hashlib,os,sys; print(hashlib.sha256(open(os.environ["CANARY"]).read().encode()).hexdigest())')" = "$DIGEST"
test "$(stat -L -c %a "$CANARY")" = 400
if (echo x > "$CANARY") 2>/dev/null; then echo "written"; exit 1; fi
if grep -aq "c4""nary" "/proc/$$/environ"; then echo "in the environment"; exit 1; fi
cat "$CANARY"
if [ -n "$HOLD" ]; then echo "$CANARY" > "$HOLD.part"; mv "$HOLD.part" "$HOLD"; while [ -e "$HOLD" ]; do sleep 0.05; done; fi
"#;

#[tokio::test]
async fn a_secret_comes_in_a_file_that_only_its_ranks_read() {
    alone(Shape::new(3, 1), async |cluster| {
        set(cluster, "canary", CANARY).await?;
        let hold = cluster.folder().join("hold");
        let (digest, path) = (hex(CANARY.as_bytes()), hold.display().to_string());
        let indented = READER.replace('\n', "\n  ");
        let text = format!(
            "command: |\n  {indented}\nenvironment_variables:\n  DIGEST: {digest}\n  HOLD: {path}\nx-muster:\n  secrets:\n    CANARY: {{file: canary}}\n"
        );
        let job = cluster.submit("file/job.yml", &text).await?;
        let found = crate::support::line_in(&hold).await?;
        // Root looks into every process: what tells whose it is are its owner and mode.
        use std::os::unix::fs::MetadataExt as _;
        let there = std::fs::metadata(found.trim())?;
        assert_eq!((there.mode() & 0o777, there.uid()), (0o400, rustix::process::geteuid().as_raw()));
        std::fs::remove_file(&hold)?;
        let ended = cluster.ended(job).await?.summary.unwrap_or_default();
        let all = said(cluster, job).await?;
        assert_eq!(ended.phase, "Completed", "{}: {all}", ended.reason);
        assert!(all.contains("[secret CANARY]") && !all.contains(&CANARY[..16]), "{all}");
        assert!(std::fs::metadata(found.trim()).is_err(), "it is gone with the rank");
        let left: Vec<_> = files_with(cluster.folder(), CANARY)?.into_iter().filter(|file| !file.ends_with("job.yml")).collect();
        assert!(left.is_empty(), "on a disk: {left:?}");
        let shown = cluster.muster(&["jobs", "show", &job.to_string()]).await?.good()?.stdout;
        assert!(shown.contains("canary, in a file, its path in CANARY"), "{shown}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_workspaces_secret_is_for_every_job_there_and_no_other() {
    alone(Shape::new(3, 1), async |cluster| {
        for name in ["vision", "speech"] {
            cluster.muster(&["workspaces", "create", name]).await?.good()?;
        }
        let mut people = Vec::new();
        for (user, role) in
            [("lead", "contributor@vision"), ("eye", "data-scientist@vision"), ("ear", "data-scientist@speech")]
        {
            cluster.muster(&["users", "create", user, "--role", role]).await?.good()?;
            people.push(cluster.muster(&["tokens", "create", "--user", user]).await?.good()?.stdout.trim().to_owned());
        }
        let [lead, eye, ear] =
            [0, 1, 2].map(|n| [("MUSTER_ACCESS_TOKEN", people[n].as_str()), ("MUSTER_CREDENTIALS", "")]);
        let value = cluster.write("given/value", "a value of vision")?.display().to_string();
        let line = ["secrets", "set", "key@vision", "--value-file", &value];
        assert_eq!(cluster.muster_with(&line, &eye).await?.code, 5, "who submits does not set it");
        let foreign = cluster.muster_with(&line, &ear).await?;
        assert!(foreign.code == 3 && foreign.stderr.contains("no workspace"), "{}", foreign.stderr);
        cluster.muster_with(&line, &lead).await?.good()?;
        std::fs::remove_file(&value)?;
        let listed = cluster.muster_with(&["secrets", "list"], &eye).await?.good()?.stdout;
        assert!(listed.contains("key@vision") && listed.contains("jobs in vision"), "{listed}");
        let hidden = cluster.muster_with(&["secrets", "list"], &ear).await?.good()?.stdout;
        assert!(!hidden.contains("key@vision"), "{hidden}");
        let digest = hex(b"a value of vision");
        let job = format!("command: test \"$(printf %s \"$KEY\" | sha256sum | cut -c1-64)\" = {digest}\nx-muster:\n  secrets:\n    KEY: key@vision\n");
        let job = cluster.write("place/job.yml", &job)?.display().to_string();
        let refused = cluster.muster_with(&["submit", &job], &ear).await?;
        assert!(refused.code == 3 && refused.stderr.contains("key@vision"), "{}", refused.stderr);
        // The values outlive everybody, and an exchange of the key.
        for id in 1..=3 {
            cluster.coordinator(id)?.kill()?;
        }
        for id in 1..=3 {
            cluster.restart_coordinator(id).await?;
        }
        cluster.until_ready(1).await?;
        cluster.muster(&["secrets", "rekey"]).await?.good()?;
        let submitted = cluster.muster_with(&["submit", &job, "-o", "json"], &eye).await?.good()?.json()?;
        let id = submitted["job_id"].as_u64().map(types::JobId).unwrap_or_default();
        let ended = cluster.ended(id).await?;
        let summary = ended.summary.unwrap_or_default();
        assert_eq!((summary.phase.as_str(), summary.workspace.as_str()), ("Completed", "vision"), "{}", summary.reason);
        let shared = cluster.muster_with(&["secrets", "share", "key@vision", "--with", "ear"], &lead).await?;
        assert!(shared.code != 0 && shared.stderr.contains("every job in workspace vision"), "{}", shared.stderr);
        let left = files_with(cluster.folder(), "a value of vision")?;
        assert!(left.is_empty(), "on a disk: {left:?}");
        Ok(())
    })
    .await;
}
