//! Alibaba's openb inventory (Weng et al., ATC'23): pods are packed until the cluster is full, under the paper's Random and
//! BestFit. Checks our reading of the inventory and of the method. Parts of a GPU exist here only: the core gives whole ones.

use super::support::text;
use scheduler::simulator::random::Stream;

/// Which machine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pick {
    Random,
    BestFit,
    /// The core's rule, the tightest that will do, with parts of a GPU: first what it leaves of the GPUs in use, then how
    /// many GPUs are wholly free, then processors.
    Tightest,
}

/// Runs with different shuffles, as published.
const SEEDS: u64 = 10;
/// Points of allocated GPU percent to both sides.
const TOLERANCE: f64 = 0.7;
/// Largest machine, by which BestFit makes CPU and GPU comparable: thousandths of a core and of a GPU.
const MOST: [f64; 2] = [128_000.0, 8_000.0];

#[derive(Clone)]
struct Node {
    cpu: u64,
    memory: u64,
    /// Thousandths left of each GPU.
    gpus: Vec<u64>,
    model: String,
}

#[derive(Clone)]
struct Pod {
    cpu: u64,
    memory: u64,
    gpus: usize,
    milli: u64,
    models: Vec<String>,
}

fn rows(table: &str) -> impl Iterator<Item = Vec<&str>> {
    table.lines().skip(1).map(|line| line.split(',').collect())
}

fn nodes(table: &str) -> Vec<Node> {
    let number = |text: &str| text.parse::<u64>().unwrap();
    let node = |row: Vec<&str>| Node {
        cpu: number(row[1]),
        memory: number(row[2]),
        gpus: vec![1_000; row[3].parse().unwrap()],
        model: row[4].to_owned(),
    };
    rows(table).map(node).collect()
}

fn pods(table: &str) -> Vec<Pod> {
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    let models = |row: &[&str]| row.get(5).map_or(Vec::new(), |spec| spec.split('|').map(str::to_owned).collect());
    let pod = |row: Vec<&str>| Pod {
        cpu: number(row[1]),
        memory: number(row[2]),
        gpus: number(row[3]) as usize,
        milli: number(row[4]),
        models: models(&row).into_iter().filter(|model: &String| !model.is_empty()).collect(),
    };
    rows(table).map(pod).collect()
}

impl Node {
    fn fits(&self, pod: &Pod) -> bool {
        let has_model = pod.gpus == 0 || pod.models.is_empty() || pod.models.contains(&self.model);
        let gpus = self.gpus.iter().filter(|left| **left >= pod.milli).count();
        self.cpu >= pod.cpu && self.memory >= pod.memory && has_model && (pod.gpus == 0 || gpus >= pod.gpus)
    }

    /// The paper's score: what would be left, weighted; in whole hundredths, so that many are equal.
    fn best_fit(&self, pod: &Pod) -> i64 {
        let gpu: u64 = self.gpus.iter().sum::<u64>() - pod.milli * pod.gpus as u64;
        let left = (self.cpu - pod.cpu) as f64 / MOST[0] * 0.5 + gpu as f64 / MOST[1] * 0.5;
        ((1.0 - left) * 100.0) as i64
    }

    /// Higher is tighter.
    fn tightness(&self, pod: &Pod) -> i64 {
        let whole = self.gpus.iter().filter(|left| **left == 1_000).count() as i64;
        let part =
            self.gpus.iter().filter(|left| **left >= pod.milli).min().map_or(0, |left| (left - pod.milli) as i64);
        let part = if pod.gpus == 1 { part } else { 0 };
        let free: i64 = self.gpus.iter().map(|left| *left as i64).sum();
        -(part * 1_000_000_000 + whole * 10_000_000 + free * 1_000 + (self.cpu / 1_000) as i64)
    }

    fn take(&mut self, pod: &Pod, is_random: bool, chance: u64) {
        self.cpu -= pod.cpu;
        self.memory -= pod.memory;
        for _ in 0..pod.gpus {
            let mut fitting: Vec<usize> = (0..self.gpus.len()).filter(|gpu| self.gpus[*gpu] >= pod.milli).collect();
            fitting.sort_by_key(|gpu| self.gpus[*gpu]);
            let gpu = if is_random { fitting[chance as usize % fitting.len()] } else { fitting[0] };
            self.gpus[gpu] -= pod.milli;
        }
    }
}

