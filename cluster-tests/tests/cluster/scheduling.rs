//! Who starts when and where: order, reasons, cordon and drain.

use crate::support::{alone, line_in};
use cluster_tests::{Cluster, PATIENCE, Shape, gang, spec, until};
use types::{JobId, JobPhase, JobSpec};

/// A gang that takes both workers of one slot, until the file is there.
fn whole_cluster(cluster: &Cluster, name: &str, gate: &str) -> JobSpec {
    let folder = cluster.folder().display();
    let mut job = gang(
        2,
        &format!(
            "test $MUSTER_RANK = 0 && echo {name} >> {folder}/order; while [ ! -e {folder}/{gate} ]; do sleep 0.02; done"
        ),
    );
    job.display_name = name.into();
    job
}

#[tokio::test]
async fn higher_priority_goes_first_and_equals_in_order_of_submission() {
    alone(Shape::new(1, 2).cpus(1), async |cluster| {
        let client = cluster.client();
        let first = client.submit(&whole_cluster(cluster, "first", "gate")).await?;
        cluster.until_phase(first, JobPhase::Running).await?;
        let mut jobs = Vec::new();
        for (name, priority) in [("low", -1), ("one", 0), ("two", 0), ("high", 5)] {
            let mut job = whole_cluster(cluster, name, "gate");
            job.priority = priority;
            jobs.push(client.submit(&job).await?);
        }
        explained(cluster, &jobs).await?;
        std::fs::write(cluster.folder().join("gate"), "")?;
        for job in jobs {
            assert_eq!(cluster.ended(job).await?.summary.unwrap_or_default().phase, "Completed");
        }
        assert_eq!(std::fs::read_to_string(cluster.folder().join("order"))?, "first\nhigh\none\ntwo\nlow\n");
        Ok(())
    })
    .await;
}

/// `jobs` are low, one, two, high, all waiting.
async fn explained(cluster: &Cluster, jobs: &[JobId]) -> anyhow::Result<()> {
    let explain = async |job: JobId| cluster.muster(&["jobs", "explain", &job.to_string(), "-o", "json"]).await?.json();
    let (low, two, high) = (explain(jobs[0]).await?, explain(jobs[2]).await?, explain(jobs[3]).await?);
    assert_eq!((high["position"].as_u64(), low["position"].as_u64()), (Some(1), Some(4)), "{high} {low}");
    let ahead: Vec<u64> = two["ahead"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64).collect();
    assert_eq!(ahead, [jobs[3].0, jobs[1].0], "{two}");
    assert!(high["summary"].as_str().unwrap_or_default().contains("2 instances"), "{high}");
    let pending = cluster.muster(&["jobs", "list", "--pending", "-o", "json"]).await?.json()?;
    assert_eq!(pending["jobs"].as_array().map(Vec::len), Some(4));
    Ok(())
}

#[tokio::test]
async fn a_cordoned_worker_gets_nothing_new_and_keeps_what_it_runs() {
    alone(Shape::new(1, 2).cpus(1), async |cluster| {
        let client = cluster.client();
        let folder = cluster.folder().display().to_string();
        let running = client.submit(&whole_cluster(cluster, "running", "gate")).await?;
        cluster.until_phase(running, JobPhase::Running).await?;
        cluster.muster(&["workers", "cordon", "worker-1"]).await?.good()?;
        let shown = cluster.muster(&["workers", "show", "worker-1", "-o", "json"]).await?.json()?;
        assert_eq!(shown["state"], "cordoned");
        std::fs::write(format!("{folder}/gate"), "")?;
        assert_eq!(cluster.ended(running).await?.attempts.len(), 1);

        let waiting = client.submit(&gang(2, "true")).await?;
        let small = client.submit(&spec("echo $MUSTER_WORKER")).await?;
        assert_eq!(cluster.ended(small).await?.summary.unwrap_or_default().workers, ["worker-2"]);
        let why = client.explain(waiting).await?;
        assert_eq!(why.phase, "Queued");
        let text = format!("{} {:?} {:?}", why.summary, why.details, why.hints);
        assert!(text.contains("worker-1") || text.contains("cordon"), "{text}");
        cluster.muster(&["workers", "uncordon", "worker-1"]).await?.good()?;
        assert_eq!(cluster.ended(waiting).await?.summary.unwrap_or_default().phase, "Completed");
        Ok(())
    })
    .await;
}

