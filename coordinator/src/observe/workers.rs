//! What the workers whose sessions are here say of their machines: shown by the leader alone, so that nothing is doubled.
//!
//! One entry for each worker that the tables know, however often it speaks; who is forgotten there is forgotten here when the
//! page is next read.

use super::figures::reals;
use super::text;
use cluster_state::{State, Worker};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use proto::internal::{Figures, Gpu};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use types::WorkerId;

/// Devices of one worker that are shown: as many as the scheduler can use.
const GPUS_MAX: usize = 64;
/// Of a device's names.
const NAME_BYTES_MAX: usize = 100;

type Labels = Vec<(&'static str, String)>;

/// When a worker was last heard of, and what it said.
struct Seen {
    heard: Instant,
    figures: Option<(Instant, Figures)>,
}

/// By worker.
#[derive(Default)]
pub(super) struct Workers(Mutex<BTreeMap<WorkerId, Seen>>);

impl Workers {
    /// It is alive.
    pub(super) fn heard(&self, worker: &WorkerId, now: Instant) {
        self.seen(worker, now, |_| {});
    }

    /// It told of its machine.
    pub(super) fn told(&self, worker: &WorkerId, mut figures: Figures, now: Instant) {
        figures.gpus.truncate(GPUS_MAX);
        for gpu in &mut figures.gpus {
            gpu.uuid = name(&gpu.uuid);
            gpu.model = name(&gpu.model);
        }
        self.seen(worker, now, |seen| seen.figures = Some((now, figures)));
    }

    fn seen(&self, worker: &WorkerId, now: Instant, change: impl FnOnce(&mut Seen)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(worker) {
            all.insert(worker.clone(), Seen { heard: now, figures: None });
        }
        if let Some(seen) = all.get_mut(worker) {
            seen.heard = now;
            change(seen);
        }
    }

    /// By state, how long the worker of that state has been silent that has been so longest.
    pub(super) fn silences(&self, registry: &mut Registry, state: &State, now: Instant) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut longest: BTreeMap<&'static str, f64> = BTreeMap::new();
        for (id, worker) in state.workers() {
            let Some(seen) = all.get(id) else { continue };
            let age = now.saturating_duration_since(seen.heard).as_secs_f64();
            let known = longest.entry(worker.state_name()).or_default();
            *known = known.max(age);
        }
        let ages = longest.into_iter().map(|(state, age)| (vec![("state", state.to_owned())], age));
        let help = "By state of the worker: the longest time since one was heard of, on the leader";
        reals::<Labels>(registry, "workers_heartbeat_age_seconds", help, ages);
    }

    /// The page of all workers.
    pub(super) fn text(&self, state: &State, now: Instant) -> Result<String, std::fmt::Error> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|id, _| state.worker(id).is_some());
        let shown: Vec<_> = state.workers().map(|(id, worker)| (id, &**worker, all.get(id))).collect();
        let (mut own, mut dcgm) = (Registry::with_prefix("muster_worker"), Registry::default());
        of_tables(&mut own, state, &shown);
        // A lost worker's last words are not what is so now.
        let live = shown.iter().filter(|(_, worker, _)| !worker.lost);
        let told: Vec<(&WorkerId, Duration, &Figures)> = live
            .filter_map(|(id, _, seen)| {
                let (at, figures) = seen.as_ref()?.figures.as_ref()?;
                Some((*id, now.saturating_duration_since(*at), figures))
            })
            .collect();
        of_machines(&mut own, &told);
        of_gpus(&mut dcgm, &told);
        text::encode(&[&own, &dcgm])
    }
}

/// Of a device: what may stand in a label without an escape.
fn name(text: &str) -> String {
    let plain = |c: &char| c.is_ascii_graphic() && !matches!(c, '"' | '\\') || *c == ' ';
    text.chars().filter(plain).take(NAME_BYTES_MAX).collect()
}

