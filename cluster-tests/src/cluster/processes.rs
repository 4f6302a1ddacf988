//! What runs in a cluster's name: daemons, supervisors, ranks, wherever they went.

use super::Cluster;
use types::JobId;

impl Cluster {
    /// The processes that fork the ranks' supervisors: one for each worker that has started a rank.
    pub fn nurseries(&self) -> Vec<i32> {
        let folder = self.folder.join("");
        let folder = folder.as_os_str().as_encoded_bytes();
        processes_with(&|_, line| contains(line, b"rank-nursery") && contains(line, folder))
    }

    /// The processes that keep members' networks.
    pub fn networks(&self) -> Vec<i32> {
        let folder = self.folder.join("");
        let folder = folder.as_os_str().as_encoded_bytes();
        processes_with(&|_, line| contains(line, b"\0rank-network\0") && contains(line, folder))
    }

    /// Process ids of everything that belongs to a rank of this job, wherever it went.
    pub fn processes_of(&self, job: JobId) -> Vec<i32> {
        let folder = self.folder.as_os_str().as_encoded_bytes();
        let member = format!("/members/{job}-");
        processes_with(&|environ, _| contains(environ, folder) && contains(environ, member.as_bytes()))
    }

    /// Process ids of everything that belongs to any rank.
    pub fn processes_of_ranks(&self) -> Vec<i32> {
        let folder = self.folder.as_os_str().as_encoded_bytes();
        processes_with(&|environ, _| contains(environ, folder) && contains(environ, b"/members/"))
    }

    /// Process ids of everything that runs on a worker: its daemon, what forks and supervises its ranks, the ranks.
    pub fn processes_on(&self, worker: &str) -> Vec<i32> {
        let data = self.folder.join(worker);
        let [mut argument, below] =
            [data.clone(), data.join("")].map(|path| path.into_os_string().into_encoded_bytes());
        argument.push(0);
        processes_with(&|environ, line| contains(environ, &below) || contains(line, &argument))
    }

    /// Process ids of what forks a worker's supervisors, and of these.
    pub fn supervisors_on(&self, worker: &str) -> Vec<i32> {
        let mut argument = b"rank-nursery\0".to_vec();
        argument.extend(self.folder.join(worker).into_os_string().into_encoded_bytes());
        argument.push(0);
        processes_with(&|_, line| contains(line, &argument))
    }

    /// Process ids of everything whose environment has this text.
    pub fn processes_naming(&self, text: &str) -> Vec<i32> {
        processes_with(&|environ, _| contains(environ, text.as_bytes()))
    }

    /// Process ids of everything that was started in the cluster's name: daemons, supervisors, ranks, commands.
    pub fn processes(&self) -> Vec<i32> {
        let folder = self.folder.join("");
        let folder = folder.as_os_str().as_encoded_bytes();
        let nursed = |line: &[u8]| {
            (contains(line, b"rank-nursery") || contains(line, b"\0rank-network\0")) && contains(line, folder)
        };
        processes_with(&|environ, line| contains(environ, folder) || nursed(line))
    }
}

/// Of those whose environment and command line are wanted. A zombie has neither: it does not count.
fn processes_with(wanted: &dyn Fn(&[u8], &[u8]) -> bool) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let read = |pid: i32, file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    pids.filter(|pid| wanted(&read(*pid, "environ"), &read(*pid, "cmdline"))).collect()
}

/// Is this process somebody's that still runs? A zombie is not.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
