//! What a worker daemon is told at start: every field with its unit, default and reason; all faults are found at once.

use crate::processors;
use crate::shim::limits::{RankLimits, user_processes_default};
use crate::users::{Accounts, RankUser};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use types::{Limits, Topology, WorkerId};

/// How the daemon runs. Made by [`Config::new`]; the cli overwrites what the operator set. No `Debug`: it may hold a token.
#[derive(Clone)]
pub struct Config {
    /// Name of this worker, unique in its cluster.
    pub name: String,
    /// Everything the daemon keeps: lock, identity, blob cache, members' folders.
    pub data_dir: PathBuf,
    /// `host:port` of coordinators to try first; the cluster names the others.
    pub coordinators: Vec<String>,
    /// By what it is admitted to the cluster at its first start.
    pub admission: Option<identity::Admission>,
    /// IP address at which ranks listen for their gang. Default `127.0.0.1`: what they send is encrypted only where asked for.
    pub data_address: String,
    /// Admits that ranks listen on an address that is not loopback, unencrypted. Default false.
    pub insecure_listen: bool,
    /// Ranks encrypt what they send to ranks of other machines, and gangs that cannot are refused unless
    /// [`Config::insecure_listen`] admits them. Default false.
    pub encrypt_ranks: bool,
    /// Ranks of frameworks are in a network of their gang's own, which is encrypted between machines; with [`Config::rank_user`]. Default
    /// false.
    pub rank_network: bool,
    /// Operator's labels, for placement.
    pub labels: BTreeMap<String, String>,
    /// Gangs that do not tolerate all of these are not placed here.
    pub taints: BTreeSet<String>,
    /// Failure or power zone; empty = unknown, as with the narrower places.
    pub zone: String,
    /// Block of racks.
    pub block: String,
    /// Rack; empty = unknown.
    pub rack: String,
    /// Switch within the rack.
    pub switch: String,
    /// CPU slots to offer; none = one a core.
    pub cpus: Option<u32>,
    /// Bytes of memory to offer to ranks; none = what the machine or its cgroup allows.
    pub memory_bytes: Option<u64>,
    /// Muster's own executable: it gives birth to the ranks' supervisors, and is on the ranks' `PATH`.
    pub program: PathBuf,
    /// Bytes on disk of one stream of one rank that no majority of coordinators has yet; past it the rank waits in
    /// its write. Default 256 MiB: hours of usual logs, and a full disk takes many chatty ranks.
    pub spool_bytes_max: u64,
    /// Whether ranks get control groups. Default: where the machine permits.
    pub cgroups: CgroupMode,
    /// True gives a rank at most its CPU slots; false (default) leaves idle cores to whoever can use them, and a busy
    /// machine is shared in that proportion where cgroup v2 has the cpu controller.
    pub hard_cpu_limit: bool,
    /// Each rank has as many processors for itself as it has CPU slots, and stays on them. Default false: it may run on any that is idle.
    pub pin_cpus: bool,
    /// Most processes and threads of one rank; 0 (default) = no limit.
    pub pids_max: u32,
    /// Who ranks run as: `NAME`, `UID`, either with `:GID`, or `FIRST-LAST` for a user of its own for each job. None
    /// (default) = the daemon's own user. Only root can give processes to others.
    pub rank_user: Option<String>,
    /// Ranks of the daemon's own user, which is not root, see of its data folder what is theirs, and read no process but their own. Default
    /// false.
    pub rank_namespace: bool,
    /// With `rank_namespace`: folders that ranks do not see besides, as that of the tokens of who started the daemon.
    pub hidden_folders: Vec<PathBuf>,
    /// Ranks of another user share `/tmp`, `/dev/shm` and the view of processes with the machine. Default no, where it permits.
    pub shared_tmp: bool,
    /// Ranks of another user may make each system call that their user may. Default no: what no training needs is denied.
    pub allow_all_system_calls: bool,
    /// Programs of ranks may send metrics and logs by OpenTelemetry's protocol to their supervisor, and are told where. Default true.
    pub rank_otlp: bool,
    /// Ranks of another user reach the address at which clouds tell a machine its credentials. Default no, where it permits.
    pub allow_metadata_address: bool,
    /// Descriptors of one process of a rank. Default 1,048,576, beyond which old programs take minutes to close them all.
    pub rank_files_max: u64,
    /// Bytes of one file that a rank writes; 0 (default) = no limit: databases make sparse files of 1 TiB.
    pub rank_file_bytes_max: u64,
    /// Bytes of each of a rank's streams that are kept; 0 (default) = all. What it writes beyond is dropped, which its stderr says.
    pub rank_log_bytes_max: u64,
    /// Bytes on disk that a job's folders here may take; 0 (default) = no limit. Looked at every few seconds; past it its ranks are ended.
    pub job_disk_bytes_max: u64,
    /// Processes and threads of one user of `rank_user`; 0 = no limit, none (default) = half of what the machine can have, at most
    /// 65,536.
    pub user_processes_max: Option<u64>,
    /// What an orderly stop does to running ranks.
    pub on_stop: OnStop,
}

