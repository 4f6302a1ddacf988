//! Gangs on GPUs, from the job file to `ncclAllReduce`: the program itself on stand-ins for the driver, NVML and NCCL, which are
//! found where the real ones would be. No GPU is needed, and none is used where there is one.

use crate::isolation_users::with_places;
use crate::support::{alone, cannot_run};
use cluster_tests::{Cluster, PATIENCE, Shape, WorkerShape, until};
use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use types::JobId;

/// Folders of libraries, for `LD_LIBRARY_PATH`.
pub struct Libraries {
    pub whole: PathBuf,
    /// With a library of NCCL's name that has none of its functions.
    without_nccl: PathBuf,
    _root: tempfile::TempDir,
}

fn build(source: &str, flags: &[&str], library: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(source);
    let mut rustc = Command::new("rustc");
    rustc
        .args(["--edition", "2024", "-C", "opt-level=2", "--crate-type", "cdylib", "--crate-name", "standin"])
        .args(flags);
    assert!(rustc.args(["--cap-lints", "allow", "-o"]).arg(library).arg(source).status().unwrap().success());
}

pub fn libraries() -> &'static Libraries {
    static LIBRARIES: OnceLock<Libraries> = OnceLock::new();
    LIBRARIES.get_or_init(|| {
        let root = tempfile::tempdir().unwrap();
        let (nccl, nvml) = (root.path().join("nccl.so"), root.path().join("nvml.so"));
        build("collectives/tests/standin/lib.rs", &[], &nccl);
        build("worker/tests/standin/nvml.rs", &["--cfg", "four"], &nvml);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps.split_whitespace().find(|word| word.contains("/libc.so")).unwrap();
        let folder = |name: &str, nccl: &Path| {
            let folder = root.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            for (library, link) in [
                (nvml.as_path(), "libnvidia-ml.so.1"),
                (nvml.as_path(), "libnvidia-ml.so"),
                (root.path().join("nccl.so").as_path(), "libcuda.so.1"),
                (nccl, "libnccl.so.2"),
            ] {
                symlink(library, folder.join(link)).unwrap();
            }
            folder
        };
        let (whole, without_nccl) = (folder("whole", &nccl), folder("without-nccl", Path::new(libc)));
        Libraries { whole, without_nccl, _root: root }
    })
}

/// A worker that finds these libraries on a machine of this name: two workers of one name would offer the same devices.
pub fn on_machine(name: &str, libraries: &Path) -> WorkerShape {
    let mut path = OsString::from("LD_LIBRARY_PATH=");
    path.push(libraries);
    let wrapper = vec!["env".into(), path, format!("STANDIN_MACHINE={name}").into()];
    WorkerShape { wrapper, ..WorkerShape::default() }
}

async fn two_machines(cluster: &mut Cluster) -> anyhow::Result<()> {
    for name in ["one", "two"] {
        cluster.add_worker(name, &on_machine(name, &libraries().whole))?;
    }
    cluster.until_ready(2).await
}

/// Ends in a moment.
const SHORT: &str = "--training.epochs 3";

/// Four ranks on two workers; with `extras` under `x-muster`.
fn training(options: &str, extras: &str) -> String {
    gang_of_four(&format!("exec muster train {options}"), extras)
}

fn gang_of_four(command: &str, extras: &str) -> String {
    format!(
        "command: >-
  {command}
resources: {{instance_count: 2}}
distribution: {{type: pytorch, process_count_per_instance: 2}}
x-muster: {{spread: true{extras}}}
"
    )
}

async fn output(cluster: &Cluster, job: JobId) -> anyhow::Result<String> {
    Ok(cluster.muster(&["logs", &job.to_string()]).await?.good()?.stdout)
}

/// What all ranks ended with, by the last rank's line.
fn parameters(output: &str) -> &str {
    let line = output.lines().rfind(|line| line.contains("are equal on all 4 ranks")).unwrap_or_default();
    line.split_once("parameters ").map_or("", |(_, rest)| rest.split(' ').next().unwrap_or_default())
}

