//! Event files in a job's outputs become metrics of the rank that writes them: live, whole, once each, whatever the daemon does.

use crate::isolation_users::{RANGE, can_be_others, let_pass};
use crate::support::{add_worker, alone, cannot_run, open, shared};
use cluster_tests::{Cluster, PATIENCE, Shape, until};
use std::path::PathBuf;
use types::JobId;

/// CRC-32C, bit by bit, masked as the format has it.
fn masked(bytes: &[u8]) -> [u8; 4] {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum % 2 == 1 { (sum / 2) ^ 0x82f6_3b78 } else { sum / 2 };
        }
    }
    (!sum).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// A record of one event of one scalar; everything in it is shorter than 128 bytes.
fn point(step: u8, tag: &str, value: f32) -> Vec<u8> {
    let field = |key: u8, bytes: &[u8]| [&[key, bytes.len() as u8], bytes].concat();
    let scalar = [field(0x0a, tag.as_bytes()), vec![0x15], value.to_le_bytes().to_vec()].concat();
    let time = [&[0x09][..], &(1_764_000_000.0 + f64::from(step)).to_le_bytes()].concat();
    let event = [time, vec![0x10, step], field(0x2a, &field(0x0a, &scalar))].concat();
    let length = (event.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), &event, &masked(&event)].concat()
}

/// Some bytes where ranks find them.
fn piece(cluster: &Cluster, name: &str, bytes: &[u8]) -> anyhow::Result<PathBuf> {
    let path = cluster.folder().join(name);
    std::fs::write(&path, bytes)?;
    Ok(path)
}

/// A job with one output, and these lines as its command; `await GATE` waits until the gate is opened.
async fn submit(cluster: &Cluster, name: &str, further: &str, lines: &[String]) -> anyhow::Result<JobId> {
    let folder = cluster.folder().display();
    let wait = format!("await() {{ while [ ! -e {folder}/$1 ]; do sleep 0.02; done; }}");
    let script = [&[wait], lines].concat().join("\n  ");
    cluster.submit(name, &format!("command: |\n  {script}\noutputs: {{logs: }}\n{further}")).await
}

/// Name, rank, step, seconds and value of all points that a coordinator has.
async fn points(cluster: &Cluster, job: JobId) -> Option<Vec<(String, u64, u64, u64, f64)>> {
    let answer = cluster.muster(&["metrics", &job.to_string(), "-o", "json"]).await.ok()?.json().ok()?;
    let point = |point: &serde_json::Value| {
        let name = point["name"].as_str()?.to_owned();
        let seconds = point["time_ms"].as_u64()? / 1_000 - 1_764_000_000;
        Some((name, point["rank"].as_u64()?, point["step"].as_u64()?, seconds, point["value"].as_f64()?))
    };
    answer["points"].as_array()?.iter().map(point).collect()
}

fn loss(step: u8) -> (String, u64, u64, u64, f64) {
    ("loss".to_owned(), 0, step.into(), step.into(), 1.0 / f64::from(step))
}