/// Use of control groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupMode {
    /// Use what the machine offers: v2, v1 with a bare v2 tree, or nothing.
    #[default]
    Auto,
    /// Never: process groups and the subreaper only; limits are not enforced.
    Off,
}

/// What an orderly stop of the daemon does to running ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStop {
    /// They go on and are adopted by the next start; past the lease's end they kill themselves.
    #[default]
    KeepRanks,
    /// They are killed before the daemon ends.
    KillRanks,
}

/// Everything that is wrong with a configuration, one fault a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// A configuration that holds.
#[derive(Clone)]
pub(crate) struct Checked {
    pub(crate) worker: WorkerId,
    pub(crate) data_address: IpAddr,
    pub(crate) topology: Topology,
    pub(crate) rank_user: Option<RankUser>,
    pub(crate) config: Config,
}

const SPOOL_BYTES_DEFAULT: u64 = 256 << 20;
const SPOOL_BYTES_MIN: u64 = stores::spool::BUDGET_BYTES_MIN;
/// A rank has five before it opens any, and a program loads libraries.
const RANK_FILES_MIN: u64 = 64;
const LABELS_MAX: usize = 256;
const LABEL_BYTES_MAX: usize = 1_024;

impl Config {
    /// A worker with every default.
    pub fn new(name: impl Into<String>, data_dir: &Path, coordinators: Vec<String>, program: &Path) -> Self {
        Self {
            name: name.into(),
            data_dir: data_dir.to_owned(),
            coordinators,
            admission: None,
            data_address: "127.0.0.1".into(),
            insecure_listen: false,
            encrypt_ranks: false,
            rank_network: false,
            labels: BTreeMap::new(),
            taints: BTreeSet::new(),
            zone: String::new(),
            block: String::new(),
            rack: String::new(),
            switch: String::new(),
            cpus: None,
            memory_bytes: None,
            program: program.to_owned(),
            spool_bytes_max: SPOOL_BYTES_DEFAULT,
            cgroups: CgroupMode::Auto,
            hard_cpu_limit: false,
            pin_cpus: false,
            pids_max: 0,
            rank_user: None,
            rank_namespace: false,
            hidden_folders: Vec::new(),
            shared_tmp: false,
            allow_all_system_calls: false,
            rank_otlp: true,
            allow_metadata_address: false,
            rank_files_max: crate::shim::limits::FILES_MAX,
            rank_file_bytes_max: 0,
            rank_log_bytes_max: 0,
            job_disk_bytes_max: 0,
            user_processes_max: None,
            on_stop: OnStop::KeepRanks,
        }
    }

