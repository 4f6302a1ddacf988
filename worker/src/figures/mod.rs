//! The load of this machine and its GPUs, looked at every few seconds and kept for the session, which sends it to the leader.
//!
//! A thread of its own: drivers answer when they like. Nothing depends on it; when it ends, the figures stay as they are and
//! the coordinators show how old they are.

mod gpus;
mod machine;

use crate::layout::Layout;
use gpus::Gpus;
use nvml_wrapper::Nvml;
use proto::internal::Figures;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Between two looks: a scrape of Prometheus comes every 15 s, and a GPU's own averages are over a second at most.
const EVERY: Duration = Duration::from_secs(5);
/// Looks without a driver before it is asked for again: one may be loaded while this worker runs.
const LOOKS_WITHOUT: u32 = 12;

/// Starts the thread; it ends when nobody listens any more.
pub(crate) fn start(layout: &Layout) -> std::io::Result<watch::Receiver<Option<Figures>>> {
    let (told, figures) = watch::channel(None);
    let layout = layout.clone();
    std::thread::Builder::new().name("figures".into()).spawn(move || {
        while !told.is_closed() {
            match Nvml::init() {
                Ok(nvml) => with_gpus(&nvml, &layout, &told),
                Err(_) => without_gpus(&layout, &told),
            }
        }
    })?;
    Ok(figures)
}

/// Until the driver fails as a whole: then it is opened anew.
fn with_gpus(nvml: &Nvml, layout: &Layout, told: &watch::Sender<Option<Figures>>) {
    let mut gpus = Gpus::open(nvml);
    loop {
        let begun = Instant::now();
        let Some(seen) = gpus.look() else { return without_gpus(layout, told) };
        told.send_replace(Some(Figures { gpus: seen, ..machine::look(layout) }));
        // Waits, and hears of errors meanwhile.
        while let Some(left) = EVERY.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
            if told.is_closed() {
                return;
            }
            if gpus.wait(left) {
                break;
            }
        }
    }
}

fn without_gpus(layout: &Layout, told: &watch::Sender<Option<Figures>>) {
    for _ in 0..LOOKS_WITHOUT {
        if told.is_closed() {
            return;
        }
        told.send_replace(Some(machine::look(layout)));
        std::thread::park_timeout(EVERY);
    }
}
