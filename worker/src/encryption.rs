//! Whether ranks encrypt what they send to other machines, and which gangs cannot.

use crate::config::Config;
use std::collections::BTreeSet;
use types::{Distribution, Wish};

/// What the operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encryption {
    Off,
    /// Muster's own collectives encrypt.
    On {
        /// Programs that do not encrypt run here too, or in networks that do.
        admits_others: bool,
    },
}

impl Encryption {
    pub(crate) fn of(config: &Config) -> Self {
        if config.encrypt_ranks {
            Self::On { admits_others: config.insecure_listen || config.rank_network }
        } else {
            Self::Off
        }
    }

    pub(crate) fn asked(self) -> bool {
        self != Self::Off
    }

    /// Why this worker takes no part in a gang: its framework would send over the network what anybody there can read.
    pub(crate) fn refuses(self, wish: &Wish) -> Option<String> {
        let framework = match wish.spec.gang.distribution {
            Distribution::None => return None,
            Distribution::PyTorch => "PyTorch",
            Distribution::TensorFlow { .. } => "TensorFlow",
            Distribution::Mpi => "MPI",
        };
        let workers: BTreeSet<_> = wish.placement.members.iter().map(|member| &member.worker).collect();
        let refuses = self == Self::On { admits_others: false } && workers.len() > 1;
        refuses.then(|| {
            format!(
                "{framework} does not encrypt what it sends, and this worker was started with --encrypt-ranks: give the job one instance, \
                 or start its workers with --rank-network, or --insecure-listen, too"
            )
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use types::{AttemptNumber, Goal, JobId, MemberKey, Token, WorkerId};

    #[test]
    fn only_gangs_of_several_workers_whose_framework_cannot_are_refused() {
        let key = MemberKey { job: JobId(7), attempt: AttemptNumber(2), node_rank: 1 };
        let mut wish = crate::testing::wish(key, Token(12), Goal::Run, vec![]);
        let strict = Encryption::On { admits_others: false };
        let all = [
            Distribution::PyTorch,
            Distribution::TensorFlow { worker_count: 1, parameter_server_count: 1 },
            Distribution::Mpi,
        ];
        let mut wants = |distribution, workers: [&str; 2]| {
            let mut spec = (*wish.spec).clone();
            spec.gang.distribution = distribution;
            wish.spec = Arc::new(spec);
            for (member, worker) in Arc::make_mut(&mut wish.placement).members.iter_mut().zip(workers) {
                member.worker = WorkerId::new(worker).unwrap();
            }
            assert_eq!(wish.placement.members.len(), 2);
            wish.clone()
        };
        for distribution in all {
            let apart = wants(distribution, ["a", "b"]);
            assert!(strict.refuses(&apart).unwrap().contains("--insecure-listen"), "{distribution:?}");
            assert_eq!(Encryption::On { admits_others: true }.refuses(&apart), None);
            assert_eq!(Encryption::Off.refuses(&apart), None);
            assert_eq!(strict.refuses(&wants(distribution, ["a", "a"])), None);
        }
        assert_eq!(strict.refuses(&wants(Distribution::None, ["a", "b"])), None);
    }
}
