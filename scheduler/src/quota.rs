//! The tree of queues: what each uses, what it may use, and whose turn it is, in exact fractions.
//!
//! Dominant resource fairness (Ghodsi, NSDI'11) over device classes, in a tree (Bhattacharya, SoCC'13): a queue's share is the
//! largest, over classes, of what it uses / (its weight × what the cluster has). Own parts go before borrowed ones; ceilings
//! and lend limits are hard.

use crate::model::{QueueSpec, Quota, Refused};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// The root, above all queues that have a name.
pub(crate) const ROOT: u32 = 0;

/// An exact fraction; its denominator is not 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub numerator: u64,
    pub denominator: u64,
}

impl Share {
    pub const ZERO: Share = Share { numerator: 0, denominator: 1 };
}

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Share {}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        let left = u128::from(self.numerator) * u128::from(other.denominator);
        left.cmp(&(u128::from(other.numerator) * u128::from(self.denominator)))
    }
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    pub name: String,
    pub parent: u32,
    pub children: Vec<u32>,
    pub weight: u32,
    /// By class.
    pub quotas: Vec<Quota>,
    /// By class, of all gangs at or below it.
    pub used: Vec<u64>,
    /// By class: what its children keep from being lent, and do not use.
    kept_back: Vec<u64>,
    /// By class: one of its children does not lend all of its part.
    may_keep_back: Vec<bool>,
    /// Gangs at or below it.
    pub gangs: u64,
    pub is_present: bool,
}

/// All queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    pub queues: Vec<Queue>,
    by_name: BTreeMap<String, u32>,
    specs: BTreeMap<String, QueueSpec>,
}

/// Use beside that of the tree, by queue: more for what was promised, less for what will be gone. Of one class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shift(Vec<i64>);

impl Shift {
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing was ever counted in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn of(&self, queue: u32) -> i64 {
        self.0.get(queue as usize).copied().unwrap_or(0)
    }
}

/// Why a queue may not use more now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverQuota {
    pub queue: u32,
    pub limit: u64,
    /// True when it is the ceiling, and the amount alone is over it.
    pub is_for_good: bool,
}

impl Tree {
    pub fn new() -> Self {
        let root = Queue::named("", ROOT, 1);
        Self { queues: vec![root], by_name: BTreeMap::new(), specs: BTreeMap::new() }
    }

