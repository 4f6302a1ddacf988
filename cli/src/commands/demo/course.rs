//! The demo's course: streams feed the board, the view is redrawn, and whoever tells the story waits for what it says.

use super::board::{Board, News};
use super::processes::Processes;
use crate::output::{Format, Output, write_stdout};
use anyhow::Context as _;
use client::{Client, MetricQuery};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use types::JobId;

/// News on their way; when full the streams wait.
const NEWS_MAX: usize = 64;
const REDRAW_EVERY: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Everything that goes on while the demo runs.
pub struct Course<'a> {
    /// What is known.
    pub board: Board,
    processes: &'a Processes,
    output: Output,
    client: Client,
    sender: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
    tasks: JoinSet<()>,
    drawn: usize,
    begun: Instant,
    looked: Instant,
}

impl<'a> Course<'a> {
    /// Begins: nothing is known yet.
    pub fn new(client: Client, processes: &'a Processes, output: &Output, steps_total: Option<u64>) -> Self {
        let (sender, news) = mpsc::channel(NEWS_MAX);
        let now = Instant::now();
        Course {
            board: Board::new(steps_total),
            processes,
            output: output.clone(),
            client,
            sender,
            news,
            tasks: JoinSet::new(),
            drawn: 0,
            begun: now,
            looked: now,
        }
    }

    /// Looks at the cluster from now on.
    pub fn watch_cluster(&mut self) {
        self.tasks.spawn(look(self.client.clone(), self.sender.clone()));
    }

    /// Follows the job from now on.
    pub fn watch_job(&mut self, job: JobId) {
        self.tasks.spawn(forward_job(self.client.clone(), job, self.sender.clone()));
        self.tasks.spawn(forward_metrics(self.client.clone(), job, self.sender.clone()));
    }

    /// Goes on until `done` says so of the board; an error names `what` was awaited, if it does not come in time.
    pub async fn until(&mut self, what: &str, patience: Duration, done: impl Fn(&Board) -> bool) -> anyhow::Result<()> {
        let end = Instant::now() + patience;
        while !done(&self.board) {
            anyhow::ensure!(Instant::now() < end, "{what}: not within {} s", patience.as_secs());
            self.step().await.with_context(|| format!("while waiting for: {what}"))?;
        }
        Ok(())
    }

    /// Goes on while `work` is done, and answers what it answers.
    pub async fn during<T>(&mut self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                answer = &mut work => return answer,
                step = self.step() => step?,
            }
        }
    }

    /// Tells a line above the live view.
    pub fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        if self.output.format != Format::Table {
            return Ok(());
        }
        self.erase()?;
        let at = format!("{:>6.1}s", self.begun.elapsed().as_secs_f64());
        let at = self.output.paint(crate::output::style::DIM, &at);
        write_stdout(format!("{at}  {}\n", crate::output::table::clean(line)).as_bytes())?;
        self.draw()
    }

    /// Removes the live view: what comes after stays.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        self.erase()?;
        self.tasks.abort_all();
        Ok(())
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        match tokio::time::timeout(REDRAW_EVERY, self.news.recv()).await {
            Ok(Some(News::Failed(reason))) => anyhow::bail!("{reason}"),
            Ok(Some(news)) => {
                if let Some(line) = self.board.take(news) {
                    self.tell(&line)?;
                }
            }
            Ok(None) | Err(_) => self.redraw()?,
        }
        if self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            let fallen = self.processes.fallen().await?;
            anyhow::ensure!(fallen.is_empty(), "{}", fallen.join("; "));
            self.redraw()?;
        }
        Ok(())
    }

    fn redraw(&mut self) -> anyhow::Result<()> {
        self.erase()?;
        self.draw()
    }

    fn erase(&mut self) -> anyhow::Result<()> {
        if self.drawn > 0 {
            write_stdout(format!("\x1b[{}A\x1b[J", self.drawn).as_bytes())?;
            self.drawn = 0;
        }
        Ok(())
    }

    fn draw(&mut self) -> anyhow::Result<()> {
        if !self.output.is_terminal || self.output.format != Format::Table {
            return Ok(());
        }
        // A line that wraps would break the count: cut without colours where the terminal is narrow.
        let text = format!("\n{}", self.board.draw(&self.output));
        write_stdout(format!("\x1b[?7l{text}\x1b[?7h").as_bytes())?;
        self.drawn = text.lines().count();
        Ok(())
    }
}

/// The cluster's state, again and again; a moment without a leader is nothing to tell.
async fn look(client: Client, sender: mpsc::Sender<News>) {
    loop {
        if let Ok(status) = client.status(true).await
            && sender.send(News::Status(Box::new(status))).await.is_err()
        {
            return;
        }
        if let Ok(workers) = client.workers().await
            && sender.send(News::Workers(workers)).await.is_err()
        {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The whole job at each change of it: attempts and checkpoints are not in the watch itself.
async fn forward_job(client: Client, job: JobId, sender: mpsc::Sender<News>) {
    let mut watch = client.watch(Some(job), 0);
    loop {
        let news = match watch.next().await {
            Ok(None) => return,
            Err(error) => News::Failed(format!("the job cannot be watched: {error}")),
            Ok(Some(_)) => match client.get(job).await {
                Ok(job) => News::Job(Box::new(job)),
                Err(error) => News::Failed(format!("the job cannot be read: {error}")),
            },
        };
        let failed = matches!(news, News::Failed(_));
        if sender.send(news).await.is_err() || failed {
            return;
        }
    }
}

async fn forward_metrics(client: Client, job: JobId, sender: mpsc::Sender<News>) {
    let mut metrics = client.metrics(job, MetricQuery { follow: true, ..MetricQuery::default() });
    loop {
        let news = match metrics.next().await {
            Ok(None) => return,
            Ok(Some(points)) => News::Points(points),
            Err(error) => News::Failed(format!("the metrics cannot be followed: {error}")),
        };
        let failed = matches!(news, News::Failed(_));
        if sender.send(news).await.is_err() || failed {
            return;
        }
    }
}
