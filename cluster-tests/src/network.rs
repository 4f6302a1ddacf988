//! Hosts of their own for daemons: network namespaces round one switch, each with an address, that can be cut off and joined again.
//!
//! ```text
//!  this process ── 198.18.N.254 ──┐
//!                              switch (a namespace with a bridge)
//!                  ┌──────────────┼──────────────┐
//!            198.18.N.1      198.18.N.2      198.18.N.3      each the only address of its namespace
//! ```
//!
//! A namespace lives as long as the process that holds it. The holders end with the cluster, by whatever death, and with them all
//! interfaces. 198.18.0.0/15 is set aside for benchmarks (RFC 2544): no real host has such an address.

use crate::janitor;
use anyhow::Context as _;
use rustix::thread::LinkNameSpaceType;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Networks on one machine at a time.
const NETWORKS: u8 = 250;
/// Where clouds answer.
const METADATA: &str = "169.254.169.254";
const METADATA_6: &str = "fd00:ec2::254";
/// What is needed besides the right to use it.
const TOOLS: &str = "the commands unshare, nsenter and ip, as root";

/// A process in a namespace of its own that does nothing.
#[derive(Debug)]
struct Holder(Child);

impl Holder {
    fn start(folder: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("unshare");
        // Says that it is inside, then waits for the end of its input.
        command.args(["--net", "sh", "-c", "ip link set lo up && echo in && exec cat"]);
        command.env(janitor::MARKER, janitor::mark(folder));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("a network needs {TOOLS}"))?;
        let mut line = [0; 3];
        let told = child.stdout.as_mut().context("no output")?;
        let inside = std::io::Read::read_exact(told, &mut line).is_ok() && &line == b"in\n";
        let holder = Self(child);
        anyhow::ensure!(inside, "a network of its own is not permitted: it needs {TOOLS}");
        Ok(holder)
    }

    fn enter(&self) -> [OsString; 2] {
        ["nsenter".into(), format!("--net=/proc/{}/ns/net", self.0.id()).into()]
    }

    /// Runs `ip` with these words inside.
    fn ip(&self, words: &str) -> anyhow::Result<()> {
        self.run(&format!("ip {words}"))
    }

    /// Runs this inside.
    fn run(&self, line: &str) -> anyhow::Result<()> {
        let [program, namespace] = self.enter();
        run(Command::new(program).arg(namespace).args(line.split(' ')))
    }
}

impl Holder {
    /// Does this in there, on a thread that ends with it.
    fn within<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> anyhow::Result<T> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.0.id()))?;
        let enter = || {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        };
        let worked = std::thread::scope(|scope| scope.spawn(enter).join());
        Ok(worked.map_err(|_| anyhow::anyhow!("the thread inside failed"))??)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    anyhow::ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Hosts that reach each other, and are reached from here, unless they are cut off.
#[derive(Debug)]
pub struct Network {
    switch: Holder,
    hosts: Vec<Holder>,
    /// Those where rules come before the host's own addresses.
    ruled: BTreeSet<usize>,
    number: u8,
}