    pub fn index_of(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    /// A queue in which gangs can wait.
    pub fn leaf(&self, name: &str) -> Result<u32, Refused> {
        let index = self.index_of(name).filter(|index| self.queues[*index as usize].children.is_empty());
        index.ok_or_else(|| Refused::UnknownQueue(name.to_owned()))
    }

    /// Makes or changes a queue.
    pub fn set(&mut self, spec: &QueueSpec, mut class: impl FnMut(&str) -> u16) -> Result<(), Refused> {
        let invalid = |why| Refused::Invalid { what: format!("queue {:?}", spec.name), why };
        if spec.name.is_empty() || spec.name.split('/').any(str::is_empty) {
            return Err(invalid("a part of the name is empty"));
        }
        if spec.weight == 0 {
            return Err(invalid("the weight is 0"));
        }
        if spec.quotas.values().any(|quota| quota.guaranteed > quota.ceiling) {
            return Err(invalid("more is guaranteed than the ceiling allows"));
        }
        let parent = match spec.name.rsplit_once('/') {
            None => ROOT,
            Some((above, _)) => self.index_of(above).ok_or_else(|| Refused::UnknownQueue(above.to_owned()))?,
        };
        let is_new = self.index_of(&spec.name).is_none();
        if is_new && parent != ROOT && self.queues[parent as usize].children.is_empty() {
            // Its gangs would wait in a queue that is no leaf any more.
            if self.queues[parent as usize].gangs > 0 {
                return Err(Refused::QueueInUse(self.queues[parent as usize].name.clone()));
            }
        }
        let index = self.index_of(&spec.name).unwrap_or_else(|| self.add(&spec.name, parent));
        let mut quotas = Vec::new();
        for (name, quota) in &spec.quotas {
            let class = class(name) as usize;
            quotas.resize(quotas.len().max(class + 1), Quota::default());
            quotas[class] = *quota;
        }
        let queue = &mut self.queues[index as usize];
        queue.weight = spec.weight;
        queue.quotas = quotas;
        self.specs.insert(spec.name.clone(), spec.clone());
        self.recount_kept_back(parent);
        Ok(())
    }

    fn add(&mut self, name: &str, parent: u32) -> u32 {
        let index = self.queues.len() as u32;
        self.queues.push(Queue::named(name, parent, 1));
        self.queues[parent as usize].children.push(index);
        self.by_name.insert(name.to_owned(), index);
        index
    }

    /// Deletes a queue that is not in use.
    pub fn remove(&mut self, name: &str) -> Result<(), Refused> {
        let index = self.index_of(name).ok_or_else(|| Refused::UnknownQueue(name.to_owned()))?;
        let queue = &mut self.queues[index as usize];
        if queue.gangs > 0 || !queue.children.is_empty() {
            return Err(Refused::QueueInUse(name.to_owned()));
        }
        queue.is_present = false;
        let parent = queue.parent;
        self.by_name.remove(name);
        self.specs.remove(name);
        self.queues[parent as usize].children.retain(|child| *child != index);
        self.recount_kept_back(parent);
        Ok(())
    }

    fn recount_kept_back(&mut self, parent: u32) {
        let (mut kept, mut may_keep) = (Vec::new(), Vec::new());
        for child in &self.queues[parent as usize].children {
            let child = &self.queues[*child as usize];
            kept.resize(kept.len().max(child.quotas.len()), 0);
            for (class, kept) in kept.iter_mut().enumerate() {
                *kept += child.keeps_back(class);
            }
            may_keep.resize(kept.len(), false);
            for (class, may_keep) in may_keep.iter_mut().enumerate() {
                *may_keep |= child.would_keep_back(class, 0) > 0;
            }
        }
        self.queues[parent as usize].may_keep_back = may_keep;
        self.queues[parent as usize].kept_back = kept;
    }

    /// A gang more (or fewer) is known in a leaf.
    pub fn count_gang(&mut self, leaf: u32, more: bool) {
        for at in self.path(leaf) {
            let gangs = &mut self.queues[at as usize].gangs;
            *gangs = if more { *gangs + 1 } else { gangs.saturating_sub(1) };
        }
    }

    /// A leaf uses so much more (or less) of a class.
    pub fn charge(&mut self, leaf: u32, class: u16, amount: u64, more: bool) {
        let class = class as usize;
        for at in self.path(leaf) {
            let queue = &mut self.queues[at as usize];
            let kept_before = queue.keeps_back(class);
            queue.used.resize(queue.used.len().max(class + 1), 0);
            let used = &mut queue.used[class];
            *used = if more { *used + amount } else { used.saturating_sub(amount) };
            let kept_after = queue.keeps_back(class);
            let parent = queue.parent;
            if at != ROOT && kept_before != kept_after {
                let kept = &mut self.queues[parent as usize].kept_back;
                kept.resize(kept.len().max(class + 1), 0);
                kept[class] = kept[class] + kept_after - kept_before;
            }
        }
    }

    /// From a queue up to the root.
    pub fn path(&self, leaf: u32) -> Vec<u32> {
        let mut path = vec![leaf];
        let mut at = leaf;
        while at != ROOT {
            at = self.queues[at as usize].parent;
            path.push(at);
        }
        path
    }

    /// May a leaf use so much more of a class, of which the cluster has `capacity`?
    pub fn allows(&self, leaf: u32, class: u16, amount: u64, capacity: u64) -> Result<(), OverQuota> {
        self.allows_beside(leaf, class, amount, capacity, &Shift::new())
    }

    /// The lowest ceiling for a class on the way from a leaf to the root.
    pub fn ceiling(&self, leaf: u32, class: u16) -> u64 {
        let on_path = self.path(leaf).into_iter().filter_map(|queue| self.queues.get(queue as usize));
        on_path.map(|queue| queue.quota(class.into()).ceiling).min().unwrap_or(crate::model::UNLIMITED)
    }

    /// Counts a leaf's use, at every level, in a shift.
    pub fn shift(&self, shift: &mut Shift, leaf: u32, amount: u64, more: bool) {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        let mut at = leaf;
        shift.0.resize(self.queues.len(), 0);
        loop {
            shift.0[at as usize] += if more { amount } else { -amount };
            if at == ROOT {
                return;
            }
            at = self.queues[at as usize].parent;
        }
    }

    /// As `allows`, with so much use more or less.
    pub fn allows_beside(
        &self,
        leaf: u32,
        class: u16,
        amount: u64,
        capacity: u64,
        beside: &Shift,
    ) -> Result<(), OverQuota> {
        let class = class as usize;
        let used = |at: u32| self.queues[at as usize].used(class).saturating_add_signed(beside.of(at));
        let mut at = leaf;
        while at != ROOT {
            let queue = &self.queues[at as usize];
            let quota = queue.quota(class);
            let after = used(at).saturating_add(amount);
            if after > quota.ceiling {
                return Err(OverQuota { queue: at, limit: quota.ceiling, is_for_good: amount > quota.ceiling });
            }
            let parent = &self.queues[queue.parent as usize];
            let mut kept = parent.kept_back.get(class).copied().unwrap_or(0) - queue.keeps_back(class);
            let may_keep = !beside.is_empty() && parent.may_keep_back.get(class).copied().unwrap_or(false);
            for sibling in parent.children.iter().filter(|other| may_keep && **other != at) {
                let other = &self.queues[*sibling as usize];
                kept = kept - other.keeps_back(class) + other.would_keep_back(class, used(*sibling));
            }
            let whole = if queue.parent == ROOT { capacity } else { parent.quota(class).ceiling.min(capacity) };
            let in_parent = used(queue.parent);
            // What the siblings do not lend is not to be had, beyond the queue's own part.
            if kept > 0 && after > quota.guaranteed && in_parent.saturating_add(amount).saturating_add(kept) > whole {
                let others = in_parent.saturating_sub(used(at));
                let limit = whole.saturating_sub(kept).saturating_sub(others);
                let is_for_good = self.can_never_borrow(at, class, amount, whole);
                return Err(OverQuota { queue: at, limit, is_for_good });
            }
            at = queue.parent;
        }
        Ok(())
    }

    /// Is it more than the siblings would lend even if nobody used anything?
    fn can_never_borrow(&self, at: u32, class: usize, amount: u64, whole: u64) -> bool {
        let parent = &self.queues[self.queues[at as usize].parent as usize];
        let siblings = parent.children.iter().filter(|sibling| **sibling != at);
        let quotas = siblings.map(|sibling| self.queues[*sibling as usize].quota(class));
        let kept: u64 = quotas.map(|quota| quota.guaranteed.saturating_sub(quota.lend)).sum();
        amount > self.queues[at as usize].quota(class).guaranteed && amount.saturating_add(kept) > whole
    }

    /// Would the queue stay within its own part with so much more?
    pub fn is_own(&self, queue: u32, class: u16, amount: u64) -> bool {
        let queue = &self.queues[queue as usize];
        queue.used(class as usize).saturating_add(amount) <= queue.quota(class as usize).guaranteed
    }

    /// Does any queue use more of a class than its own part?
    pub fn is_anything_borrowed(&self, class: u16) -> bool {
        let class = class as usize;
        self.queues.iter().skip(1).any(|queue| queue.used(class) > queue.quota(class).guaranteed)
    }

    /// The queue's dominant share.
    pub fn share(&self, queue: u32, capacity: &[u64]) -> Share {
        let queue = &self.queues[queue as usize];
        let mut share = Share::ZERO;
        for (used, capacity) in queue.used.iter().zip(capacity).filter(|(used, _)| **used > 0) {
            let denominator = u64::from(queue.weight).saturating_mul((*capacity).max(1));
            share = share.max(Share { numerator: *used, denominator });
        }
        share
    }

    /// The children of the lowest queue above both in which they differ, or nothing for the same leaf.
    pub fn fork(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let (left, right) = (self.path(left), self.path(right));
        let pairs = left.iter().rev().zip(right.iter().rev());
        pairs.map(|(left, right)| (*left, *right)).find(|(left, right)| left != right)
    }
}

impl Queue {
    fn named(name: &str, parent: u32, weight: u32) -> Self {
        Self {
            name: name.to_owned(),
            parent,
            children: Vec::new(),
            weight,
            quotas: Vec::new(),
            used: Vec::new(),
            kept_back: Vec::new(),
            may_keep_back: Vec::new(),
            gangs: 0,
            is_present: true,
        }
    }

    pub fn quota(&self, class: usize) -> Quota {
        self.quotas.get(class).copied().unwrap_or_default()
    }

    pub fn used(&self, class: usize) -> u64 {
        self.used.get(class).copied().unwrap_or(0)
    }

    /// Of its own part, what it does not use and does not lend.
    fn keeps_back(&self, class: usize) -> u64 {
        self.would_keep_back(class, self.used(class))
    }

    fn would_keep_back(&self, class: usize, used: u64) -> u64 {
        let quota = self.quota(class);
        quota.guaranteed.saturating_sub(quota.lend).saturating_sub(used)
    }
}

#[cfg(test)]
mod tests;
