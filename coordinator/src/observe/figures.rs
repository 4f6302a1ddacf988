//! Gauges made when they are read, and the counts that the leader's survey of waiting jobs leaves for them.

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

/// A gauge of fractions.
pub(super) type Ratio = Gauge<f64, AtomicU64>;

/// One whole number.
pub(super) fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

/// One number.
pub(super) fn real(registry: &mut Registry, name: &str, help: &str, value: f64) {
    let gauge = Ratio::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

/// A number for each of these labels; without any the metric is left out.
pub(super) fn reals<L>(registry: &mut Registry, name: &str, help: &str, values: impl IntoIterator<Item = (L, f64)>)
where
    L: Clone + Eq + Hash + Debug + EncodeLabelSet + Send + Sync + 'static,
    Family<L, Ratio>: EncodeMetric,
{
    let family: Family<L, Ratio> = Family::default();
    let mut is_empty = true;
    for (labels, value) in values {
        family.get_or_create(&labels).set(value);
        is_empty = false;
    }
    if !is_empty {
        registry.register(name, help, family);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// How many of the jobs that were looked at wait for what.
#[derive(Debug, Default)]
pub(super) struct Surveyed(Mutex<BTreeMap<&'static str, u32>>);

impl Surveyed {
    pub(super) fn set(&self, reasons: &[&'static str]) {
        let mut counts = BTreeMap::new();
        for reason in reasons {
            *counts.entry(*reason).or_default() += 1;
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let help = "Of the jobs at the head of the queue: what they wait for, on the leader";
        let values = counts.into_iter().map(|(reason, count)| (Reason { reason }, f64::from(count)));
        reals(registry, "jobs_held_back", help, values);
    }
}
