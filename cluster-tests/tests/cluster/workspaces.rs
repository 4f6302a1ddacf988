//! Workspaces, by the command and on the wire: what belongs to another one is as if it were not there, for every call that names
//! a job; a role that is taken back ends open streams; all of it outlives the death of every coordinator.

use crate::support::{alone, held_by, open, shared};
use anyhow::Context as _;
use client::v1;
use client::v1::jobs_client::JobsClient;
use client::v1::lineage_client::LineageClient;
use cluster_tests::{Answer, Cluster, PATIENCE, Shape, spec, until};
use identity::{Authorized, Credentials, Secret};
use serde_json::Value;
use tonic::Status;
use tonic::transport::Endpoint;
use types::{CodeSnapshot, ContentHash, JobId, JobPhase, JobSpec, Workspace};

const NOBODY: (&str, &str) = ("MUSTER_CREDENTIALS", "");

/// A user and how to call as them.
pub struct Person {
    secret: String,
}

impl Person {
    pub async fn new(cluster: &Cluster, name: &str, roles: &[&str]) -> anyhow::Result<Self> {
        let roles = roles.iter().flat_map(|role| ["--role", role]);
        let line: Vec<&str> = ["users", "create", name].into_iter().chain(roles).collect();
        cluster.muster(&line).await?.good()?;
        let made = cluster.muster(&["tokens", "create", "--user", name]).await?.good()?;
        Ok(Self { secret: made.stdout.trim().to_owned() })
    }

