//! Which GPUs of this machine have a fast path between them: NVLink where there is any, else a common NUMA node.

use nvml_wrapper::enum_wrappers::device::TopologyLevel;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::PciInfo;
use nvml_wrapper::{Device, Nvml};
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
        let mut ends: BTreeSet<String> = nvlinks(&device).map(|remote| remote.bus_id).collect();
        if !ends.is_empty() {
            ends.insert(device.pci_info()?.bus_id);
        }
        Ok(ends)
    };
    (0..count).map(|index| ends(index).unwrap_or_default()).collect()
}

/// The other ends of a device's active NVLinks.
pub(crate) fn nvlinks<'a>(device: &'a Device<'_>) -> impl Iterator<Item = PciInfo> + 'a {
    let links = (0..LINKS_MAX).map(|link| device.link_wrapper_for(link));
    // Past the last link comes an error.
    let known = links.map_while(|link| link.is_active().ok().map(|is_active| (link, is_active)));
    known.filter_map(|(link, is_active)| link.remote_pci_info().ok().filter(|_| is_active))
}

/// The NUMA node that a device is attached to; none where the system has but one, or does not tell.
pub(crate) fn numa_node(device: &Device<'_>) -> Option<u32> {
    let bus = device.pci_info().ok()?.bus_id.to_ascii_lowercase();
    // The driver writes the domain with eight digits, the kernel with four.
    let address = bus.strip_prefix("0000").filter(|rest| rest.len() == "0000:00:00.0".len()).unwrap_or(&bus);
    let is_address = address.chars().all(|c| c.is_ascii_hexdigit() || c == ':' || c == '.');
    let node = is_address.then(|| std::fs::read_to_string(format!("/sys/bus/pci/devices/{address}/numa_node")))?;
    node.ok()?.trim().parse().ok()
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