    /// Checks everything and reports all faults together.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.checked().map(|_| ())
    }

    pub(crate) fn rank_limits(&self) -> RankLimits {
        RankLimits {
            files: self.rank_files_max,
            file_bytes: self.rank_file_bytes_max,
            log_bytes: self.rank_log_bytes_max,
            user_processes: self.user_processes_max.unwrap_or_else(user_processes_default),
        }
    }

    pub(crate) fn checked(&self) -> Result<Checked, ConfigError> {
        let mut faults = Vec::new();
        let worker = WorkerId::new(self.name.clone()).map_err(|error| faults.push(error.to_string())).ok();
        let address = self.check_address(&mut faults);
        self.check_coordinators(&mut faults);
        self.check_amounts(&mut faults);
        self.check_texts(&mut faults);
        let rank_user = self.check_rank_user(&mut faults);
        let config = self.absolute(&mut faults);
        match (worker, address, config, faults.is_empty()) {
            (Some(worker), Some(data_address), Some(config), true) => {
                let topology = Topology {
                    zone: self.zone.clone(),
                    block: self.block.clone(),
                    rack: self.rack.clone(),
                    switch: self.switch.clone(),
                };
                Ok(Checked { worker, data_address, topology, rank_user, config })
            }
            _ => Err(ConfigError(faults)),
        }
    }

    fn check_address(&self, faults: &mut Vec<String>) -> Option<IpAddr> {
        let Ok(address) = self.data_address.parse::<IpAddr>() else {
            faults.push(format!("data address {:?} is not an IP address", self.data_address));
            return None;
        };
        if address.is_unspecified() {
            faults.push(format!("data address {address} is not one that other machines can dial: name an interface"));
        } else if !address.is_loopback() && !self.insecure_listen && !self.encrypt_ranks {
            faults.push(format!(
                "data address {address} is not loopback: say --encrypt-ranks to encrypt the ranks' traffic, or --insecure-listen to accept that it is not encrypted"
            ));
        }
        Some(address)
    }

    fn check_rank_user(&self, faults: &mut Vec<String>) -> Option<RankUser> {
        if self.rank_namespace && self.rank_user.is_some() {
            faults.push("a rank namespace hides what is the daemon's from ranks of its own user: with a rank user it is shut anyway".into());
        } else if self.rank_namespace && rustix::process::geteuid().is_root() {
            faults.push(
                "rank namespace: in its own namespace root may undo it: run ranks as another user (--rank-user)".into(),
            );
        }
        if self.rank_network && self.rank_user.is_none() {
            faults.push(
                "rank network: ranks of the daemon's own user could leave it: run them as another (--rank-user)".into(),
            );
        }
        let text = self.rank_user.as_ref()?;
        if !rustix::process::geteuid().is_root() {
            faults.push(format!("rank user {text:?}: only root can run ranks as another user, and this is not root"));
        }
        RankUser::parse(text, &Accounts::of_machine()).map_err(|fault| faults.push(format!("rank user: {fault}"))).ok()
    }

    fn check_coordinators(&self, faults: &mut Vec<String>) {
        if self.coordinators.is_empty() {
            faults.push("no coordinator is named: give at least one host:port".into());
        }
        for address in &self.coordinators {
            if !is_host_port(address) {
                faults.push(format!("coordinator {address:?} is not host:port"));
            }
        }
    }

    fn check_amounts(&self, faults: &mut Vec<String>) {
        if self.cpus == Some(0) {
            faults.push("cpus is 0: a worker offers at least one CPU slot".into());
        }
        let processors = processors::allowed().len();
        if let Some(slots) = self.cpus.filter(|slots| self.pin_cpus && *slots as usize > processors) {
            faults.push(format!(
                "{slots} CPU slots cannot be pinned: this daemon may use {processors} processors, and each slot is one"
            ));
        }
        if self.memory_bytes == Some(0) {
            faults.push("memory is 0 bytes: a worker offers at least some".into());
        }
        if self.rank_files_max < RANK_FILES_MIN {
            faults
                .push(format!("{} open files are too few for a rank: at least {RANK_FILES_MIN}", self.rank_files_max));
        }
        if self.spool_bytes_max < SPOOL_BYTES_MIN {
            faults.push(format!("spool of {} bytes is too small: at least {SPOOL_BYTES_MIN}", self.spool_bytes_max));
        }
    }

    fn check_texts(&self, faults: &mut Vec<String>) {
        if self.labels.len() > LABELS_MAX {
            faults.push(format!("{} labels are too many: at most {LABELS_MAX}", self.labels.len()));
        }
        for (key, value) in &self.labels {
            if key.is_empty() || key.len() + value.len() > LABEL_BYTES_MAX {
                faults.push(format!("label {key:?} must have a name and at most {LABEL_BYTES_MAX} bytes in all"));
            }
        }
        if self.taints.len() > Limits::TAINTS_MAX {
            faults.push(format!("{} taints are too many: at most {}", self.taints.len(), Limits::TAINTS_MAX));
        }
        for taint in self.taints.iter().filter(|taint| !types::is_taint(taint)) {
            faults.push(format!("{taint:?} is no taint: {}", types::TAINT_RULE));
        }
        for (what, text) in
            [("zone", &self.zone), ("block", &self.block), ("rack", &self.rack), ("switch", &self.switch)]
        {
            if text.len() > LABEL_BYTES_MAX {
                faults.push(format!("{what} has {} bytes; at most {LABEL_BYTES_MAX} are allowed", text.len()));
            }
        }
    }

    /// Paths made absolute: ranks run in other folders.
    fn absolute(&self, faults: &mut Vec<String>) -> Option<Config> {
        let mut config = self.clone();
        for (what, path) in [("data directory", &mut config.data_dir), ("program", &mut config.program)] {
            match std::path::absolute(&*path) {
                Ok(absolute) if absolute.to_str().is_some() => *path = absolute,
                Ok(other) => faults.push(format!("{what} {} is not UTF-8", other.display())),
                Err(error) => faults.push(format!("{what} {:?}: {error}", path.display().to_string())),
            }
        }
        if !config.program.is_file() {
            faults.push(format!("program {} is not a file", config.program.display()));
        }
        faults.is_empty().then_some(config)
    }
}

