//! What the leader wishes, put together from what a session was told: everything first, then what changed.

use proto::internal::Wishes;
use std::collections::BTreeMap;
use types::{MemberKey, Wish};

/// What the leader wishes, as this session has told it; nothing is done about it before it has granted a lease.
#[derive(Debug, Default)]
pub(crate) struct Held {
    wishes: BTreeMap<MemberKey, Wish>,
    pub(crate) is_told: bool,
    pub(crate) leased: bool,
}

impl Held {
    /// Takes what changed. False when it cannot be read.
    pub(crate) fn take(&mut self, news: &Wishes) -> bool {
        let changed = postcard::from_bytes::<Vec<Wish>>(&news.wishes);
        let (Ok(changed), Ok(gone)) = (changed, postcard::from_bytes::<Vec<MemberKey>>(&news.gone)) else {
            return false;
        };
        for key in gone {
            self.wishes.remove(&key);
        }
        self.wishes.extend(changed.into_iter().map(|wish| (wish.key, wish)));
        self.is_told = true;
        true
    }

    pub(crate) fn all(&self) -> Vec<Wish> {
        self.wishes.values().cloned().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::wish;
    use types::{AttemptNumber, Goal, JobId, Token};

    #[test]
    fn what_changed_is_put_to_what_was_told() {
        let key = |job| MemberKey { job: JobId(job), attempt: AttemptNumber(1), node_rank: 0 };
        let wished = |job, goal| wish(key(job), Token(job), goal, vec![]);
        let news = |changed: &[Wish], gone: &[MemberKey]| Wishes {
            wishes: postcard::to_stdvec(changed).unwrap().into(),
            gone: postcard::to_stdvec(gone).unwrap().into(),
            ..Default::default()
        };
        let mut held = Held::default();
        assert!(held.take(&news(&[wished(1, Goal::Prepare), wished(2, Goal::Run)], &[])));
        assert!(held.take(&news(&[wished(1, Goal::Run), wished(3, Goal::Prepare)], &[key(2)])));
        assert_eq!(held.all(), [wished(1, Goal::Run), wished(3, Goal::Prepare)]);
        let broken = Wishes { wishes: vec![0xff; 3].into(), ..news(&[], &[key(1)]) };
        assert!(!held.take(&broken));
        assert_eq!(held.all().len(), 2, "nothing is half taken");
    }
}