#[tokio::test]
async fn a_restarted_daemon_neither_loses_nor_doubles_a_point_of_an_event_file() {
    alone(Shape::new(1, 1), async |cluster| {
        let all: Vec<u8> =
            [1_u8, 2, 4, 8, 16, 32].iter().flat_map(|step| point(*step, "loss", 1.0 / f32::from(*step))).collect();
        let record = all.len() / 6;
        // Each piece ends within a record.
        let cuts = [0, 2 * record + 5, 4 * record + 20, all.len()];
        let mut lines = vec!["file=$MUSTER_OUTPUT_LOGS/events.out.tfevents.1764000000.host.1.0".to_owned()];
        for (turn, cut) in cuts.windows(2).enumerate() {
            let piece = piece(cluster, &format!("piece-{turn}"), &all[cut[0]..cut[1]])?;
            lines.push(format!("await turn-{turn}; cat {} >> $file; touch {0}.written", piece.display()));
        }
        lines.push("await end".to_owned());
        let job = submit(cluster, "events/job.yml", "", &lines).await?;
        open(cluster, "turn-0")?;
        let wanted = vec![loss(1), loss(2)];
        until("two points while the rank runs", PATIENCE, async || {
            points(cluster, job).await.filter(|points| *points == wanted)
        })
        .await?;
        cluster.worker("worker-1")?.kill()?;
        open(cluster, "turn-1")?;
        let written = cluster.folder().join("piece-1.written");
        until("the second piece", PATIENCE, async || written.exists().then_some(())).await?;
        cluster.restart_worker("worker-1")?;
        let wanted: Vec<_> = [1, 2, 4, 8].map(loss).to_vec();
        until("four points after the restart", PATIENCE, async || {
            points(cluster, job).await.filter(|points| *points == wanted)
        })
        .await?;
        // What comes just before the end counts too.
        open(cluster, "end")?;
        open(cluster, "turn-2")?;
        let ended = cluster.ended(job).await?;
        let rank = &ended.attempts[0].ranks[0];
        assert_eq!((ended.attempts.len(), rank.exit_code), (1, Some(0)));
        assert_eq!(rank.final_metrics.get("loss").map(String::as_str), Some("0.03125"));
        let wanted: Vec<_> = [1, 2, 4, 8, 16, 32].map(loss).to_vec();
        assert_eq!(points(cluster, job).await.unwrap_or_default(), wanted);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn damage_is_told_once_and_links_are_not_followed() {
    shared(async |cluster| {
        let mut damaged = point(2, "bad", 0.5);
        damaged[30] ^= 4;
        let long = "x".repeat(100);
        let bad = piece(cluster, "damaged", &[point(1, "good", 0.5), damaged, point(3, "bad", 0.5)].concat())?;
        let sound = piece(cluster, "sound", &[point(1, "loss", 0.5), point(1, &long, 0.5)].concat())?;
        let linked = piece(cluster, "events.out.tfevents.7.linked", &point(1, "linked", 0.5))?;
        let lines = [
            "cd $MUSTER_OUTPUT_LOGS; mkdir -p a/validation".to_owned(),
            format!("cp {} events.out.tfevents.1.host", bad.display()),
            format!("cp {} a/validation/events.out.tfevents.2.host.v2", sound.display()),
            format!("ln -s {} events.out.tfevents.3.host", linked.display()),
            format!("ln -s {} link", cluster.folder().display()),
            "mkfifo events.out.tfevents.4.host".to_owned(),
        ];
        let job = submit(cluster, "damaged-events/job.yml", "", &lines).await?;
        cluster.ended(job).await?;
        let mut found: Vec<_> = points(cluster, job).await.unwrap_or_default().into_iter().map(|point| point.0).collect();
        found.sort();
        assert_eq!(found, ["a/validation/loss".into(), format!("a/validation/{long}"), "good".into()]);
        let said = cluster.muster(&["logs", &job.to_string()]).await?.good()?.stderr;
        let at = point(1, "good", 0.5).len();
        let told = format!(
            "muster: rank 0: event file \"logs/events.out.tfevents.1.host\": a record at byte {at} is damaged; nothing more of it is read\n"
        );
        assert_eq!(said.matches("muster: ").count(), 1, "{said}");
        assert!(said.contains(&told), "{said}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn each_rank_of_an_instance_has_the_points_of_its_own_processes() {
    shared(async |cluster| {
        let own = piece(cluster, "own", &point(1, "own", 0.5))?;
        let nobodys = piece(cluster, "nobodys", &point(1, "nobodys", 0.5))?;
        let lines = [
            format!("cat {} > $MUSTER_OUTPUT_LOGS/events.out.tfevents.1764000000.host.$$.0", own.display()),
            format!(
                "[ $MUSTER_RANK = 2 ] && cat {} > $MUSTER_OUTPUT_LOGS/events.out.tfevents.1764000000.host",
                nobodys.display()
            ),
            "await ranks-end".to_owned(),
        ];
        let gang = "distribution: {type: pytorch, process_count_per_instance: 3}\n";
        let job = submit(cluster, "gang-events/job.yml", gang, &lines).await?;
        let wanted = [("nobodys", 0), ("own", 0), ("own", 1), ("own", 2)].map(|(name, rank)| (name.to_owned(), rank));
        let found = async || {
            let points = points(cluster, job).await?;
            let mut found: Vec<_> = points.into_iter().map(|(name, rank, ..)| (name, rank)).collect();
            found.sort();
            Some(found)
        };
        until("each rank's points", PATIENCE, async || found().await.filter(|found| *found == wanted)).await?;
        open(cluster, "ranks-end")?;
        cluster.ended(job).await?;
        assert_eq!(found().await.unwrap_or_default(), wanted, "none comes twice when all end");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn event_files_of_ranks_of_their_own_user_are_read() {
    alone(Shape::new(1, 0), async |cluster| {
        if !can_be_others(cluster.program(), "event files of ranks of users of their own") {
            return Ok(());
        }
        let_pass(cluster)?;
        add_worker(cluster, "worker-1", 8, &["--rank-user", RANGE])?;
        cluster.until_ready(1).await?;
        let sound = piece(cluster, "sound", &point(1, "loss", 1.0))?;
        let lines = [
            "umask 077; mkdir -p $MUSTER_OUTPUT_LOGS/train".to_owned(),
            format!("cat {} > $MUSTER_OUTPUT_LOGS/train/events.out.tfevents.1.host", sound.display()),
        ];
        let job = submit(cluster, "user-events/job.yml", "", &lines).await?;
        let ended = cluster.ended(job).await?;
        assert_eq!(ended.attempts[0].ranks[0].final_metrics.get("train/loss").map(String::as_str), Some("1.0"));
        Ok(())
    })
    .await;
}

/// As `PyTorch` documents it; both of its forms of a scalar.
const SUMMARY_WRITER: &str = r"
import os, sys
try:
    from torch.utils.tensorboard import SummaryWriter
    new_style = True
except ImportError:
    from tensorboardX import SummaryWriter
    new_style = False
with SummaryWriter(os.environ['MUSTER_OUTPUT_LOGS']) as writer:
    for step in range(1, 4):
        writer.add_scalar('loss/train', 1 / step, step)
    if new_style:
        writer.add_scalar('rate', 0.25, 7, new_style=True)
    writer.add_text('note', 'no number', 1)
    writer.add_histogram('weights', [1.0, 2.0, 3.0], 1)
    writer.add_image('picture', __import__('numpy').zeros((3, 400, 400)), 1)
print('new' if new_style else 'old')
";

#[tokio::test]
async fn what_a_real_summary_writer_writes_becomes_metrics() {
    let python = daemon::environment::text("MUSTER_TEST_PYTHON").unwrap_or_else(|| "python3".to_owned());
    let imports = "import numpy\ntry:\n import torch.utils.tensorboard\nexcept ImportError:\n import tensorboardX";
    let has = std::process::Command::new(&python).args(["-c", imports]).stderr(std::process::Stdio::null()).status();
    if !has.is_ok_and(|status| status.success()) {
        return cannot_run(
            "a real SummaryWriter: Python (MUSTER_TEST_PYTHON) has neither PyTorch with tensorboard nor tensorboardX",
        );
    }
    shared(async |cluster| {
        let script = cluster.write("summary/write.py", SUMMARY_WRITER)?;
        let job = submit(cluster, "summary/job.yml", "", &[format!("exec {python} {}", script.display())]).await?;
        let ended = cluster.ended(job).await?;
        let logs = cluster.muster(&["logs", &job.to_string()]).await?.good()?;
        assert_eq!(ended.summary.unwrap_or_default().phase, "Completed", "{}", logs.stderr);
        let answer = cluster.muster(&["metrics", &job.to_string(), "-o", "json"]).await?.json()?;
        let points = answer["points"].as_array().cloned().unwrap_or_default();
        let of = |name: &str| -> Vec<(u64, f64)> {
            let points = points.iter().filter(|point| point["name"] == name);
            points.filter_map(|point| Some((point["step"].as_u64()?, point["value"].as_f64()?))).collect()
        };
        let thirds = of("loss/train");
        assert_eq!(thirds[..2], [(1, 1.0), (2, 0.5)]);
        assert!(thirds.len() == 3 && (thirds[2].1 - 1.0 / 3.0).abs() < 1e-6, "{answer}");
        let is_new = logs.stdout.contains("new");
        assert_eq!(of("rate"), if is_new { vec![(7, 0.25)] } else { vec![] });
        assert_eq!(points.len(), if is_new { 4 } else { 3 }, "{answer}");
        Ok(())
    })
    .await;
}