async fn until_empty(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let client = cluster.client();
    until("the drained worker to be empty", PATIENCE, async || {
        let workers = client.workers().await.ok()?;
        workers.iter().any(|worker| worker.name == name && worker.jobs.is_empty()).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_drain_with_a_deadline_lets_short_jobs_come_and_a_later_leader_stops_at_it_what_still_runs() {
    alone(Shape::new(3, 2).cpus(2), async |cluster| {
        let client = cluster.client();
        let long = "trap 'exit 143' TERM; test $MUSTER_ATTEMPT = 2 && exit 0; while :; do sleep 0.05; done";
        let moved = client.submit(&spec(long)).await?;
        cluster.until_phase(moved, JobPhase::Running).await?;
        let at = client.get(moved).await?.summary.unwrap_or_default().workers.remove(0);
        let other = if at == "worker-1" { "worker-2" } else { "worker-1" };
        cluster.muster(&["workers", "cordon", other]).await?.good()?;
        cluster.muster(&["workers", "drain", &at, "--within", "8s"]).await?.good()?;

        // One that says that it will be gone by then is let in; one that does not say so counts as an hour and is not.
        let mut short = spec("echo $MUSTER_WORKER");
        short.timeout = Some(types::Millis(1_000));
        let short = cluster.ended(client.submit(&short).await?).await?.summary.unwrap_or_default();
        assert_eq!((short.phase.as_str(), short.workers), ("Completed", vec![at.clone()]));
        let waiting = client.submit(&spec("true")).await?;
        let why = client.explain(waiting).await?;
        assert_eq!((why.phase.as_str(), why.obstacle.as_str()), ("Queued", "closing"), "{}", why.summary);

        let shown = cluster.muster(&["workers", "show", &at, "-o", "json"]).await?.json()?;
        let deadline = shown["drained_by_ms"].as_u64().unwrap_or_default();
        assert_eq!(shown["state"], "draining");
        let past = cluster.muster(&["workers", "drain", other, "--by", "2026-01-01T00:00:00Z"]).await?;
        assert!(past.code == 2 && past.stderr.contains("is past"), "{past:?}");
        let leader = cluster.leader().await?;
        cluster.coordinator(leader)?.kill()?;
        until_empty(cluster, &at).await?;
        let job = client.get(moved).await?;
        let first = job.attempts.first().cloned().unwrap_or_default();
        assert_eq!(first.cause_kind, "drained");
        assert!(first.ended_ms >= deadline, "{} is before the deadline {deadline}", first.ended_ms);
        cluster.muster(&["workers", "uncordon", other]).await?.good()?;
        assert_eq!(cluster.ended(moved).await?.summary.unwrap_or_default().phase, "Completed");
        assert_eq!(cluster.ended(waiting).await?.summary.unwrap_or_default().workers, [other]);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_job_stays_away_from_a_group_and_its_instances_from_each_other() {
    alone(Shape::new(1, 2).cpus(2), async |cluster| {
        let client = cluster.client();
        let gate = cluster.folder().join("gate").display().to_string();
        let mut serving = spec(&format!("while ! test -e {gate}; do sleep 0.05; done"));
        serving.constraints.group = "serving".into();
        let first = client.submit(&serving).await?;
        cluster.until_phase(first, JobPhase::Running).await?;
        serving.constraints.away_from = "serving".into();
        let second = client.submit(&serving).await?;
        cluster.until_phase(second, JobPhase::Running).await?;
        let place = async |job| Ok::<_, client::Error>(client.get(job).await?.summary.unwrap_or_default().workers);
        assert_ne!(place(first).await?, place(second).await?);

        // There is a free slot on each worker, and none without the group.
        let third = client.submit(&serving).await?;
        let why = client.explain(third).await?;
        assert_eq!((why.phase.as_str(), why.obstacle.as_str()), ("Queued", "no_capacity"), "{}", why.summary);
        let text = format!("{:?}", why.details);
        assert!(text.contains("not where jobs of the group serving are"), "{text}");
        std::fs::write(&gate, "")?;
        assert_eq!(cluster.ended(third).await?.summary.unwrap_or_default().phase, "Completed");

        // The workers stand in no racks, so that they count as one.
        let mut apart = gang(2, "true");
        apart.gang.spread = Some(types::PlaceLevel::Rack);
        let refused = client.submit(&apart).await.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.contains("needs 2 instances in different racks"), "{refused}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_drained_worker_is_empty_and_its_job_goes_on_elsewhere() {
    alone(Shape::new(1, 2).cpus(1), async |cluster| {
        let folder = cluster.folder().display().to_string();
        let command = format!(
            "trap 'echo asked to stop; exit 143' TERM; echo $MUSTER_WORKER > {folder}/at-$MUSTER_ATTEMPT; \
             test $MUSTER_ATTEMPT = 2 && exit 0; while :; do sleep 0.05; done"
        );
        // No restart is allowed: a drain is not the job's fault and takes none.
        let job = cluster.client().submit(&spec(&command)).await?;
        let at = line_in(&cluster.folder().join("at-1")).await?;
        cluster.muster(&["workers", "drain", &at, "--wait"]).await?.good()?;
        let ended = cluster.ended(job).await?;
        assert_eq!(ended.summary.unwrap_or_default().phase, "Completed");
        assert_eq!((ended.attempts.len(), ended.attempts[0].cause_kind.as_str()), (2, "drained"));
        assert_ne!(line_in(&cluster.folder().join("at-2")).await?, at);
        let logs = cluster.muster(&["logs", &job.to_string(), "--attempt", "1"]).await?.good()?;
        assert_eq!(logs.stdout, "asked to stop\n");
        until_empty(cluster, &at).await
    })
    .await;
}

const SHORT: &str = "
type: command
display_name: short
command: 'true'
resources: {instance_count: 2}
x-muster: {estimate: 100}
";

#[tokio::test]
async fn a_look_ahead_tells_when_a_job_would_start_and_whom_it_would_delay() {
    alone(Shape::new(3, 2).cpus(1), async |cluster| {
        let client = cluster.client();
        let long = |name: &str, seconds: u64| {
            let estimate = Some(types::Millis(seconds * 1_000));
            JobSpec { estimate, ..whole_cluster(cluster, name, "gate") }
        };
        let running = client.submit(&long("running", 600)).await?;
        cluster.until_phase(running, JobPhase::Running).await?;
        let waits = client.submit(&long("waits", 300)).await?;
        let now = cluster.muster(&["simulate", "--from-cluster", "-o", "json"]).await?.json()?;
        let first = &now["starts"][0];
        assert_eq!((first["job_id"].as_u64(), now["waiting"].as_u64()), (Some(waits.0), Some(1)), "{now}");
        assert!((500..=600).contains(&seconds(&now, "now_ms", &now["starts"][0], "start_ms")), "{now}");

        // The least work goes first, at any coordinator's word.
        let file = cluster.write("short.yml", SHORT)?.display().to_string();
        for id in 1..=3 {
            let address = cluster.addresses_of(id)?.0.clone();
            let asked = ["--coordinators", &address, "simulate", "--from-cluster", "--submit", &file, "-o", "json"];
            let what_if = cluster.muster(&asked).await?.json()?;
            assert!((500..=600).contains(&seconds(&what_if, "now_ms", &what_if, "start_ms")), "{what_if}");
            let delayed = &what_if["delayed"][0];
            assert_eq!((what_if["delayed_jobs"].as_u64(), delayed["job_id"].as_u64()), (Some(1), Some(waits.0)));
            assert!(seconds(delayed, "start_without_ms", delayed, "start_ms").abs_diff(100) <= 1, "{what_if}");
        }
        let what_if = async |name: &str, text: String| {
            let file = cluster.write(name, &text)?.display().to_string();
            anyhow::Ok(cluster.muster(&["simulate", "--from-cluster", "--submit", &file]).await?.good()?.stdout)
        };
        let said = what_if("same.yml", SHORT.to_owned()).await?;
        assert!(said.starts_with("It would start at ") && said.contains("delay 1 of the 1 jobs that wait"), "{said}");
        // A higher priority stops what has run for long enough.
        let said = what_if("urgent.yml", SHORT.replace("estimate", "priority: 5, estimate")).await?;
        assert!(said.contains(&format!("stopped, to go on later: {running}")), "{said}");
        let said = what_if("large.yml", SHORT.replace("count: 2", "count: 3")).await?;
        assert!(said.starts_with("It would never start.") && said.contains("delay none"), "{said}");

        let jobs = client.list_up_to(client::v1::ListJobsRequest::default(), 10).await?;
        assert_eq!(jobs.len(), 2, "nothing was submitted");
        std::fs::write(cluster.folder().join("gate"), "")?;
        for job in [running, waits] {
            cluster.ended(job).await?;
        }
        Ok(())
    })
    .await;
}

/// Between two times of an answer.
fn seconds(from: &serde_json::Value, from_name: &str, to: &serde_json::Value, to_name: &str) -> u64 {
    to[to_name].as_u64().unwrap_or(0).saturating_sub(from[from_name].as_u64().unwrap_or(0)) / 1_000
}