fn worker(id: &WorkerId) -> Labels {
    vec![("worker", id.to_string())]
}

fn of_tables(registry: &mut Registry, state: &State, shown: &[(&WorkerId, &Worker, Option<&Seen>)]) {
    let states = shown.iter().map(|(id, known, _)| {
        let version = name(&known.registration.version);
        (vec![("worker", id.to_string()), ("state", known.state_name().to_owned()), ("version", version)], 1.0)
    });
    reals(registry, "info", "1, with the worker's state and version", states);
    let slots = shown.iter().map(|(id, known, _)| (worker(id), f64::from(known.held.cpus)));
    reals(registry, "cpus_used", "CPU slots held by ranks", slots);
    let ranks = shown.iter().map(|(id, known, _)| (worker(id), f64::from(ranks(state, known))));
    reals(registry, "ranks", "Ranks of attempts that have not ended here", ranks);
    let devices = shown.iter().flat_map(|(id, known, _)| {
        known.registration.inventory.devices.iter().map(|device| {
            let labels = vec![("worker", id.to_string()), ("gpu", device.index.to_string())];
            (labels, f64::from(u8::from(known.held.devices.contains_key(&device.index))))
        })
    });
    reals(registry, "device_allocated", "1 where a rank holds the GPU", devices);
    let devices = shown.iter().flat_map(|(id, known, _)| {
        known.registration.inventory.devices.iter().map(|device| {
            let labels = vec![("worker", id.to_string()), ("gpu", device.index.to_string())];
            (labels, f64::from(u8::from(device.healthy)))
        })
    });
    reals(registry, "device_healthy", "1 where the GPU answers and is offered", devices);
}

fn ranks(state: &State, worker: &Worker) -> u32 {
    let of = |key: &types::MemberKey| {
        let attempt = state.job(key.job)?.live_attempt().filter(|attempt| attempt.number == key.attempt)?;
        let member = attempt.placement.members.iter().find(|member| member.node_rank == key.node_rank)?;
        u32::try_from(member.ranks.len()).ok()
    };
    worker.held.members.iter().filter_map(of).sum()
}

fn of_machines(registry: &mut Registry, told: &[(&WorkerId, Duration, &Figures)]) {
    let mut set = |name: &str, help: &str, of: fn(&Figures) -> f64| {
        reals(registry, name, help, told.iter().map(|(id, _, figures)| (worker(id), of(figures))));
    };
    set("cpus", "Processors of the machine", |of| f64::from(of.cpus));
    set("memory_bytes", "Memory of the machine", |of| of.memory_bytes as f64);
    set("memory_available_bytes", "Memory that new programs could have", |of| of.memory_bytes_available as f64);
    set("disk_size_bytes", "Size of the file system of the worker's folder", |of| of.disk_bytes as f64);
    set("disk_free_bytes", "Free for the worker on that file system", |of| of.disk_bytes_free as f64);
    set("spool_bytes", "Output of ranks that no majority of coordinators has yet", |of| of.spool_bytes as f64);
    let ages = told.iter().map(|(id, age, _)| (worker(id), age.as_secs_f64()));
    reals(registry, "figures_age_seconds", "How old the machine's figures are", ages);
    let mut count = |name: &str, help: &str, of: fn(&Figures) -> f64| {
        counters(registry, name, help, told.iter().map(|(id, _, figures)| (worker(id), of(figures))));
    };
    count("cpu_seconds", "Time of processors at work", |of| of.cpu_seconds);
    count("network_received_bytes", "Received on all interfaces but loopback", |of| of.network_bytes_received as f64);
    count("network_sent_bytes", "Sent on all interfaces but loopback", |of| of.network_bytes_sent as f64);
    count("network_errors", "Errors and drops of these interfaces", |of| of.network_errors as f64);
    count("tcp_retransmits", "TCP segments that were sent again", |of| of.tcp_retransmits as f64);
    count("oom_kills", "Processes that the kernel killed for memory", |of| of.oom_kills as f64);
    let pressure = told.iter().flat_map(|(id, _, of)| {
        let all =
            [("cpu", of.cpu_pressure_seconds), ("memory", of.memory_pressure_seconds), ("io", of.io_pressure_seconds)];
        all.into_iter().filter_map(|(resource, seconds)| {
            Some((vec![("worker", id.to_string()), ("resource", resource.to_owned())], seconds?))
        })
    });
    let help = "Time for which some task waited for the resource";
    counters(registry, "pressure_seconds", help, pressure);
}