#[tokio::test]
async fn a_gang_sums_over_nccl_on_the_devices_that_it_was_given_to_the_bits_of_one_without() {
    alone(Shape::new(1, 0), async |cluster| {
        two_machines(cluster).await?;
        let shown = cluster.muster(&["workers", "show", "one", "-o", "json"]).await?.good()?;
        let shown: serde_json::Value = serde_json::from_str(&shown.stdout)?;
        assert_eq!(
            (&shown["driver"], &shown["cuda"], &shown["nccl"]),
            (&"580.159.04".into(), &"13.0".into(), &"2.27.3".into())
        );
        assert_eq!(shown["devices"][3]["uuid"], "GPU-stand-in-one-3");

        let with = cluster.submit("with.yml", &training(SHORT, ", gpus_per_rank: 1")).await?;
        let (ended, said) = (cluster.ended(with).await?, output(cluster, with).await?);
        assert_eq!(ended.summary.clone().unwrap_or_default().phase, "Completed", "{said}");
        assert!(said.contains("gang: 4 ranks over nccl"), "{said}");
        let members = &ended.attempts[0].members;
        assert!(members.iter().all(|member| member.devices.len() == 2), "{members:?}");

        let without = cluster.submit("without.yml", &training(SHORT, "")).await?;
        assert_eq!(cluster.ended(without).await?.summary.unwrap_or_default().phase, "Completed");
        let plain = output(cluster, without).await?;
        assert!(!plain.contains("over nccl") && !parameters(&plain).is_empty(), "{plain}");
        assert_eq!(parameters(&said), parameters(&plain));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn where_nccl_is_not_to_be_had_gangs_with_gpus_sum_without_it_and_say_so() {
    alone(Shape::new(1, 0), async |cluster| {
        cluster.add_worker("whole", &on_machine("whole", &libraries().whole))?;
        cluster.add_worker("poor", &on_machine("poor", &libraries().without_nccl))?;
        cluster.until_ready(2).await?;
        let shown = cluster.muster(&["workers", "show", "poor", "-o", "json"]).await?.json()?;
        assert_eq!((&shown["driver"], &shown["nccl"]), (&"580.159.04".into(), &serde_json::Value::Null));

        let job = cluster.submit("mixed.yml", &training(SHORT, ", gpus_per_rank: 1")).await?;
        let (ended, said) = (cluster.ended(job).await?, output(cluster, job).await?);
        assert_eq!(ended.summary.unwrap_or_default().phase, "Completed", "{said}");
        assert!(said.contains("gradients go over") && said.contains("nccl"), "{said}");
        assert!(!said.contains("ranks over nccl"), "{said}");
        Ok(())
    })
    .await;
}

/// Rank 2 is killed once there is `signal`; until then a step takes so long that this comes in the middle.
fn shaken(options: &str, signal: &Path) -> String {
    let signal = signal.display();
    let command = format!(
        "if [ -e {signal} ]; then delay=0; else delay=20; fi;
  if [ $RANK = 2 ] && [ $delay = 20 ]; then (while [ ! -e {signal} ]; do sleep 0.02; done; kill -9 $$) & fi;
  exec muster train {options} --training.step_delay_ms $delay"
    );
    gang_of_four(&command, ", gpus_per_rank: 1, max_restarts: 1, restart_backoff: 0.01")
}

#[tokio::test]
async fn a_gang_on_gpus_goes_on_from_its_checkpoint_after_a_rank_was_killed() {
    alone(Shape::new(1, 0), async |cluster| {
        two_machines(cluster).await?;
        let options = "--training.epochs 30 --checkpoint.every_steps 20";
        let calm = cluster.submit("calm.yml", &training(options, ", gpus_per_rank: 1")).await?;
        let ended = cluster.ended(calm).await?.summary.unwrap_or_default();
        assert_eq!(ended.phase, "Completed", "{}", ended.reason);

        let signal = cluster.folder().join("signal");
        let job = cluster.submit("shaken.yml", &shaken(options, &signal)).await?;
        until("a checkpoint", PATIENCE, async || {
            let job = cluster.client().get(job).await.ok()?;
            (!job.checkpoints.is_empty()).then_some(())
        })
        .await?;
        std::fs::write(&signal, "")?;
        let ended = cluster.ended(job).await?;
        let said = output(cluster, job).await?;
        assert_eq!(ended.summary.unwrap_or_default().phase, "Completed", "{said}");
        // On a machine with more to do than it can, a worker's lease may end besides.
        let causes = ended.attempts.iter().filter(|attempt| attempt.cause_kind == "user_code");
        let causes: Vec<&str> = causes.map(|attempt| attempt.cause.as_str()).collect();
        assert!(causes.len() == 1 && causes[0].contains("rank 2"), "{causes:?}");
        assert!(ended.attempts.last().is_some_and(|last| last.resumed_from_step >= 20), "{said}");
        let calm = output(cluster, calm).await?;
        assert!(!parameters(&calm).is_empty(), "{calm}");
        assert_eq!(parameters(&said), parameters(&calm));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_gang_whose_communicator_fails_ends_with_the_rank_at_fault() {
    alone(Shape::new(1, 0), async |cluster| {
        two_machines(cluster).await?;
        let text = training(SHORT, ", gpus_per_rank: 1") + "environment_variables: {STANDIN_FAILS: '1:40'}\n";
        let job = cluster.submit("faulty.yml", &text).await?;
        let ended = cluster.ended(job).await?.summary.unwrap_or_default();
        let said = output(cluster, job).await?;
        assert_eq!(ended.phase, "Failed", "{said}");
        assert!(ended.reason.contains("rank 1"), "{}", ended.reason);
        assert!(!said.contains("are equal on all"), "{said}");
        Ok(())
    })
    .await;
}

/// Files where the stand-in says that the GPUs' are; gone with this.
struct DeviceFiles;

impl DeviceFiles {
    const ALL: [u32; 4] = [240, 241, 242, 243];

    fn path(minor: u32) -> PathBuf {
        PathBuf::from(format!("/dev/nvidia{minor}"))
    }

    /// None where others are there, or none can be made.
    fn make() -> Option<Self> {
        for path in Self::ALL.map(Self::path) {
            let null = std::fs::metadata("/dev/null").map(|null| null.rdev()).ok()?;
            match std::fs::metadata(&path).map(|found| found.rdev()) {
                // Of a test that was killed.
                Ok(device) if device == null => std::fs::remove_file(&path).ok()?,
                Ok(_) => return None,
                Err(_) => {}
            }
        }
        let made = Self;
        // The device of `/dev/null`: it can be opened, and does no harm.
        let make = |minor| {
            let mut mknod = Command::new("mknod");
            mknod
                .args(["-m", "666"])
                .arg(Self::path(minor))
                .args(["c", "1", "3"])
                .status()
                .is_ok_and(|ended| ended.success())
        };
        Self::ALL.into_iter().all(make).then_some(made)
    }
}

impl Drop for DeviceFiles {
    fn drop(&mut self) {
        for minor in Self::ALL {
            let _ = std::fs::remove_file(Self::path(minor));
        }
    }
}

#[tokio::test]
async fn a_rank_of_its_own_user_opens_the_files_of_its_own_gpus_only() {
    with_places("GPUs of ranks of users of their own", async |cluster| {
        let Some(_files) = DeviceFiles::make() else {
            cannot_run("GPUs of ranks of users of their own: no device files can be made, or some are there");
            return Ok(());
        };
        let mut shape = on_machine("one", &libraries().whole);
        shape.arguments = ["--rank-user", "312000-312015"].map(OsString::from).to_vec();
        cluster.add_worker("one", &shape)?;
        cluster.until_ready(1).await?;
        if cluster.worker("one")?.log().contains("ranks share /tmp") {
            cannot_run("GPUs of ranks of users of their own: this process may not mount");
            return Ok(());
        }
        let gate = cluster.folder().join("gate");
        let text = |gpus: u32| {
            format!(
                "command: |\n  for file in /dev/nvidia24?; do if (: < $file); then echo opens $file; else echo shut $file; fi; done 2>/dev/null\n  \
                 echo sees $CUDA_VISIBLE_DEVICES\n  while [ ! -e {} ]; do sleep 0.02; done\nx-muster: {{gpus_per_rank: {gpus}}}\n",
                gate.display()
            )
        };
        let mut opened = Vec::new();
        for (name, gpus) in [("pair.yml", 2), ("single.yml", 1)] {
            let job = cluster.submit(name, &text(gpus)).await?;
            let said = async || output(cluster, job).await.ok().filter(|said| said.contains("sees "));
            let said = until("the job to have tried", PATIENCE, said).await?;
            let own: Vec<String> = said.lines().filter_map(|line| line.strip_prefix("opens ")).map(str::to_owned).collect();
            assert_eq!((own.len() as u32, said.matches("shut ").count() as u32), (gpus, 4 - gpus), "{said}");
            let seen = said.lines().find_map(|line| line.strip_prefix("sees ")).unwrap();
            let index = |file: &String| file.trim_start_matches("/dev/nvidia").parse::<u32>().map(|minor| minor - 240);
            for file in &own {
                assert!(seen.contains(&format!("GPU-stand-in-one-{}", index(file)?)), "{said}");
            }
            opened.extend(own);
        }
        opened.sort();
        opened.dedup();
        assert_eq!(opened.len(), 3, "no file is open to both");
        std::fs::write(gate, "")?;
        Ok(())
    })
    .await;
}
