//! What a supervisor does when the process that keeps its rank's network has ended: the rank reaches nobody any more, and would wait for
//! its peers until its framework gives up, if it ever does.

use super::Shim;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

impl Shim<'_> {
    /// Ends the rank, with the reason, once its network is gone.
    pub(super) fn mind_network(&mut self) {
        let Some(keeper) = &self.network else { return };
        if poll(&mut [PollFd::new(keeper, PollFlags::IN)], Some(&AT_ONCE)).is_ok_and(|ended| ended > 0) {
            self.network = None;
            let what = "the process that kept its gang's network (rank-network) has ended: nobody is reached any more";
            self.limit_met = Some(what.to_owned());
            self.kill();
        }
    }
}