/// Allocated GPU percent once 100 % and 130 % of all GPUs were asked for.
fn pack(nodes: &[Node], pods: &[Pod], pick: Pick, seed: u64) -> (f64, f64) {
    let mut nodes = nodes.to_vec();
    let all: u64 = nodes.iter().map(|node| 1_000 * node.gpus.len() as u64).sum();
    let (order, more, chance) = (Stream::new(seed, 1), Stream::new(seed, 2), Stream::new(seed, 3));
    let mut queue: Vec<&Pod> = pods.iter().collect();
    for at in (1..queue.len()).rev() {
        queue.swap(at, order.below(at as u64, at as u64 + 1) as usize);
    }
    let (mut asked, mut given, mut at_capacity, mut n) = (0, 0, 0, 0_u64);
    while asked * 10 < all * 13 {
        let fallback = &pods[more.below(n, pods.len() as u64) as usize];
        let pod = queue.get(n as usize).copied().unwrap_or(fallback);
        n += 1;
        let fitting: Vec<usize> = (0..nodes.len()).filter(|node| nodes[*node].fits(pod)).collect();
        let wanted = pod.milli * pod.gpus as u64;
        let score = |node: &usize| match pick {
            Pick::Random => 0,
            Pick::BestFit => nodes[*node].best_fit(pod),
            Pick::Tightest => nodes[*node].tightness(pod),
        };
        let best = fitting.iter().map(score).max();
        let equal: Vec<usize> = fitting.iter().copied().filter(|node| Some(score(node)) == best).collect();
        if !equal.is_empty() {
            let node = equal[chance.below(2 * n, equal.len() as u64) as usize];
            nodes[node].take(pod, pick == Pick::Random, chance.bits(2 * n + 1) >> 8);
            given += wanted;
        }
        if asked < all && asked + wanted >= all {
            at_capacity = given;
        }
        asked += wanted;
    }
    (100.0 * at_capacity as f64 / all as f64, 100.0 * given as f64 / all as f64)
}

/// Means over all shuffles; nothing without the traces.
fn packed(list: &str, pick: Pick) -> Option<(f64, f64)> {
    let nodes_table = text("alibaba-openb-2023/openb_node_list_gpu_node.csv")?;
    let pods_table = text(&format!("alibaba-openb-2023/openb_pod_list_{list}.csv"))?;
    let (nodes, pods) = (nodes(&nodes_table), pods(&pods_table));
    let runs: Vec<(f64, f64)> = (0..SEEDS).map(|seed| pack(&nodes, &pods, pick, seed)).collect();
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
    Some((mean(&|run| run.0), mean(&|run| run.1)))
}

fn check(list: &str, pick: Pick, published: (f64, f64)) {
    let Some(ours) = packed(list, pick) else { return };
    let name = if pick == Pick::Random { "Random" } else { "BestFit" };
    println!(
        "openb {list} {name}: {:.2} / {:.2} %, published {:.2} / {:.2} %",
        ours.0, ours.1, published.0, published.1
    );
    assert!((ours.0 - published.0).abs() <= TOLERANCE && (ours.1 - published.1).abs() <= TOLERANCE, "{ours:?}");
}

#[test]
fn random_packs_the_default_pods_as_published() {
    check("default", Pick::Random, (86.30, 87.47));
}

#[test]
fn best_fit_packs_the_default_pods_as_published() {
    check("default", Pick::BestFit, (92.86, 93.08));
}

#[test]
fn random_packs_the_pods_of_many_gpus_as_published() {
    check("multigpu50", Pick::Random, (81.28, 90.28));
}

#[test]
fn best_fit_packs_the_pods_of_many_gpus_as_published() {
    check("multigpu50", Pick::BestFit, (95.62, 95.74));
}

#[test]
fn the_tightest_fit_packs_no_worse_than_best_fit() {
    for (list, best_fit) in [("default", (92.86, 93.08)), ("multigpu50", (95.62, 95.74))] {
        let Some(ours) = packed(list, Pick::Tightest) else { return };
        println!(
            "openb {list} tightest: {:.2} / {:.2} %, BestFit {:.2} / {:.2} %",
            ours.0, ours.1, best_fit.0, best_fit.1
        );
        assert!(ours.0 >= best_fit.0 && ours.1 >= best_fit.1, "{ours:?}");
    }
}
