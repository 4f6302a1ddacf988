//! The machines of a simulation: from a file with a line for each group of like machines, or by a short name.

use super::trace::{Faults, csv::Csv};

/// One machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// GPUs.
    pub devices: u32,
    /// CPU slots.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Index into [`Cluster::classes`].
    pub class: u32,
    /// Its rack, numbered over the whole cluster.
    pub rack: u32,
    /// Its block of racks, likewise.
    pub block: u32,
}

/// Machines in the order of their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The machines.
    pub machines: Vec<Machine>,
    /// Names of GPU models.
    pub classes: Vec<String>,
}

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// How many.
    pub machines: u32,
    /// GPUs of each.
    pub gpus: u32,
    /// Model of the GPUs.
    pub model: String,
    /// CPU slots of each.
    pub cpus: u32,
    /// Memory of each.
    pub memory_gib: u32,
    /// Machines of a rack.
    pub rack: u32,
    /// Racks of a block.
    pub block: u32,
}

/// Most machines in all.
pub const MACHINES_MAX: u32 = 100_000;
/// Most GPUs of a machine: what one word of the scheduler's free-device masks holds.
pub const GPUS_MAX: u32 = 16;

/// Name, what it is.
pub const PRESETS: [(&str, &str); 4] = [
    ("muri", "8 machines with 8 GPUs, one rack: the 64 GPUs of Muri's artifact"),
    ("philly", "352 machines with 8 GPUs in racks of 16: Philly as the Helios paper simulates it"),
    ("pollux", "16 machines with 4 GPUs, one rack: the 64 GPUs of Pollux' artifact"),
    ("large", "10000 machines with 8 GPUs in racks of 16 and blocks of 16 racks"),
];

impl Group {
    fn new(machines: u32, gpus: u32, rack: u32) -> Self {
        Group { machines, gpus, model: "gpu".into(), cpus: 96, memory_gib: 1_024, rack, block: 16 }
    }
}

impl Cluster {
    /// All GPUs.
    pub fn devices(&self) -> u64 {
        self.machines.iter().map(|machine| u64::from(machine.devices)).sum()
    }

    /// Racks never span two groups.
    pub fn of_groups(groups: &[Group]) -> Self {
        let mut cluster = Cluster::default();
        let (mut rack, mut block) = (0, 0);
        for group in groups {
            let class = cluster.class(&group.model);
            for at in 0..group.machines {
                cluster.machines.push(Machine {
                    devices: group.gpus,
                    cpus: group.cpus,
                    memory_bytes: u64::from(group.memory_gib) << 30,
                    class,
                    rack: rack + at / group.rack.max(1),
                    block: block + at / group.rack.max(1) / group.block.max(1),
                });
            }
            let last = cluster.machines.last();
            (rack, block) = last.map_or((rack, block), |machine| (machine.rack + 1, machine.block + 1));
        }
        cluster
    }

    fn class(&mut self, model: &str) -> u32 {
        let known = self.classes.iter().position(|class| class == model);
        known.unwrap_or_else(|| {
            self.classes.push(model.to_owned());
            self.classes.len() - 1
        }) as u32
    }

    /// A cluster by name: one of [`PRESETS`], or `MACHINESxGPUS` with an optional `/MACHINES-PER-RACK`, as `64x8/16`.
    /// Nothing when the text is no such name.
    pub fn named(name: &str) -> Option<Cluster> {
        let group = match name {
            "muri" => Group::new(8, 8, 8),
            "philly" => Group::new(352, 8, 16),
            "pollux" => Group::new(16, 4, 16),
            "large" => Group::new(10_000, 8, 16),
            _ => {
                let (size, rack) = name.split_once('/').unwrap_or((name, "16"));
                let (machines, gpus) = size.split_once('x')?;
                Group::new(machines.parse().ok()?, gpus.parse().ok()?, rack.parse().ok()?)
            }
        };
        let is_sound = (1..=MACHINES_MAX).contains(&group.machines) && group.gpus <= GPUS_MAX && group.rack > 0;
        is_sound.then(|| Cluster::of_groups(&[group]))
    }

