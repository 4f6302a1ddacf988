//! The reconciler with members that need no process: found ended on disk, or never started.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::environment::Base;
use crate::layout::Layout;
use crate::{blobs, cgroup, ship, testing};
use std::path::Path;
use std::time::Duration;
use stores::blobs::BlobStore;
use types::{AttemptNumber, Goal};

const KEY: MemberKey = MemberKey { job: JobId(1), attempt: AttemptNumber(1), node_rank: 0 };
const PATIENCE: Duration = Duration::from_secs(20);

struct Worker {
    layout: Layout,
    context: Arc<Context>,
    _coordinators: watch::Sender<Vec<String>>,
}

fn worker(root: &Path) -> Worker {
    let (sender, coordinators) = watch::channel(Vec::new());
    let (watcher, watching) = crate::watch::start();
    tokio::spawn(watching);
    let (shipper, _end) = ship::start(coordinators.clone(), watcher.clone(), crate::testing::dialer()).unwrap();
    let layout = Layout::new(root);
    let cache = BlobStore::open(&layout.cache()).unwrap();
    let context = Context {
        layout: layout.clone(),
        cluster: types::ClusterId([1; 16]),
        base: Base::take(Path::new("/bin")),
        devices: Vec::new(),
        data_address: [127, 0, 0, 1].into(),
        program: "/bin/false".into(),
        nursery: crate::shim::nursery::Nursery::new(Path::new("/bin/false"), &layout),
        spares: Arc::new(crate::spares::Spares::open(layout.spares()).unwrap()),
        spool_bytes_max: 1 << 30,
        hard_cpu_limit: false,
        pids_max: 0,
        processors: crate::processors::Processors::shared(),
        all_calls: false,
        rank_otlp: true,
        apart: None,
        job_disk_bytes_max: 0,
        device_files: Default::default(),
        encryption: crate::encryption::Encryption::Off,
        networks: crate::network::Networks(false),
        limits: Default::default(),
        users: crate::users::Users::new(None, false),
        driver: cgroup::Driver::None,
        blobs: blobs::Blobs::new(cache, coordinators.clone(), crate::testing::dialer()),
        secrets: crate::secrets::Source::new(coordinators, crate::testing::dialer()),
        shipper,
        watcher,
    };
    Worker { layout, context: Arc::new(context), _coordinators: sender }
}

