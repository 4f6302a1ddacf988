//! Ranks of the daemon's own user that see only what is theirs (`--rank-namespace`): which folders, for each member.

use crate::config::Checked;
use crate::layout::{Layout, MemberLayout};
use crate::shim::namespace::{self, Namespace};
use crate::shim::places::{self, Places};
use crate::shim::spec::Credentials;
use std::io;
use std::path::{Path, PathBuf};
use types::MemberKey;

/// What all members of this daemon have in common.
#[derive(Clone, Debug)]
pub(crate) struct Apart {
    layout: Layout,
    hidden: Vec<PathBuf>,
    own: Credentials,
    has_places: bool,
}

impl Apart {
    /// Where the operator asked for it.
    pub(crate) fn of(checked: &Checked, layout: &Layout) -> Option<Self> {
        let config = &checked.config;
        if !config.rank_namespace {
            return None;
        }
        let free = places::are_free(layout.root(), &config.program);
        if let Err(why) = &free {
            tracing::warn!(why, "ranks share /tmp and /dev/shm with this machine");
        }
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let has_places = free.is_ok() && !config.shared_tmp;
        // What lies in the data folder is hidden with it; what ranks need cannot be.
        let needed = [layout.root(), config.program.as_path()];
        let (kept, hidden): (Vec<PathBuf>, Vec<PathBuf>) = config
            .hidden_folders
            .iter()
            .filter(|folder| !folder.starts_with(layout.root()))
            .cloned()
            .partition(|folder| needed.iter().any(|needed| needed.starts_with(folder)));
        for folder in kept {
            tracing::warn!(folder = %folder.display(), "ranks see this folder of tokens: their own folder or the program lies below it");
        }
        Some(Self { layout: layout.clone(), hidden, own: Credentials { uid, gid, groups: Vec::new() }, has_places })
    }

    /// What the ranks of a member see.
    pub(crate) fn of_member(&self, member: MemberKey, layout: &MemberLayout, shut: Vec<PathBuf>) -> Namespace {
        let places = self.places(member, layout).map(|places| places.shutting(shut, layout.blank()));
        let shown = vec![layout.root().to_owned(), self.layout.programs()];
        Namespace::new(self.layout.root(), shown, self.hidden.clone(), places)
    }

    /// Its own of what is everybody's.
    pub(crate) fn places(&self, member: MemberKey, layout: &MemberLayout) -> Option<Places> {
        self.has_places.then(|| Places::of(member, &self.own, &layout.tmp()))
    }

    pub(crate) fn make_places(&self, member: MemberKey, layout: &MemberLayout, shut: Vec<PathBuf>) -> io::Result<()> {
        let places = self.places(member, layout).map(|places| places.shutting(shut, layout.blank()));
        places.map_or(Ok(()), |places| places.make(&self.own))
    }

    /// Whether this machine lets ranks have it.
    pub(crate) fn try_out(&self, program: &Path) -> Result<(), String> {
        let shown = vec![self.layout.programs()];
        namespace::try_out(&Namespace::new(self.layout.root(), shown, self.hidden.clone(), None), program)
    }
}
