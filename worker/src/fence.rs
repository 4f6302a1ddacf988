//! Keeps ranks of users of their own from the address at which clouds answer any process of a machine with the machine's credentials.
//!
//! By rules of the kernel's routing that hold for these users alone: whoever else is on the machine, and its packet filter, are
//! untouched. What is asked at port 53 goes through, for some clouds have their name server at the same address. A rule ends neither
//! with this process nor with a crash of it, and the next start finds it; ranks that outlive the daemon stay fenced.

mod netlink;

use crate::users::RankUser;
use netlink::{Change, Netlink, Rule};
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// AWS, Google Cloud, Azure, Oracle, OpenStack and others; Azure's second one; Alibaba Cloud; AWS and Google Cloud over IPv6.
const METADATA: [&str; 5] = ["169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254"];
/// All but the name server's. The kernel takes no range with the very last port.
const PORTS: [RangeInclusive<u16>; 2] = [1..=52, 54..=65_534];
/// Before the rules that lead anywhere; after those of the machine's own addresses, which nobody is kept from.
const PREFERENCE: u32 = 100;

/// The rules of one daemon.
#[derive(Debug)]
pub(crate) struct Fence {
    rules: Vec<Rule>,
}

impl Fence {
    /// For whoever ranks run as.
    pub(crate) fn of(user: &RankUser) -> Self {
        let users = match user {
            RankUser::One(user) => user.credentials.uid..=user.credentials.uid,
            RankUser::Each(range) => range.clone(),
        };
        let addresses = METADATA.iter().filter_map(|address| address.parse::<IpAddr>().ok());
        let rules = addresses
            .flat_map(|to| PORTS.map(|ports| Rule { to, users: users.clone(), ports, preference: PREFERENCE }));
        Self { rules: rules.collect() }
    }

    /// From now on; rules of a former start are left as they are. A machine without IPv6 needs none for it.
    pub(crate) fn put_up(&self) -> io::Result<()> {
        let mut netlink = Netlink::open()?;
        for rule in &self.rules {
            match netlink.change(Change::Add, rule) {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(error) if rule.to.is_ipv6() && is_lacking(&error) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// No rank is left.
    pub(crate) fn take_down(&self) {
        let Ok(mut netlink) = Netlink::open() else { return };
        for rule in &self.rules {
            // One that somebody else removed is gone all the same.
            let _ = netlink.change(Change::Remove, rule);
        }
    }
}

/// The kernel has no such addresses, or no such rules for them.
fn is_lacking(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_fenced_for_the_users_of_ranks_at_each_port_but_the_name_servers() {
        let fence = Fence::of(&RankUser::Each(10..=19));
        assert_eq!(fence.rules.len(), METADATA.len() * 2, "each address is one");
        for address in METADATA {
            let to: IpAddr = address.parse().unwrap();
            let rules: Vec<&Rule> = fence.rules.iter().filter(|rule| rule.to == to).collect();
            let is_fenced = |port: u16| rules.iter().any(|rule| rule.ports.contains(&port) && rule.users == (10..=19));
            assert!(is_fenced(80) && is_fenced(443) && is_fenced(32_526) && !is_fenced(53), "{address}");
        }
    }
}