fn counters(registry: &mut Registry, name: &str, help: &str, values: impl Iterator<Item = (Labels, f64)>) {
    let family: Family<Labels, Counter<f64, AtomicU64>> = Family::default();
    let mut is_empty = true;
    for (labels, value) in values {
        family.get_or_create(&labels).inc_by(value);
        is_empty = false;
    }
    if !is_empty {
        registry.register(name, help, family);
    }
}

/// Under the names, units and labels of NVIDIA's DCGM exporter, so that its dashboards fit; what counts up is a gauge here, for
/// those names have no `_total`.
fn of_gpus(registry: &mut Registry, told: &[(&WorkerId, Duration, &Figures)]) {
    let mut set = |name: &str, help: &str, of: fn(&Gpu) -> Option<f64>| {
        let gpus = told.iter().flat_map(|(id, _, figures)| figures.gpus.iter().map(move |gpu| (id, gpu)));
        let values = gpus.filter_map(|(id, gpu)| Some((labels_of(id, gpu), of(gpu)?)));
        reals(registry, &format!("DCGM_FI_DEV_{name}"), help, values);
    };
    set("SM_CLOCK", "SM clock in MHz", |gpu| gpu.sm_clock);
    set("MEM_CLOCK", "Memory clock in MHz", |gpu| gpu.memory_clock);
    set("GPU_TEMP", "Temperature in degrees Celsius", |gpu| gpu.temperature);
    set("POWER_USAGE", "Power in W", |gpu| gpu.power);
    set("TOTAL_ENERGY_CONSUMPTION", "Energy since the driver was loaded, in mJ", |gpu| gpu.energy);
    set("PCIE_TX_THROUGHPUT", "Sent over PCIe, in KB/s", |gpu| gpu.pcie_sent);
    set("PCIE_RX_THROUGHPUT", "Received over PCIe, in KB/s", |gpu| gpu.pcie_received);
    set("PCIE_REPLAY_COUNTER", "Retries on PCIe", |gpu| gpu.pcie_replays);
    set("GPU_UTIL", "Time with a kernel at work, in percent", |gpu| gpu.utilization);
    set("MEM_COPY_UTIL", "Time with memory at work, in percent", |gpu| gpu.memory_utilization);
    set("FB_FREE", "Free memory in MiB", |gpu| gpu.memory_free);
    set("FB_USED", "Memory in use in MiB", |gpu| gpu.memory_used);
    set("ECC_SBE_VOL_TOTAL", "Corrected memory errors since the driver was loaded", |gpu| gpu.ecc_corrected);
    set("ECC_DBE_VOL_TOTAL", "Uncorrected memory errors since the driver was loaded", |gpu| gpu.ecc_uncorrected);
    set("CLOCK_THROTTLE_REASONS", "Why clocks are held back, as bits of NVML", |gpu| gpu.throttle_reasons);
    set("XID_ERRORS", "The last XID error since the worker started; 0 is none", |gpu| Some(gpu.xid));
}