impl Network {
    /// A network without hosts; fails with the reason where this user may not make one.
    pub(crate) fn start(folder: &Path) -> anyhow::Result<Self> {
        let switch = Holder::start(folder)?;
        switch.ip("link add switch type bridge")?;
        switch.ip("link set switch up")?;
        let first = u8::try_from(std::process::id() % u32::from(NETWORKS)).unwrap_or(0);
        let mut last = None;
        for step in 0..NETWORKS {
            let number = (first + step) % NETWORKS;
            // Taken by another network: the name of the interface is there already.
            match uplink(&switch, number) {
                Ok(()) => return Ok(Self { switch, hosts: Vec::new(), ruled: BTreeSet::new(), number }),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no network is free")))
    }

    /// One more host; answers with its number, from 1.
    pub(crate) fn add_host(&mut self, folder: &Path) -> anyhow::Result<usize> {
        let (holder, host) = (Holder::start(folder)?, self.hosts.len() + 1);
        let pid = holder.0.id();
        self.switch.ip(&format!("link add port{host} type veth peer name eth0 netns {pid}"))?;
        self.switch.ip(&format!("link set port{host} master switch up"))?;
        holder.ip(&format!("addr add {}/24 dev eth0", self.address(host)))?;
        holder.ip("link set eth0 up")?;
        self.hosts.push(holder);
        Ok(host)
    }

    /// Of a host.
    pub fn address(&self, host: usize) -> String {
        format!("198.18.{}.{host}", self.number)
    }

    /// What is run in front of a program so that it runs on this host.
    pub(crate) fn wrapper(&self, host: usize) -> anyhow::Result<Vec<OsString>> {
        Ok(self.hosts.get(host - 1).context("no such host")?.enter().into())
    }

    /// As `ip rule` lists them on this host.
    pub(crate) fn rules(&self, host: usize) -> anyhow::Result<String> {
        let [program, namespace] = self.hosts.get(host - 1).context("no such host")?.enter();
        let output = Command::new(program).arg(namespace).args(["ip", "rule"]).output()?;
        anyhow::ensure!(output.status.success(), "ip rule: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Nothing reaches the host any more, and it reaches nobody; what stands open stays open until somebody gives up.
    pub fn cut(&self, host: usize) -> anyhow::Result<()> {
        self.switch.ip(&format!("link set port{host} down"))
    }

    /// Ends `cut`.
    pub fn mend(&self, host: usize) -> anyhow::Result<()> {
        self.switch.ip(&format!("link set port{host} up"))
    }

    /// Ends every connection of a host, and answers how many there were. If the others are told they hear a reset; else they go on
    /// with half a connection until they use it, or look whether it is whole.
    pub(crate) fn reset(&self, host: usize, is_told: bool) -> anyhow::Result<usize> {
        let [program, namespace] = self.hosts.get(host - 1).context("no such host")?.enter();
        if !is_told {
            self.cut(host)?;
        }
        let mut killing = Command::new(program);
        let killed = killing.arg(namespace).args(["ss", "-K", "-H", "-t", "-n", "state", "established"]).output();
        if !is_told {
            self.mend(host)?;
        }
        let killed = killed?;
        anyhow::ensure!(killed.status.success(), "ss -K: {}", String::from_utf8_lossy(&killed.stderr).trim());
        Ok(String::from_utf8_lossy(&killed.stdout).lines().count())
    }

    /// Lets the link of a host carry so many kilobits a second, both ways, with a queue of up to 200 ms before it, and the host lose
    /// so many of a thousand packets that arrive; or all of it as before.
    pub(crate) fn slow(&self, host: usize, to: Option<(u64, u64)>) -> anyhow::Result<()> {
        let holder = self.hosts.get(host - 1).context("no such host")?;
        let Some((kbits, loss)) = to else {
            self.switch.run(&format!("tc qdisc del dev port{host} root"))?;
            holder.run("tc qdisc del dev eth0 root")?;
            return holder.run("iptables -F INPUT");
        };
        let narrow = format!("root tbf rate {kbits}kbit burst 16k latency 200ms");
        self.switch.run(&format!("tc qdisc replace dev port{host} {narrow}"))?;
        holder.run(&format!("tc qdisc replace dev eth0 {narrow}"))?;
        let probability = format!("0.{loss:03}");
        holder.run(&format!("iptables -A INPUT -i eth0 -m statistic --mode random --probability {probability} -j DROP"))
    }

    /// Somebody beyond the hosts of today, at the addresses at which clouds tell a machine its credentials: listens there at these ports.
    pub(crate) fn add_metadata(&self, ports: &[u16]) -> anyhow::Result<Vec<TcpListener>> {
        // The way back to them.
        self.switch.ip(&format!("addr add 198.18.{}.253/24 dev switch", self.number))?;
        self.switch.ip(&format!("addr add {METADATA}/32 dev switch"))?;
        self.switch.ip(&format!("addr add {METADATA_6}/64 dev switch nodad"))?;
        for (host, number) in self.hosts.iter().zip(1_u8..) {
            host.ip(&format!("route add {METADATA} dev eth0"))?;
            host.ip(&format!("addr add fd00:ec2::{number}/64 dev eth0 nodad"))?;
        }
        let all = [METADATA, METADATA_6].into_iter().flat_map(|to| ports.iter().map(move |port| (to, *port)));
        all.map(|at| self.switch.within(|| TcpListener::bind(at))).collect()
    }

    /// Lets a host take no packet from another one, or lets it again. They are dropped where they arrive: who sends learns nothing.
    pub(crate) fn deafen(&mut self, host: usize, from: usize, is_deaf: bool) -> anyhow::Result<()> {
        let source = self.address(from);
        let holder = self.hosts.get(host - 1).context("no such host")?;
        if self.ruled.insert(host) {
            // The table of the host's own addresses is asked first as it comes, and would take all that arrives.
            holder.ip("rule add pref 100 lookup local")?;
            holder.ip("rule del pref 0")?;
        }
        let verb = if is_deaf { "add" } else { "del" };
        holder.ip(&format!("rule {verb} pref 10 from {source} iif eth0 blackhole"))
    }
}

/// The way from here into the switch.
fn uplink(switch: &Holder, number: u8) -> anyhow::Result<()> {
    let (name, pid) = (format!("muster{number}"), switch.0.id());
    let ip = |words: String| run(Command::new("ip").args(words.split(' ')));
    ip(format!("link add {name} type veth peer name port0 netns {pid}"))?;
    switch.ip("link set port0 master switch up")?;
    ip(format!("addr add 198.18.{number}.254/24 dev {name}"))?;
    ip(format!("link set {name} up"))
}
