//! Which GPUs of this machine have a fast path between them: NVLink where there is any, else a common NUMA node.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TopologyLevel;
use nvml_wrapper::error::NvmlError;
use std::collections::BTreeSet;

/// Links that a device can have: 18 on the newest.
const LINKS_MAX: u32 = 32;

/// The number of each device's island, from 0 in the order of their first devices. A driver that does not tell of paths has one
/// island.
pub(crate) fn of(nvml: &Nvml, count: u32) -> Vec<u32> {
    let linked = linked(nvml, count);
    if linked.iter().any(|ends| !ends.is_empty()) {
        // Two devices are near if one is linked to the other, or both to one switch.
        return group(&linked, |a, b| !a.is_disjoint(b));
    }
    let indexes: Vec<u32> = (0..count).collect();
    group(&indexes, |a, b| !is_far(nvml, *a, *b))
}

/// What each device is linked to by NVLink, itself with it: addresses on the PCI bus.
fn linked(nvml: &Nvml, count: u32) -> Vec<BTreeSet<String>> {
    let ends = |index: u32| -> Result<BTreeSet<String>, NvmlError> {
        let device = nvml.device_by_index(index)?;
        let mut ends = BTreeSet::new();
        for link in (0..LINKS_MAX).map(|link| device.link_wrapper_for(link)) {
            // Past the last link comes an error.
            let Ok(is_active) = link.is_active() else { break };
            if let Some(remote) = link.remote_pci_info().ok().filter(|_| is_active) {
                ends.insert(remote.bus_id);
            }
        }
        if !ends.is_empty() {
            ends.insert(device.pci_info()?.bus_id);
        }
        Ok(ends)
    };
    (0..count).map(|index| ends(index).unwrap_or_default()).collect()
}

fn is_far(nvml: &Nvml, a: u32, b: u32) -> bool {
    let level = || nvml.device_by_index(a)?.topology_common_ancestor(nvml.device_by_index(b)?);
    matches!(level(), Ok(TopologyLevel::System))
}

/// Numbers the groups of items of which each is near another.
fn group<T>(items: &[T], is_near: impl Fn(&T, &T) -> bool) -> Vec<u32> {
    let mut groups: Vec<Option<u32>> = vec![None; items.len()];
    let mut next = 0;
    for first in 0..items.len() {
        if groups[first].is_some() {
            continue;
        }
        groups[first] = Some(next);
        let mut found = vec![first];
        while let Some(at) = found.pop() {
            for other in 0..items.len() {
                if groups[other].is_none() && is_near(&items[at], &items[other]) {
                    groups[other] = Some(next);
                    found.push(other);
                }
            }
        }
        next += 1;
    }
    groups.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::group;

    #[test]
    fn near_is_passed_on() {
        let near = |a: &i32, b: &i32| (a - b).abs() <= 1;
        assert_eq!(group(&[1, 5, 2, 3, 6], near), [0, 1, 0, 0, 1]);
        assert!(group(&[] as &[i32], near).is_empty());
    }
}