fn is_host_port(text: &str) -> bool {
    if text.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0) {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_ok = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    host_ok && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn good() -> Config {
        Config::new("w1", Path::new("/tmp/x"), vec!["127.0.0.1:7000".into()], Path::new("/bin/sh"))
    }

    #[test]
    fn a_plain_configuration_holds() {
        good().validate().unwrap();
        assert!(is_host_port("[::1]:80") && is_host_port("a-b.c:1"));
        assert!(!is_host_port("a") && !is_host_port("a:0") && !is_host_port(":1") && !is_host_port("a/b:1"));
    }

    #[test]
    fn all_faults_are_found_at_once() {
        let mut bad = good();
        bad.name = "-".into();
        bad.data_address = "10.0.0.1".into();
        bad.coordinators = vec!["nowhere".into()];
        bad.cpus = Some(0);
        bad.taints = ["not good".to_owned()].into();
        bad.program = "/no/such/file".into();
        bad.rank_user = Some("root".into());
        let faults = bad.validate().unwrap_err().0;
        let more = usize::from(!rustix::process::geteuid().is_root());
        assert_eq!(faults.len(), 7 + more, "{faults:?}");
    }

    #[test]
    fn an_open_address_needs_the_flag_that_admits_it() {
        let mut config = good();
        config.data_address = "10.0.0.1".into();
        assert!(config.validate().unwrap_err().to_string().contains("--insecure-listen"));
        for (encrypt, admit) in [(true, false), (false, true), (true, true)] {
            (config.encrypt_ranks, config.insecure_listen) = (encrypt, admit);
            config.validate().unwrap();
        }
    }
}