    pub async fn run(&self, cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Answer> {
        cluster.muster_with(arguments, &[NOBODY, ("MUSTER_ACCESS_TOKEN", &self.secret)]).await
    }

    pub async fn json(&self, cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Value> {
        let line: Vec<&str> = arguments.iter().copied().chain(["-o", "json"]).collect();
        self.run(cluster, &line).await?.good()?.json()
    }

    /// Calls one coordinator as them.
    fn channel(&self, cluster: &Cluster) -> anyhow::Result<Authorized> {
        let address = &cluster.addresses_of(1)?.0;
        let credentials = Credentials { coordinators: vec![address.clone()], token: Secret::parse(&self.secret)? };
        Ok(credentials.lazy(&Endpoint::from_shared(format!("http://{address}"))?)?)
    }

    async fn jobs_seen(&self, cluster: &Cluster) -> anyhow::Result<Vec<u64>> {
        let listed = self.json(cluster, &["jobs", "list", "--all"]).await?;
        let jobs = listed["jobs"].as_array().context("no list")?.iter().map(|job| job["id"].as_u64());
        jobs.collect::<Option<Vec<_>>>().context("a job without a number")
    }
}

pub fn within(name: &str, spec: JobSpec) -> JobSpec {
    JobSpec { workspace: Workspace::new(name).ok(), ..spec }
}

/// What every call that names a job says of this one; the number taken out.
async fn answers(channel: &Authorized, job: u64) -> Vec<(&'static str, Result<(), Status>)> {
    let (mut jobs, mut lineage) = (JobsClient::new(channel.clone()), LineageClient::new(channel.clone()));
    let mut all = Vec::new();
    all.push(("get", jobs.get(v1::GetJobRequest { job_id: job, ..Default::default() }).await.map(drop)));
    all.push(("stale get", jobs.get(v1::GetJobRequest { job_id: job, stale: true }).await.map(drop)));
    all.push(("cancel", jobs.cancel(v1::CancelJobRequest { job_id: job, ..Default::default() }).await.map(drop)));
    all.push(("keep", jobs.keep(v1::KeepJobRequest { job_id: job, release: false }).await.map(drop)));
    let priority = v1::SetPriorityRequest { job_id: job, priority: 1 };
    all.push(("priority", jobs.set_priority(priority).await.map(drop)));
    all.push(("watch", jobs.watch(v1::WatchJobsRequest { job_id: job, after_index: 0 }).await.map(drop)));
    all.push(("logs", jobs.logs(v1::LogsRequest { job_id: job, ..Default::default() }).await.map(drop)));
    let local = v1::LogsRequest { job_id: job, local: true, ..Default::default() };
    all.push(("local logs", jobs.logs(local).await.map(drop)));
    all.push(("metrics", jobs.metrics(v1::MetricsRequest { job_id: job, ..Default::default() }).await.map(drop)));
    all.push(("explain", jobs.explain(v1::ExplainRequest { job_id: job, local: false }).await.map(drop)));
    all.push(("lineage", lineage.get(v1::LineageRequest { job_id: job, ..Default::default() }).await.map(drop)));
    let record = v1::LineageRecordsRequest { after: 0, job_id: job };
    all.push(("lineage records", lineage.records(record).await.map(drop)));
    let check = v1::LineageCheckRequest { job_id: job, deep: false };
    all.push(("lineage check", lineage.check(check).await.map(drop)));
    all
}

fn told(answer: &Result<(), Status>, job: u64) -> String {
    match answer {
        Ok(()) => "ok".to_owned(),
        Err(status) => format!("{:?} {}", status.code(), status.message().replace(&job.to_string(), "N")),
    }
}

#[tokio::test]
async fn jobs_of_another_workspace_are_as_if_they_were_not_there() {
    shared(async |cluster| {
        for name in ["vision", "text"] {
            cluster.muster(&["workspaces", "create", name, "--note", "a group"]).await?.good()?;
        }
        let ana = Person::new(cluster, "ana-w", &["data-scientist@vision"]).await?;
        let ben = Person::new(cluster, "ben-w", &["data-scientist@text", "reader@vision"]).await?;
        let client = cluster.client();
        let theirs = client.submit(&within("text", spec("echo seen"))).await?;
        let common = client.submit(&spec("true")).await?;
        let file = cluster.write("w/job.yml", "command: echo hello\n")?.display().to_string();
        // Who may submit in one workspace only need not name it.
        let own = JobId(ana.run(cluster, &["submit", &file]).await?.good()?.stdout.trim().parse()?);
        let shown = ana.json(cluster, &["jobs", "show", &own.to_string()]).await?;
        assert_eq!(shown["spec"]["workspace"], "vision", "{shown}");
        for job in [theirs, common, own] {
            cluster.until_phase(job, JobPhase::Completed).await?;
        }

        let channel = ana.channel(cluster)?;
        let never = 4_000_000_000;
        let missing = answers(&channel, never).await;
        for job in [theirs.0, common.0] {
            for ((call, foreign), (_, missing)) in answers(&channel, job).await.iter().zip(&missing) {
                let (foreign, missing) = (told(foreign, job), told(missing, never));
                assert!(foreign == missing && foreign.starts_with("NotFound"), "{call}: {foreign} / {missing}");
            }
        }
        for (call, answer) in answers(&channel, own.0).await {
            // It has ended: its priority is settled.
            let is_served =
                answer.is_ok() || call == "priority" && told(&answer, own.0).starts_with("FailedPrecondition");
            assert!(is_served, "{call}: {answer:?}");
        }

        // Of the rest there are the hashes, so that her own job's can be followed.
        let exported = ana.run(cluster, &["lineage", "export"]).await?.good()?.stdout;
        let lines: Vec<Value> = exported.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let (hidden, shown): (Vec<&Value>, Vec<&Value>) = lines.iter().partition(|line| line["withheld"] == true);
        assert!(hidden.len() > 1 && hidden.iter().all(|line| line["text"] == "" && line["job"] == 0), "{exported}");
        assert!(shown.len() == 1 && shown[0]["job"] == own.0, "{exported}");
        ana.run(cluster, &["lineage", "verify"]).await?.good()?;

        assert_eq!(ana.jobs_seen(cluster).await?, [own.0]);
        let table = ana.run(cluster, &["jobs", "list"]).await?.good()?.stdout;
        assert!(!table.contains("WORKSPACE"), "there is one only: {table}");
        let seen = ben.jobs_seen(cluster).await?;
        assert!(seen.contains(&own.0) && seen.contains(&theirs.0) && !seen.contains(&common.0), "{seen:?}");
        let table = ben.run(cluster, &["jobs", "list", "--all"]).await?.good()?.stdout;
        assert!(table.contains("WORKSPACE") && table.contains("vision"), "they are told apart: {table}");
        let of_text = ben.json(cluster, &["jobs", "list", "--all", "--workspace", "text"]).await?;
        assert_eq!(of_text["jobs"].as_array().map(Vec::len), Some(1), "{of_text}");
        // Who may look and not touch is told so, and not that it is not there.
        let touched = ben.run(cluster, &["jobs", "cancel", &own.to_string()]).await?;
        assert!(touched.code == 5 && touched.stderr.contains("jobs/write"), "{}", touched.stderr);
        let elsewhere = ana.run(cluster, &["submit", "--workspace", "text", &file]).await?;
        let nowhere = ana.run(cluster, &["submit", "--workspace", "nowhere", &file]).await?;
        let same = elsewhere.stderr.replace("text", "nowhere");
        assert!(elsewhere.code == 3 && same == nowhere.stderr, "{} / {}", elsewhere.stderr, nowhere.stderr);
        let trail = cluster.muster(&["audit", "list", "-n", "1000"]).await?.good()?.stdout;
        let is_told = |line: &str| line.contains("user/ana-w") && line.contains(&format!("job {theirs}"));
        assert!(trail.lines().any(is_told), "the attempts are in the trail: {trail}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_workspaces_owner_gives_roles_there_and_nowhere_else() {
    shared(async |cluster| {
        cluster.muster(&["workspaces", "create", "lab"]).await?.good()?;
        let olga = Person::new(cluster, "olga", &["owner@lab"]).await?;
        let pia = Person::new(cluster, "pia", &["auditor"]).await?;
        let listed = olga.json(cluster, &["workspaces", "list"]).await?;
        assert_eq!(listed["workspaces"][0]["name"], "lab");
        assert_eq!(listed["workspaces"].as_array().map(Vec::len), Some(1), "{listed}");

        let given = olga.json(cluster, &["users", "grant", "pia", "reader@lab"]).await?;
        assert_eq!(given["users"][0]["roles"], serde_json::json!(["reader@lab"]), "not what pia is elsewhere: {given}");
        let who = pia.json(cluster, &["whoami"]).await?;
        assert_eq!(who["roles"], serde_json::json!(["reader@lab", "auditor"]), "{who}");
        let may = who["permissions"].as_array().context("no permissions")?;
        assert!(may.contains(&"jobs/read@lab".into()) && !may.contains(&"jobs/read".into()), "{who}");
        for line in [
            ["users", "grant", "pia", "reader"],
            ["users", "grant", "pia", "reader@default"],
            ["users", "withdraw", "pia", "auditor"],
            ["users", "create", "eve", "--role=reader@lab"],
            ["workspaces", "create", "mine", "--note="],
            ["users", "grant", "pia", "reader@nowhere"],
        ] {
            let refused = olga.run(cluster, &line).await?;
            assert_eq!(refused.code, 5, "{line:?}: {}", refused.stderr);
        }
        let kept = cluster.muster(&["workspaces", "remove", "lab"]).await?;
        assert!(kept.code == 1 && kept.stderr.contains("has a role"), "{} {}", kept.code, kept.stderr);
        olga.run(cluster, &["users", "withdraw", "pia", "reader@lab"]).await?.good()?;
        assert_eq!(pia.json(cluster, &["whoami"]).await?["roles"], serde_json::json!(["auditor"]));
        let wrong = cluster.muster(&["users", "grant", "pia", "king@lab", "reader@-"]).await?;
        assert!(wrong.code == 2 && wrong.stderr.contains("king") && wrong.stderr.contains("\"-\""), "{}", wrong.stderr);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_role_that_is_taken_back_ends_open_streams_and_nothing_is_forgotten() {
    alone(Shape::new(3, 1), async |cluster| {
        cluster.muster(&["workspaces", "create", "vision"]).await?.good()?;
        let ana = Person::new(cluster, "ana", &["reader@vision", "reader@default"]).await?;
        let held = cluster.client().submit(&within("vision", held_by(cluster, "gate"))).await?;
        cluster.until_phase(held, JobPhase::Running).await?;
        let mut jobs = JobsClient::new(ana.channel(cluster)?);
        let watch = v1::WatchJobsRequest { job_id: held.0, after_index: 0 };
        let mut events = jobs.watch(watch).await?.into_inner();
        let logs = v1::LogsRequest { job_id: held.0, follow: true, ..Default::default() };
        let mut chunks = jobs.logs(logs.clone()).await?.into_inner();
        events.message().await?.context("the job as it is")?;
        cluster.muster(&["users", "withdraw", "ana", "reader@vision"]).await?.good()?;
        // Each ends, and who asks again is told that there is no such job.
        tokio::time::timeout(PATIENCE, async { while let Ok(Some(_)) = events.message().await {} }).await?;
        tokio::time::timeout(PATIENCE, async { while let Ok(Some(_)) = chunks.message().await {} }).await?;
        let again = jobs.logs(logs).await.err().context("it was served")?;
        assert_eq!(again.code(), tonic::Code::NotFound, "{again}");

        for id in 1..=3 {
            cluster.coordinator(id)?.kill()?;
        }
        for id in 1..=3 {
            cluster.restart_coordinator(id).await?;
        }
        until("the cluster to serve again", PATIENCE, async || cluster.client().get(held).await.ok()).await?;
        assert_eq!(ana.jobs_seen(cluster).await?, [0; 0]);
        cluster.muster(&["users", "grant", "ana", "reader@vision"]).await?.good()?;
        assert_eq!(ana.jobs_seen(cluster).await?, [held.0]);
        open(cluster, "gate")?;
        cluster.until_phase(held, JobPhase::Completed).await?;
        let kept = cluster.muster(&["workspaces", "remove", "vision"]).await?;
        assert!(kept.code == 1 && kept.stderr.contains("has a job"), "{}", kept.stderr);
        Ok(())
    })
    .await;
}

/// What calls that name this blob say to them.
async fn blob_answers(channel: &Authorized, hash: &[u8], place: (&str, u64)) -> Vec<(&'static str, String)> {
    use client::v1::blobs_client::BlobsClient;
    let mut blobs = BlobsClient::new(channel.clone());
    let (hash, (workspace, job_id)) = (bytes::Bytes::copy_from_slice(hash), place);
    let workspace = workspace.to_owned();
    let get = v1::GetBlobRequest { hash: hash.clone(), workspace: workspace.clone(), job_id, local: false };
    let got = blobs.get(get.clone()).await.map(drop);
    let local = blobs.get(v1::GetBlobRequest { local: true, ..get }).await.map(drop);
    let question = v1::MissingRequest { hashes: vec![hash], workspace, job_id, local: false };
    let missing = blobs.missing(question).await.map(|answer| answer.into_inner().hashes.len());
    let said =
        |answer: Result<(), Status>| answer.map_or_else(|status| format!("{:?}", status.code()), |()| "it".into());
    let lacks = missing.map_or_else(|status| format!("{:?}", status.code()), |count| format!("{count} missing"));
    vec![("get", said(got)), ("get here", said(local)), ("missing", lacks)]
}

/// What somebody of `vision`, of another place and a reader are told of a file of a job in `vision`.
async fn are_apart(cluster: &Cluster, people: [&Person; 3], place: &str, hash: &[u8], job: u64) -> anyhow::Result<()> {
    let said = async |person: &Person, place: (&str, u64)| -> anyhow::Result<Vec<String>> {
        let answers = blob_answers(&person.channel(cluster)?, hash, place).await;
        Ok(answers.into_iter().map(|(_, said)| said).collect())
    };
    let [own, foreign, reader] = people;
    for place in [("vision", 0), ("", job), ("", 0)] {
        assert_eq!(said(own, place).await?, ["it", "it", "0 missing"], "{place:?}");
    }
    let (hidden, elsewhere) = (["NotFound"; 3], ["NotFound", "NotFound", "1 missing"]);
    for (place, expected) in [
        (("vision", 0), hidden),
        (("nowhere", 0), hidden),
        (("", job), hidden),
        (("", 4_000_000), hidden),
        (("default", 0), hidden),
        ((place, 0), elsewhere),
        (("", 0), elsewhere),
    ] {
        assert_eq!(said(foreign, place).await?, expected, "{place:?}");
    }
    // Who may look and not submit is told so.
    assert_eq!(said(reader, ("vision", 0)).await?, ["it", "it", "PermissionDenied"]);
    Ok(())
}

/// A job of this person in its workspace that names the code of somebody else's; how it ended.
async fn stolen(cluster: &Cluster, person: &Person, code: ContentHash) -> anyhow::Result<v1::JobSummary> {
    let spec = JobSpec { code: Some(CodeSnapshot { tree: code, git: None }), ..spec("cat weights") };
    let spec = Some(proto::convert::wire_job_spec(&spec));
    let wire = v1::SubmitRequest { request_id: vec![9; 16].into(), spec, wait_for_workers: false };
    let job = JobsClient::new(person.channel(cluster)?).submit(wire).await?.into_inner().job_id;
    Ok(cluster.ended(JobId(job)).await?.summary.unwrap_or_default())
}

#[tokio::test]
async fn files_of_another_workspace_are_as_if_they_were_not_there() {
    alone(Shape::new(3, 1), async |cluster| {
        for name in ["vision", "speech", "text"] {
            cluster.muster(&["workspaces", "create", name]).await?.good()?;
        }
        let ana = Person::new(cluster, "ana", &["data-scientist@vision"]).await?;
        let bo = Person::new(cluster, "bo", &["data-scientist@speech"]).await?;
        let eve = Person::new(cluster, "eve", &["reader@vision"]).await?;
        let weights = "weights of vision";
        cluster.write("v/code/weights", weights)?;
        let job = "command: cp weights ${{outputs.model}}/\ncode: code\noutputs: {model: {type: uri_folder}}\n";
        let file = cluster.write("v/job.yml", job)?.display().to_string();
        let own: u64 = ana.run(cluster, &["submit", &file]).await?.good()?.stdout.trim().parse()?;
        cluster.until_phase(JobId(own), JobPhase::Completed).await?;
        let hash = crate::support::hex(weights.as_bytes());
        let on_disk = |id: u64, place: &str| {
            cluster.folder().join(format!("coordinator-{id}/blobs/{place}{}/{}", &hash[..2], &hash[2..])).exists()
        };
        assert!((1..=3).filter(|id| on_disk(*id, "@vision/")).count() >= 2, "in the workspace's own folder");
        assert!((1..=3).all(|id| !on_disk(id, "")), "and not where all look");
        let bytes: ContentHash = hash.parse()?;

        are_apart(cluster, [&ana, &bo, &eve], "speech", &bytes.0, own).await?;

        // Nor by a job that names them: there they are not, whatever the worker has.
        let shown = ana.json(cluster, &["jobs", "show", &own.to_string()]).await?;
        let code: ContentHash = shown["spec"]["code"]["tree"].as_str().unwrap_or_default().parse()?;
        let summary = stolen(cluster, &bo, code).await?;
        assert_eq!((summary.phase.as_str(), summary.workspace.as_str()), ("Failed", "speech"));
        assert!(summary.reason.contains("no coordinator has"), "{}", summary.reason);
        // The same bytes of one's own are one's own.
        let again: u64 = bo.run(cluster, &["submit", &file]).await?.good()?.stdout.trim().parse()?;
        cluster.until_phase(JobId(again), JobPhase::Completed).await?;
        for (person, job) in [(&ana, own), (&bo, again)] {
            let folder = cluster.folder().join(format!("got-{job}"));
            person.run(cluster, &["download", &job.to_string(), &folder.display().to_string()]).await?.good()?;
            assert_eq!(std::fs::read_to_string(folder.join("weights"))?, weights);
        }
        cluster.muster(&["lineage", "verify", "--deep"]).await?.good()?;
        for id in 1..=3 {
            cluster.coordinator(id)?.kill()?;
        }
        for id in 1..=3 {
            cluster.restart_coordinator(id).await?;
        }
        cluster.until_ready(1).await?;
        // Who comes later, and has uploaded nothing.
        let later = Person::new(cluster, "cy", &["data-scientist@text"]).await?;
        are_apart(cluster, [&ana, &later, &eve], "text", &bytes.0, own).await?;
        let folder = cluster.folder().join("later").display().to_string();
        ana.run(cluster, &["download", &own.to_string(), &folder]).await?.good()?;
        Ok(())
    })
    .await;
}
