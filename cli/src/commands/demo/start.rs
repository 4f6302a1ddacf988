//! Brings the demo's cluster up and hands it the job.

use super::DemoArgs;
use super::course::Course;
use super::folder::{Folder, free_addresses};
use super::processes::{Daemon, Processes};
use super::{COORDINATORS, WORKERS};
use crate::commands::Session;
use crate::commands::submit;
use anyhow::Context as _;
use client::{Client, Credentials, Secret, v1};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;
use types::{JobId, Timestamp};

/// Where the coordinators listen.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// gRPC, in the order of their ids from 1.
    pub grpc: Vec<String>,
    /// HTTP.
    pub http: Vec<String>,
}

impl Addresses {
    /// Free ones on loopback.
    pub fn choose() -> anyhow::Result<Self> {
        let mut grpc = free_addresses(COORDINATORS * 2)?;
        let http = grpc.split_off(COORDINATORS);
        Ok(Addresses { grpc, http })
    }
}

/// Below the demo's folder: the owner's token, by which the daemons join.
pub const CREDENTIALS: &str = "coordinator-1/admin.json";
/// Between two looks for it.
const LOOK: Duration = Duration::from_millis(5);

/// A slow machine that builds at the same time still makes it.
const UP_PATIENCE: Duration = Duration::from_mins(1);

/// Starts the first coordinator, and answers with the token that it makes for the cluster's owner.
pub async fn founder(processes: &Processes, folder: &Path, addresses: &Addresses) -> anyhow::Result<Secret> {
    processes.spawn(coordinator(0, folder, addresses)).await?;
    let path = folder.join(CREDENTIALS);
    let found = async {
        while !path.exists() {
            let fallen = processes.fallen().await?;
            anyhow::ensure!(fallen.is_empty(), "{}", fallen.join("; "));
            tokio::time::sleep(LOOK).await;
        }
        Ok(Credentials::load(&path)?.token)
    };
    tokio::time::timeout(UP_PATIENCE, found).await.context("the first coordinator does not start")?
}

/// Starts the other daemons and waits until every coordinator votes and every worker is ready.
pub async fn cluster(
    course: &mut Course<'_>,
    client: &Client,
    processes: &Processes,
    folder: &Path,
    addresses: &Addresses,
) -> anyhow::Result<()> {
    for index in 1..COORDINATORS {
        processes.spawn(coordinator(index, folder, addresses)).await?;
    }
    for index in 1..=WORKERS {
        processes.spawn(worker(index, folder, addresses)).await?;
    }
    course.tell(&format!("{COORDINATORS} coordinators and {WORKERS} workers started"))?;
    course.watch_cluster();
    course
        .until("a leader", UP_PATIENCE, |board| board.status.as_ref().is_some_and(|status| status.leader > 0))
        .await?;
    for id in 2..=COORDINATORS as u64 {
        course.during(Box::pin(join(client, id, addresses))).await?;
    }
    course
        .until("three coordinators that vote", UP_PATIENCE, |board| {
            board.status.as_ref().is_some_and(|status| {
                status.leader > 0 && status.members.iter().filter(|member| member.voter).count() == COORDINATORS
            })
        })
        .await?;
    course
        .until("four ready workers", UP_PATIENCE, |board| {
            board.workers.iter().filter(|worker| worker.state == "ready").count() == WORKERS
        })
        .await?;
    course.tell(&format!("{COORDINATORS} coordinators vote, {WORKERS} workers are ready"))
}