    /// Reads a file: `machines,gpus` and if wanted `model,cpus,memory_gib,machines_per_rack,racks_per_block`.
    pub fn read(text: &str) -> Result<Cluster, Faults> {
        let (mut faults, csv) = (Faults::default(), Csv::new(text));
        csv.require(&["machines", "gpus"], &mut faults);
        const KNOWN: [&str; 7] =
            ["machines", "gpus", "model", "cpus", "memory_gib", "machines_per_rack", "racks_per_block"];
        for column in csv.columns().iter().filter(|column| !KNOWN.contains(&column.as_str())) {
            faults.at(1, format!("there is no column `{column}`; there are {}", KNOWN.join(", ")));
        }
        if !faults.0.is_empty() {
            return faults.or(Cluster::default());
        }
        let mut inner = Faults::default();
        let mut groups = Vec::new();
        let mut total = 0;
        for row in csv.rows(&mut faults) {
            let mut group = Group::new(0, 0, 0);
            group.machines = row.number("machines", 1..=u64::from(MACHINES_MAX), &mut inner) as u32;
            group.gpus = row.number("gpus", 0..=u64::from(GPUS_MAX), &mut inner) as u32;
            group.cpus = row.number_if("cpus", 1..=4_096, &mut inner).unwrap_or(96) as u32;
            group.memory_gib = row.number_if("memory_gib", 1..=1 << 20, &mut inner).unwrap_or(1_024) as u32;
            group.rack = row.number_if("machines_per_rack", 1..=1_024, &mut inner).unwrap_or(16) as u32;
            group.block = row.number_if("racks_per_block", 1..=1_024, &mut inner).unwrap_or(16) as u32;
            let model = row.text("model");
            group.model = if model.is_empty() { "gpu".to_owned() } else { model.to_owned() };
            total += group.machines;
            if total > MACHINES_MAX {
                inner.at(row.line, format!("more than {MACHINES_MAX} machines in all"));
                break;
            }
            groups.push(group);
        }
        faults.0.append(&mut inner.0);
        faults.0.sort_by_key(|fault| fault.line);
        if faults.0.is_empty() && groups.is_empty() {
            faults.at(0, "there is no machine in it");
        }
        faults.or(Cluster::of_groups(&groups))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_give_clusters() {
        for (name, _) in PRESETS {
            assert!(Cluster::named(name).is_some(), "{name}");
        }
        assert_eq!(Cluster::named("philly").map(|cluster| cluster.devices()), Some(2_816));
        let cluster = Cluster::named("40x4/10").unwrap();
        assert_eq!((cluster.machines.len(), cluster.machines[39].rack, cluster.devices()), (40, 3, 160));
        for bad in ["", "x", "0x8", "8x17", "8x8/0", "8x8x8", "cluster.csv", "100001x1"] {
            assert_eq!(Cluster::named(bad), None, "{bad}");
        }
    }

    #[test]
    fn racks_do_not_span_groups() {
        let text = "machines,gpus,model,machines_per_rack\n3,8,A100,2\n2,4,T4,2\n";
        let cluster = Cluster::read(text).unwrap();
        assert_eq!(cluster.machines.iter().map(|machine| machine.rack).collect::<Vec<_>>(), [0, 0, 1, 2, 2]);
        assert_eq!(cluster.machines.iter().map(|machine| machine.class).collect::<Vec<_>>(), [0, 0, 0, 1, 1]);
        assert_eq!(cluster.classes, ["A100", "T4"]);
    }

    #[test]
    fn every_fault_of_a_file_is_listed() {
        let said = Cluster::read("machines,gpus\n0,8\n1,99\n1\n").unwrap_err().to_string();
        assert_eq!(said.lines().map(|line| &line[..2]).collect::<Vec<_>>(), ["2:", "3:", "4:"]);
        assert!(Cluster::read("machines,gpu\n").unwrap_err().to_string().contains("`gpu`"));
        assert_eq!(Cluster::read("machines,gpus\n").unwrap_err().to_string(), "there is no machine in it");
    }
}
