//! I1, I5 and I13: jobs that clients asked for are there once, on all coordinators alike, and ended as they had to.

use super::super::history::{Submit, Told};
use crate::Cluster;
use client::v1;
use std::collections::BTreeMap;
use types::JobId;

/// I13, as far as the API shows: coordinators tell the same jobs.
pub(super) fn alike(lists: &BTreeMap<u64, Vec<v1::JobSummary>>) -> Vec<String> {
    let Some((first, list)) = lists.iter().next() else { return vec!["no coordinator was asked".into()] };
    let others = lists.iter().filter(|(_, other)| *other != list);
    others
        .map(|(id, other)| {
            let differs = list.iter().zip(other).find(|(one, other)| one != other);
            format!(
                "I13: coordinators {first} and {id} tell different jobs, {} and {}: {differs:?}",
                list.len(),
                other.len()
            )
        })
        .collect()
}

/// I1: each acknowledged submit is there once, under its number; nothing is there twice.
pub(super) fn acknowledged(told: &Told, list: &[v1::JobSummary]) -> Vec<String> {
    let mut by_name: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for job in list.iter().filter(|job| !job.display_name.is_empty()) {
        by_name.entry(&job.display_name).or_default().push(job.id);
    }
    let mut faults = Vec::new();
    for (name, jobs) in &by_name {
        if jobs.len() > 1 {
            faults.push(format!("I1: {name} was submitted once and is there as {jobs:?}"));
        }
        if !told.submits.contains_key(*name) {
            faults.push(format!("I1: nobody submitted {name}, job {jobs:?}"));
        }
    }
    for (name, Submit { job, .. }) in &told.submits {
        let Some(job) = job else { continue };
        match by_name.get(name.as_str()).map(Vec::as_slice) {
            None => faults.push(format!("I1: {name}, acknowledged as job {job}, is lost")),
            Some(jobs) if !jobs.contains(job) => {
                faults.push(format!("I1: {name} was acknowledged as job {job} and is {jobs:?}"));
            }
            Some(_) => {}
        }
    }
    faults
}

/// I5: each ended as it had to, with the exit code of its rank.
pub(super) async fn ends(cluster: &Cluster, told: &Told, list: &[v1::JobSummary]) -> anyhow::Result<Vec<String>> {
    let phases: BTreeMap<u64, &str> = list.iter().map(|job| (job.id, job.phase.as_str())).collect();
    let client = cluster.client();
    let mut faults = Vec::new();
    for (name, Submit { code, job }) in &told.submits {
        let Some(job) = *job else { continue };
        let phase = phases.get(&job).copied().unwrap_or_default();
        let by_itself = if *code == 0 { "Completed" } else { "Failed" };
        if phase != by_itself && !(phase == "Canceled" && told.cancels.contains(&job)) {
            let why = list.iter().find(|other| other.id == job).map(|job| job.reason.clone()).unwrap_or_default();
            faults.push(format!("I5: {name}, job {job}, exits with {code} and is {phase}: {why}"));
        }
        if phase == "Failed" {
            let shown = client.get(JobId(job)).await?;
            let ranks = shown.attempts.last().map(|attempt| attempt.ranks.clone()).unwrap_or_default();
            if ranks.first().is_none_or(|rank| rank.exit_code != Some(*code)) {
                faults
                    .push(format!("I5: {name}, job {job}, exits with {code}, and is told to have ended so: {ranks:?}"));
            }
        }
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: u64, name: &str) -> v1::JobSummary {
        v1::JobSummary { id, display_name: name.into(), ..Default::default() }
    }

    fn told(of: &[(&str, Option<u64>)]) -> Told {
        let submits = of.iter().map(|(name, job)| ((*name).to_owned(), Submit { code: 0, job: *job }));
        Told { submits: submits.collect(), ..Told::default() }
    }

    #[test]
    fn lost_doubled_exchanged_and_invented_jobs_are_found() {
        let asked = told(&[("a", Some(1)), ("b", None)]);
        assert_eq!(acknowledged(&asked, &[job(1, "a"), job(7, "")]), Vec::<String>::new());
        assert_eq!(acknowledged(&asked, &[job(1, "a"), job(2, "b")]), Vec::<String>::new(), "it may be there");
        for (list, part) in [
            (vec![], "is lost"),
            (vec![job(1, "a"), job(2, "a")], "is there as [1, 2]"),
            (vec![job(2, "a")], "acknowledged as job 1 and is [2]"),
            (vec![job(1, "a"), job(3, "c")], "nobody submitted c"),
        ] {
            let faults = acknowledged(&asked, &list);
            assert!(faults.len() == 1 && faults[0].contains(part), "{part}: {faults:?}");
        }
    }

    #[test]
    fn coordinators_that_tell_different_jobs_are_found() {
        let same = BTreeMap::from([(1, vec![job(1, "a")]), (2, vec![job(1, "a")])]);
        assert!(alike(&same).is_empty());
        let other = BTreeMap::from([(1, vec![job(1, "a")]), (2, vec![job(1, "b")])]);
        assert_eq!(alike(&other).len(), 1);
    }
}
