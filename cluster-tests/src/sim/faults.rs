//! What goes wrong: coordinators crash and come back, links are cut both ways or one, calls are lost, disks grow slow. The worst
//! moments are sought out, for chance alone seldom hits them: right after an acknowledgement, right after an election.

mod cuts;

use super::chance::Chance;
use super::{World, coordinators, locked, members};
use cuts::Directions;
use std::sync::Arc;
use std::time::Duration;
use types::CoordinatorId;

/// For a moment that is waited for: an acknowledgement, a new leader.
const MOMENT_MAX: Duration = Duration::from_millis(1_500);

/// Does one harm after the other until the time is over.
pub async fn rage(world: &Arc<World>) {
    let chance = world.chance("faults");
    let mut rage = Rage { world: world.clone(), chance, pinned: (Directions::new(), Duration::ZERO) };
    let end = Duration::from_secs(world.plan.seconds);
    while world.now() < end && !world.has_failed() {
        let pause = rage.chance.between(100, 1_200);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        rage.harm().await;
    }
}

/// Everything is whole again.
pub async fn heal(world: &Arc<World>) -> Result<(), String> {
    world.note("healed for good");
    world.network.cut(Directions::new());
    world.network.weather(0, 2_000);
    for id in world.hosts() {
        coordinators::set_slow(world, id, false);
        if world.running(id).is_none() {
            coordinators::start(world, id).await?;
        }
    }
    Ok(())
}

struct Rage {
    world: Arc<World>,
    chance: Chance,
    /// Stays cut until then, whatever else is healed.
    pinned: (Directions, Duration),
}

impl Rage {
    async fn harm(&mut self) {
        match self.chance.between(0, 24) {
            0 | 1 => self.cut(cuts::split, "a partition"),
            2 => self.alone_for_long(),
            3 => self.cut(cuts::one_way, "one way"),
            4 => self.cut(cuts::worker_off, "a worker off"),
            5..8 => self.cut(|_, _| Directions::new(), "healed"),
            8 => self.weather(),
            9 => self.slow(),
            10 => self.hand_over(),
            11 | 12 => self.restart().await,
            13 | 14 => self.crash().await,
            15 => self.flash().await,
            16 | 17 => self.crash_after_acknowledgement().await,
            18 => self.black_out().await,
            19 => self.moving_partition().await,
            21 | 22 => members::change(&self.world, &mut self.chance).await,
            20 => self.worker_off_for_long(),
            _ => self.crash_after_election().await,
        }
    }

    fn cut(&mut self, directions: impl FnOnce(&World, &mut Chance) -> Directions, what: &str) {
        let directions = directions(&self.world, &mut self.chance);
        self.cut_exactly(directions, what);
    }

    /// These directions and the pinned ones.
    fn cut_exactly(&mut self, mut directions: Directions, what: &str) {
        if self.world.now() < self.pinned.1 {
            directions.extend(&self.pinned.0);
        }
        if !directions.is_empty() {
            self.world.count(|counts| counts.cuts += 1);
        }
        self.world.note(&format!("{what}: {directions:?}"));
        self.world.network.cut(directions);
    }

    /// Longer than an election, so that there are two who believe to lead.
    fn alone_for_long(&mut self) {
        let until = self.world.now() + Duration::from_millis(self.chance.between(800, 2_500));
        self.pinned = (cuts::alone(&self.world, &mut self.chance), until);
        self.cut_exactly(Directions::new(), "a coordinator alone");
    }

    /// Longer than a lease and its margin: its ranks end, and others take their place.
    fn worker_off_for_long(&mut self) {
        let until = self.world.now() + Duration::from_millis(self.chance.between(4_000, 9_000));
        self.pinned = (cuts::worker_off(&self.world, &mut self.chance), until);
        self.cut_exactly(Directions::new(), "a worker off for long");
    }

    fn weather(&mut self) {
        let loss = self.chance.between(0, 200);
        let delay = if self.chance.thousandths(300) { 40_000 } else { 2_000 };
        self.world.note(&format!("{loss} of 1000 calls are lost, delays up to {delay} us"));
        self.world.network.weather(loss, delay);
    }

    fn slow(&mut self) {
        let Some(id) = self.chance.pick(&self.world.hosts()) else { return };
        let slow = self.chance.thousandths(500);
        self.world.note(&format!("the disk of coordinator {id} is {}", if slow { "slow" } else { "fast" }));
        coordinators::set_slow(&self.world, id, slow);
    }