/// The next status of the member that `wanted` accepts.
async fn status(news: &mut mpsc::Receiver<News>, wanted: impl Fn(&MemberState) -> bool) -> MemberState {
    let wait = async {
        loop {
            let Some(News::Statuses(statuses)) = news.recv().await else { continue };
            if let Some(status) = statuses.into_iter().find(|status| wanted(&status.state)) {
                return status.state;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap()
}

#[tokio::test]
async fn what_was_adopted_stays_until_a_leader_has_spoken() {
    let folder = tempfile::tempdir().unwrap();
    let worker = worker(folder.path());
    let wish = testing::wish(KEY, Token(5), Goal::Run, vec![]);
    let member = worker.layout.member(KEY);
    std::fs::create_dir_all(member.root()).unwrap();
    std::fs::write(member.wish(), postcard::to_stdvec(&wish).unwrap()).unwrap();
    let end = MemberEnd::Exited { ranks: vec![], outputs: vec![] };
    std::fs::write(member.ended(), postcard::to_stdvec(&end).unwrap()).unwrap();

    let found = crate::member::find(&worker.layout).unwrap();
    let (handle, run) = start(worker.context.clone(), found, false);
    tokio::spawn(run);
    // Two sessions in a row: neither has brought a wish yet.
    for _ in 0..2 {
        let subscription = handle.subscribe().await.unwrap();
        assert_eq!(subscription.statuses.len(), 1);
        assert_eq!(subscription.statuses[0].state, MemberState::Ended(end.clone()));
    }
    handle.wishes(vec![]).await;
    let gone = async {
        while member.root().exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn a_member_that_is_stopped_before_its_start_ends_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let worker = worker(folder.path());
    let (handle, run) = start(worker.context.clone(), crate::member::find(&worker.layout).unwrap(), false);
    tokio::spawn(run);
    let mut news = handle.subscribe().await.unwrap().news;
    // A gang of two members, so that it waits for the other.
    let key = MemberKey { node_rank: 1, ..KEY };
    let mut wish = testing::wish(key, Token(5), Goal::Prepare, vec![]);
    handle.wishes(vec![wish.clone()]).await;
    let prepared = status(&mut news, |state| matches!(state, MemberState::Prepared(_))).await;
    assert!(matches!(prepared, MemberState::Prepared(endpoints) if endpoints.len() == 1));
    wish.goal = Goal::Kill;
    handle.wishes(vec![wish]).await;
    let ended = status(&mut news, |state| matches!(state, MemberState::Ended(_))).await;
    let MemberState::Ended(MemberEnd::Exited { ranks, .. }) = ended else { panic!("{ended:?}") };
    assert_eq!(ranks[0].exit, types::RankExit::NotStarted);
    handle.wishes(vec![]).await;
    // The last state is told to a session that begins later, too, until nothing is left.
    let gone = async { while !handle.subscribe().await.unwrap().statuses.is_empty() {} };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test]
async fn a_gang_with_addresses_of_a_former_life_is_not_started() {
    let folder = tempfile::tempdir().unwrap();
    let worker = worker(folder.path());
    let (handle, run) = start(worker.context.clone(), vec![], false);
    tokio::spawn(run);
    let mut news = handle.subscribe().await.unwrap().news;
    let key = MemberKey { node_rank: 1, ..KEY };
    let mut wish = testing::wish(key, Token(5), Goal::Run, vec![]);
    let old = |rank| types::Endpoint {
        rank: types::RankIndex(rank),
        data: "127.0.0.1:1".into(),
        framework: "127.0.0.1:2".into(),
    };
    wish.endpoints = vec![old(0), old(1)];
    handle.wishes(vec![wish]).await;
    let ended = status(&mut news, |state| matches!(state, MemberState::Ended(_))).await;
    assert!(matches!(&ended, MemberState::Ended(MemberEnd::NotPrepared { machine_fault: true, .. })), "{ended:?}");
}

#[tokio::test]
async fn what_a_power_cut_may_have_taken_is_not_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let worker = worker(folder.path());
    let (handle, run) = start(worker.context.clone(), vec![], true);
    tokio::spawn(run);
    let mut news = handle.subscribe().await.unwrap().news;
    let key = MemberKey { node_rank: 1, ..KEY };
    let wish = testing::wish(key, Token(5), Goal::Prepare, vec![]);
    handle.wishes(vec![wish.clone()]).await;
    let ended = status(&mut news, |state| matches!(state, MemberState::Ended(_))).await;
    assert_eq!(ended, MemberState::Ended(MemberEnd::Unknown));
    // The next attempt, which was wished after the start, begins.
    let next = MemberKey { attempt: AttemptNumber(2), ..key };
    handle.wishes(vec![wish, testing::wish(next, Token(9), Goal::Prepare, vec![])]).await;
    status(&mut news, |state| matches!(state, MemberState::Prepared(_))).await;
    assert!(!worker.layout.member(key).root().exists());
}

#[tokio::test]
async fn nothing_begins_after_everything_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let worker = worker(folder.path());
    let (handle, run) = start(worker.context.clone(), vec![], false);
    tokio::spawn(run);
    handle.kill_all().await;
    let key = MemberKey { node_rank: 1, ..KEY };
    handle.wishes(vec![testing::wish(key, Token(5), Goal::Prepare, vec![])]).await;
    // Answered after the wishes were acted upon.
    handle.kill_all().await;
    assert!(handle.subscribe().await.unwrap().statuses.is_empty());
}

#[tokio::test]
async fn a_folder_that_cannot_be_read_is_removed_and_nothing_of_it_lives_on() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::new(folder.path());
    let member = layout.member(KEY);
    let rank = member.rank(types::RankIndex(0));
    std::fs::create_dir_all(&rank).unwrap();
    std::fs::write(member.wish(), b"of another version").unwrap();
    // What its supervisor left behind when it died.
    let mut orphan = std::process::Command::new("sleep")
        .arg("1000")
        .env(crate::environment::MARKER, rank.display().to_string())
        .spawn()
        .unwrap();
    assert!(crate::member::find(&layout).unwrap().is_empty());
    assert!(!member.root().exists());
    let status = orphan.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}