fn labels_of(id: &WorkerId, gpu: &Gpu) -> Labels {
    vec![
        ("worker", id.to_string()),
        ("gpu", gpu.index.to_string()),
        ("UUID", gpu.uuid.clone()),
        ("device", format!("nvidia{}", gpu.index)),
        ("modelName", gpu.model.clone()),
        ("Hostname", id.to_string()),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::Tables;

    fn gpu() -> Gpu {
        Gpu { index: 0, uuid: "GPU-1".into(), model: "H\"100".into(), utilization: Some(97.0), ..Gpu::default() }
    }

    #[test]
    fn a_worker_is_shown_with_what_it_told_last_and_what_it_holds() {
        let mut tables = Tables::default();
        tables.worker("a", 4, &[true, true]);
        tables.worker("silent", 4, &[]);
        tables.submit(|spec| spec.gang.per_rank.gpus = 1);
        tables.plan();
        let (workers, now) = (Workers::default(), Instant::now());
        let id = WorkerId::new("a").unwrap();
        let figures = Figures {
            cpus: 8,
            cpu_seconds: 12.5,
            io_pressure_seconds: Some(1.0),
            gpus: vec![gpu()],
            ..Figures::default()
        };
        workers.told(&id, Figures { cpus: 7, ..Figures::default() }, now);
        workers.told(&id, figures, now);
        let text = workers.text(&tables.state, now + Duration::from_secs(2)).unwrap();
        for line in [
            "muster_worker_info{worker=\"a\",state=\"ready\",version=\"0\"} 1.0",
            "muster_worker_info{worker=\"silent\",state=\"ready\",version=\"0\"} 1.0",
            "muster_worker_cpus{worker=\"a\"} 8.0",
            "muster_worker_ranks{worker=\"a\"} 1.0",
            "muster_worker_cpu_seconds_total{worker=\"a\"} 12.5",
            "muster_worker_pressure_seconds_total{worker=\"a\",resource=\"io\"} 1.0",
            "muster_worker_figures_age_seconds{worker=\"a\"} 2.0",
            "muster_worker_device_allocated{worker=\"a\",gpu=\"0\"} 1.0",
            "muster_worker_device_allocated{worker=\"a\",gpu=\"1\"} 0.0",
            "DCGM_FI_DEV_GPU_UTIL{worker=\"a\",gpu=\"0\",UUID=\"GPU-1\",device=\"nvidia0\",modelName=\"H100\",Hostname=\"a\"} 97.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(
            !text.contains("resource=\"cpu\"") && !text.contains("POWER_USAGE"),
            "what nobody told is not there: {text}"
        );
    }

    #[test]
    fn a_lost_workers_last_words_are_not_shown_and_its_silence_is() {
        let mut tables = Tables::default();
        tables.worker("a", 4, &[]);
        let (workers, begun) = (Workers::default(), Instant::now());
        let id = WorkerId::new("a").unwrap();
        workers.told(&id, Figures { cpus: 8, ..Figures::default() }, begun);
        workers.heard(&id, begun + Duration::from_secs(1));
        tables.lose("a");
        let now = begun + Duration::from_secs(31);
        let text = workers.text(&tables.state, now).unwrap();
        assert!(text.contains("state=\"lost\"") && !text.contains("muster_worker_cpus{"), "{text}");
        let mut registry = Registry::default();
        workers.silences(&mut registry, &tables.state, now);
        let text = text::encode(&[&registry]).unwrap();
        assert!(text.contains("workers_heartbeat_age_seconds{state=\"lost\"} 30.0"), "{text}");
    }

    #[test]
    fn who_is_in_no_table_is_forgotten_and_nobody_tells_of_more_devices_than_there_can_be() {
        let (workers, now, id) = (Workers::default(), Instant::now(), WorkerId::new("x").unwrap());
        workers.told(&id, Figures { gpus: vec![gpu(); 1_000], ..Figures::default() }, now);
        let count = |workers: &Workers| {
            let all = workers.0.lock().unwrap();
            all.get(&id).map(|seen| seen.figures.as_ref().map_or(0, |(_, figures)| figures.gpus.len()))
        };
        assert_eq!(count(&workers), Some(GPUS_MAX));
        workers.text(&State::new(), now).unwrap();
        assert_eq!(count(&workers), None);
    }
}