    fn hand_over(&mut self) {
        let Some(leader) = self.world.leaders().first().and_then(|id| self.world.running(*id)) else { return };
        let Some(to) = self.chance.pick(&self.world.hosts()).map(CoordinatorId) else { return };
        self.world.note(&format!("leadership is to go to {to}"));
        tokio::spawn(async move { leader.node.transfer_leadership(Some(to)).await });
    }

    /// Mostly the leader.
    fn victim(&mut self) -> Option<u64> {
        let leader = self.world.leaders().first().copied().filter(|_| self.chance.thousandths(600));
        leader.or_else(|| self.chance.pick(&self.world.alive()))
    }

    /// As many may stay down as leave a majority.
    fn may_stay_down(&self) -> bool {
        self.world.alive().len() * 2 > self.world.hosts().len() + 1
    }

    async fn crash(&mut self) {
        if !self.may_stay_down() {
            return self.restart().await;
        }
        if let Some(id) = self.victim() {
            coordinators::crash(&self.world, id, &mut self.chance);
        }
    }

    /// It is back before anybody misses it.
    async fn flash(&mut self) {
        if let Some(id) = self.victim() {
            self.fall_and_rise(&[id], 100).await;
        }
    }

    async fn fall_and_rise(&mut self, ids: &[u64], down_ms_max: u64) {
        for id in ids {
            coordinators::crash(&self.world, *id, &mut self.chance);
        }
        for id in ids {
            let down = self.chance.between(0, down_ms_max);
            tokio::time::sleep(Duration::from_millis(down)).await;
            self.start(*id).await;
        }
    }

    /// The power of all fails at once.
    async fn black_out(&mut self) {
        let ids = self.world.alive();
        self.world.note("a power cut of all");
        self.fall_and_rise(&ids, 300).await;
    }

    /// What was just acknowledged has to be on other disks by now.
    async fn crash_after_acknowledgement(&mut self) {
        let acknowledged = self.world.acknowledged.notified();
        let Ok(()) = tokio::time::timeout(MOMENT_MAX, acknowledged).await else { return };
        let all = self.chance.thousandths(300);
        let leader = self.world.leaders().first().copied();
        let ids = if all { self.world.alive() } else { leader.into_iter().collect() };
        self.world.note("a crash right after an acknowledgement");
        if self.may_stay_down() && !all && self.chance.thousandths(500) {
            for id in &ids {
                coordinators::crash(&self.world, *id, &mut self.chance);
            }
        } else {
            self.fall_and_rise(&ids, 200).await;
        }
    }

    /// Who leads after this one; none when nobody comes in time.
    async fn next_leader(&self, after: u64) -> Option<u64> {
        let looked = async {
            loop {
                if let Some(leader) = self.world.leaders().first().copied().filter(|leader| *leader != after) {
                    return leader;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(MOMENT_MAX, looked).await.ok()
    }

    /// Those who have just voted fall, and rise at once: they must know for whom.
    async fn crash_after_election(&mut self) {
        let Some(old) = self.world.leaders().first().copied() else { return };
        self.world.note("an election");
        if self.may_stay_down() {
            coordinators::crash(&self.world, old, &mut self.chance);
        }
        let Some(new) = self.next_leader(old).await else { return };
        let voters: Vec<u64> = self.world.alive().into_iter().filter(|id| *id != new).collect();
        self.fall_and_rise(&voters, 20).await;
    }

    /// The leader is alone until the others have elected one; then those who did fall, rise, and see the old leader only.
    async fn moving_partition(&mut self) {
        let Some(old) = self.world.leaders().first().copied() else { return };
        self.cut_exactly(cuts::between_sides(&self.world, &[old]), "the leader alone");
        let Some(new) = self.next_leader(old).await else { return };
        let voters: Vec<u64> = self.world.alive().into_iter().filter(|id| ![old, new].contains(id)).collect();
        self.cut_exactly(cuts::between_sides(&self.world, &[new]), "the next leader alone");
        self.fall_and_rise(&voters, 20).await;
    }

    async fn restart(&mut self) {
        let down: Vec<u64> = self.world.hosts().into_iter().filter(|id| self.world.running(*id).is_none()).collect();
        if let Some(id) = self.chance.pick(&down) {
            self.start(id).await;
        }
    }

    async fn start(&self, id: u64) {
        if let Err(what) = coordinators::start(&self.world, id).await {
            self.world.violated(what);
        }
        let snapshots = u64::from(locked(&self.world.reference).len() > 100);
        self.world.count(|counts| counts.snapshots += snapshots);
    }
}
