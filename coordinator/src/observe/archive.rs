//! What went into the object store outside, and came back.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Way {
    way: &'static str,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Archived {
    blobs: Family<Way, Counter>,
    bytes: Family<Way, Counter>,
    failed: Counter,
    waiting: Gauge,
}

impl Default for Archived {
    fn default() -> Self {
        let (blobs, bytes): (Family<Way, Counter>, Family<Way, Counter>) = Default::default();
        for way in ["in", "out"] {
            // A series that appears with its first event has no rise that a rule could see.
            let _ = (blobs.get_or_create(&Way { way }), bytes.get_or_create(&Way { way }));
        }
        Self { blobs, bytes, failed: Counter::default(), waiting: Gauge::default() }
    }
}

impl Archived {
    /// A blob of so many bytes was stored there.
    pub(crate) fn stored(&self, bytes: u64) {
        self.moved("in", bytes);
    }

    /// One was fetched from there.
    pub(crate) fn fetched(&self, bytes: u64) {
        self.moved("out", bytes);
    }

    fn moved(&self, way: &'static str, bytes: u64) {
        self.blobs.get_or_create(&Way { way }).inc();
        self.bytes.get_or_create(&Way { way }).inc_by(bytes);
    }

    /// It did not take, or tell, what it was to.
    pub(crate) fn failed(&self) {
        self.failed.inc();
    }

    /// So many folders of jobs are not there yet.
    pub(crate) fn waiting(&self, folders: usize) {
        self.waiting.set(i64::try_from(folders).unwrap_or(i64::MAX));
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let blobs = "Blobs that went into the object store, and that came from there";
        registry.register("object_store_blobs", blobs, self.blobs.clone());
        registry.register_with_unit("object_store", "Their bytes", Unit::Bytes, self.bytes.clone());
        let failed = "Looks for new folders that ended with an error of the object store";
        registry.register("object_store_failures", failed, self.failed.clone());
        let waiting = "Folders of jobs that the object store does not have yet, on the leader";
        registry.register("object_store_folders_waiting", waiting, self.waiting.clone());
    }
}
