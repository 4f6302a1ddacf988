//! A disk that is full under a coordinator: it stops and says why, the others go on, and with room again it catches up.

use crate::support::{alone, cannot_run};
use cluster_tests::{PATIENCE, Shape, spec, until};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Puts a small file system with the same files over a folder, and keeps it until its input ends.
const SMALL_DISK: &str = r#"
cp -a "$1" "$1.before" && mount -t tmpfs -o size=40m tmpfs "$1" && cp -a "$1.before/." "$1" && echo ready && exec cat
"#;

/// A small file system over a folder, seen only in a mount namespace of its own.
struct SmallDisk {
    holder: Child,
    folder: PathBuf,
}

impl SmallDisk {
    /// None when this user may not mount.
    fn over(folder: &Path) -> anyhow::Result<Option<Self>> {
        let mut holder = Command::new("unshare")
            .args(["-m", "sh", "-c", SMALL_DISK, "small-disk"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said)?;
        let disk = Self { holder, folder: folder.to_owned() };
        Ok((said == "ready\n").then_some(disk))
    }

    /// Runs what follows with a sight of it.
    fn wrapper(&self) -> Vec<OsString> {
        ["nsenter", "-m", "-t", &self.holder.id().to_string()].map(OsString::from).into()
    }

    /// A file in it, as seen from here.
    fn file(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.folder.strip_prefix("/").unwrap_or(&self.folder)).join(name)
    }

    fn fill(&self) -> anyhow::Result<()> {
        let mut filler = std::fs::File::create(self.file("filler"))?;
        for bytes in [vec![1; 64 << 10], vec![1; 1]] {
            while filler.write_all(&bytes).is_ok() {}
        }
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[tokio::test]
async fn a_full_disk_stops_a_coordinator_with_its_reason_and_loses_nothing() {
    alone(Shape::new(3, 0), async |cluster| {
        let mut jobs = vec![cluster.client().submit(&spec("true")).await?];
        cluster.coordinator(3)?.kill()?;
        let Some(disk) = SmallDisk::over(cluster.coordinator(3)?.data())? else {
            cannot_run("a full disk under a coordinator: this user may not mount a file system of its own");
            return Ok(());
        };
        let program = cluster.program().to_owned();
        cluster.coordinator(3)?.wrapper_mut().extend(disk.wrapper());
        cluster.coordinator(3)?.start(&program)?;
        until("it to serve from the small disk", PATIENCE, async || cluster.client_of(3).ok()?.get(jobs[0]).await.ok())
            .await?;

        disk.fill()?;
        let large = spec(&format!("true {}", "x".repeat(15_000)));
        let mut ended = None;
        while ended.is_none() {
            jobs.push(cluster.client_of(1)?.submit(&large).await?);
            anyhow::ensure!(jobs.len() < 4_000, "it goes on: {}", cluster.coordinator(3)?.log());
            ended = cluster.coordinator(3)?.ended()?;
        }
        let said = cluster.coordinator(3)?.log();
        assert_eq!(ended.and_then(|status| status.code()), Some(1), "{said}");
        assert!(said.contains("No space left on device"), "{said}");
        jobs.push(cluster.client_of(1)?.submit(&large).await?);

        std::fs::remove_file(disk.file("filler"))?;
        cluster.coordinator(3)?.start(&program)?;
        let last = *jobs.last().unwrap();
        until("it to catch up", PATIENCE, async || cluster.client_of(3).ok()?.get(last).await.ok()).await?;
        for job in jobs {
            assert_eq!(cluster.client_of(3)?.get(job).await?.summary.unwrap_or_default().id, job.0);
        }
        Ok(())
    })
    .await;
}