/// Makes a coordinator a voter; one that is already is left as it is. Tried again while it still starts.
async fn join(client: &Client, id: u64, addresses: &Addresses) -> anyhow::Result<()> {
    let index = usize::try_from(id).unwrap_or(1).saturating_sub(1);
    let request = v1::AddMemberRequest {
        id,
        address: addresses.grpc.get(index).cloned().unwrap_or_default(),
        http_address: addresses.http.get(index).cloned().unwrap_or_default(),
    };
    let end = tokio::time::Instant::now() + UP_PATIENCE;
    loop {
        match client.add_member(request.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) if tokio::time::Instant::now() >= end => {
                return Err(anyhow::Error::from(error).context(format!("coordinator {id} cannot be added")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

fn coordinator(index: usize, folder: &Path, addresses: &Addresses) -> Daemon {
    let id = index + 1;
    let name = format!("coordinator-{id}");
    let mut arguments: Vec<OsString> = ["coordinator", "--id"].map(OsString::from).into();
    arguments.push(id.to_string().into());
    arguments.extend(["--data".into(), folder.join(&name).into_os_string()]);
    arguments.extend(["--listen".into(), OsString::from(&addresses.grpc[index])]);
    arguments.extend(["--http".into(), OsString::from(&addresses.http[index])]);
    if index == 0 {
        arguments.push("--bootstrap".into());
    } else {
        arguments.extend(["--join".into(), OsString::from(&addresses.grpc[0])]);
    }
    Daemon { name, arguments }
}

fn worker(index: usize, folder: &Path, addresses: &Addresses) -> Daemon {
    let name = format!("worker-{index}");
    let mut arguments: Vec<OsString> = ["worker", "--name"].map(OsString::from).into();
    arguments.push(name.clone().into());
    arguments.extend(["--data".into(), folder.join(&name).into_os_string()]);
    arguments.extend(["--coordinators".into(), OsString::from(addresses.grpc.join(","))]);
    // Two slots each: when one worker is lost, the other three still hold four ranks.
    arguments.extend(["--cpus", "2", "--on-stop", "kill"].map(OsString::from));
    Daemon { name, arguments }
}

/// The job that runs, and when it was handed over.
#[derive(Clone, Copy, Debug)]
pub struct Submitted {
    /// Its number.
    pub job: JobId,
    /// Just before the submit.
    pub at: Timestamp,
}

/// How one run of the job differs from the file.
pub struct Alone {
    /// Stretched, so that there is time to kill.
    pub chaos: bool,
    /// Its display name.
    pub name: &'static str,
}

/// A step takes at least so long under `--chaos`: training must outlast a lease.
const CHAOS_STEP_DELAY_MS: u32 = 60;

/// Submits the job of the demo.
pub async fn submit(
    course: &mut Course<'_>,
    client: &Client,
    folder: &Folder,
    args: &DemoArgs,
    session: &Session,
) -> anyhow::Result<Submitted> {
    let at = daemon::clock::now();
    let run = Alone { chaos: args.chaos, name: "digits" };
    let job = submit_job(course, client, folder, args, session, &run).await?;
    course.tell(&format!("job {job} submitted: {}", folder.path.join("digits/job.yml").display()))?;
    Ok(Submitted { job, at })
}

/// Prepares, uploads and submits one run of the job.
pub async fn submit_job(
    course: &mut Course<'_>,
    client: &Client,
    folder: &Folder,
    args: &DemoArgs,
    session: &Session,
    run: &Alone,
) -> anyhow::Result<JobId> {
    let file = folder.write_job()?;
    let mut prepared = tokio::task::spawn_blocking(move || submit::prepare(&file)).await??;
    prepared.spec.display_name = run.name.into();
    let mut command = prepared.spec.command.trim_end().to_owned();
    if let Some(seed) = args.seed {
        let _ = write!(command, " --training.seed {seed}");
    }
    if args.chaos {
        let delay = if run.chaos { CHAOS_STEP_DELAY_MS } else { 0 };
        let _ = write!(command, " --training.step_delay_ms {delay}");
    }
    prepared.spec.command = command;
    let handed_over = Box::pin(async {
        submit::upload(client, &prepared, session).await?;
        Ok(client.submit(&prepared.spec).await?)
    });
    course.during(handed_over).await
}
