//! How many descriptors this process may have: as many as its starter's hard limit gives.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Below this a crowd of clients and workers finds no place.
const FEW: u64 = 4_096;

/// Raises the soft limit to the hard one, and answers with what counts now. A shell's usual 1,024 are for programs that wait by
/// `select`, which takes no more.
pub(super) fn raise() -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit of open files was not raised");
    }
    // None is no limit.
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if most < FEW {
        tracing::warn!(
            most,
            "few open files are permitted, a quarter of which is not for connections: raise the hard limit \
            (`LimitNOFILE=` of systemd, `ulimit -Hn`) to {FEW} or more"
        );
    }
    usize::try_from(most).unwrap_or(usize::MAX)
}
