//! The lineage graph of one job, read off the tables: what went in, where it ran, what came out.

mod check;
mod records;
mod service;
mod start;
mod walk;

pub(crate) use check::Turns;
pub(super) use service::Service;

use cluster_state::{Attempt, HeldDevice, Job, State, environment_hash, output_node};
use proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use types::{Input, MemberEnd};

/// Nodes and edges in a fixed order.
pub(crate) fn graph(state: &State, job: &Job) -> v1::LineageGraph {
    let mut graph = Graph::default();
    let job_id = format!("job:{}", job.id);
    let record = job.sealed().map(|number| ("record", number.to_string()));
    let facts = [("phase", job.phase.name().to_owned())].into_iter().chain(record);
    graph.node(&job_id, "job", &name(job), facts);
    sources(&mut graph, job, &job_id);
    for attempt in &job.attempts {
        self::attempt(&mut graph, state, job, attempt, &job_id);
    }
    results(&mut graph, job);
    graph.done()
}

fn name(job: &Job) -> String {
    if job.spec.display_name.is_empty() { format!("job {}", job.id) } else { job.spec.display_name.clone() }
}

fn sources(graph: &mut Graph, job: &Job, job_id: &str) {
    let spec = &job.spec;
    graph.node("command", "command", &spec.command, []);
    graph.edge("command", job_id, "input");
    code(graph, job, job_id);
    for (name, input) in &spec.inputs {
        let id = format!("input:{name}");
        match input {
            Input::Literal(text) => graph.node(&id, "input", &format!("{name} = {text}"), []),
            Input::Data { tree, origin, .. } => {
                graph.node(&id, "input", name, [("tree", tree.to_string()), ("origin", origin.clone())]);
            }
        }
        graph.edge(&id, job_id, "input");
    }
    if !spec.environment_variables.is_empty() {
        // Values may be secrets: they are in the hash only, which tells whether two jobs had the same.
        let names: Vec<&str> = spec.environment_variables.keys().map(String::as_str).collect();
        let hash = environment_hash(&spec.environment_variables);
        graph.node("environment", "environment", &names.join(", "), [("sha256", hash.to_string())]);
        graph.edge("environment", job_id, "input");
    }
}

/// Its code, the commit that this began from, and how it differed from that.
fn code(graph: &mut Graph, job: &Job, job_id: &str) {
    let Some(code) = &job.spec.code else { return };
    let id = format!("code:{}", code.tree);
    graph.node(&id, "code", &code.tree.short(), [("tree", code.tree.to_string())]);
    graph.edge(&id, job_id, "code");
    let Some(git) = &code.git else { return };
    let git_id = format!("git:{}", git.commit);
    let facts = [("branch", git.branch.clone()), ("dirty", git.dirty.to_string())];
    graph.node(&git_id, "git", &git.commit, facts);
    graph.edge(&git_id, &id, "code");
    if let Some(diff) = &git.diff {
        let diff_id = format!("diff:{diff}");
        graph.node(&diff_id, "diff", &diff.short(), [("tree", diff.to_string())]);
        graph.edge(&diff_id, &id, "code");
    }
}

fn attempt(graph: &mut Graph, state: &State, job: &Job, attempt: &Attempt, job_id: &str) {
    let id = format!("attempt:{}", attempt.number);
    let cause = match &attempt.phase {
        types::AttemptPhase::Stopping(cause) | types::AttemptPhase::Ended(cause) => cause.kind(),
        types::AttemptPhase::Preparing | types::AttemptPhase::Running => "live",
    };
    let facts = [("token", attempt.token.to_string()), ("result", cause.to_owned())];
    graph.node(&id, "attempt", &format!("attempt {}", attempt.number), facts);
    graph.edge(job_id, &id, "started");
    if let Some(from) = &attempt.resumed_from {
        graph.edge(&format!("checkpoint:{}", from.step), &id, "resumed");
    }
    for member in &attempt.placement.members {
        let worker = format!("worker:{}", member.worker);
        let known = state.worker(&member.worker);
        let facts = known.map(|worker| ("address", worker.registration.data_address.clone()));
        graph.node(&worker, "worker", member.worker.as_str(), facts);
        graph.edge(&worker, &id, "ran_on");
        for HeldDevice { index, uuid, name } in attempt.devices_of(member.node_rank) {
            let device =
                if uuid.is_empty() { format!("device:{}:{index}", member.worker) } else { format!("device:{uuid}") };
            graph.node(&device, "device", name, [("uuid", uuid.clone())]);
            graph.edge(&device, &id, "ran_on");
        }
    }
    for saved in job.checkpoints.iter().filter(|saved| saved.attempt == attempt.number) {
        let checkpoint = format!("checkpoint:{}", saved.checkpoint.step);
        let facts = [("tree", saved.checkpoint.tree.to_string())];
        graph.node(&checkpoint, "checkpoint", &format!("step {}", saved.checkpoint.step), facts);
        graph.edge(&id, &checkpoint, "saved");
    }
}

fn results(graph: &mut Graph, job: &Job) {
    let Some(last) = job.attempts.last() else { return };
    let attempt = format!("attempt:{}", last.number);
    for output in &job.outputs {
        let output_id = output_node(output.node_rank, &output.output.name);
        let facts = [("tree", output.output.tree.to_string()), ("bytes", output.output.bytes.to_string())];
        graph.node(&output_id, "output", &output.output.name, facts);
        graph.edge(&attempt, &output_id, "produced");
    }
    let mut metrics = BTreeMap::new();
    for end in last.ends.iter().flatten() {
        let MemberEnd::Exited { ranks, .. } = end else { continue };
        for rank in ranks {
            for (name, value) in &rank.final_metrics {
                metrics.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
    }
    for (name, value) in metrics {
        let id = format!("metric:{name}");
        graph.node(&id, "metric", &format!("{name} = {value}"), [("value", value)]);
        graph.edge(&attempt, &id, "measured");
    }
}

#[derive(Default)]
struct Graph {
    nodes: BTreeMap<String, v1::LineageNode>,
    order: Vec<String>,
    edges: Vec<v1::LineageEdge>,
    known: BTreeSet<(String, String, String)>,
}

impl Graph {
    fn node(&mut self, id: &str, kind: &str, label: &str, facts: impl IntoIterator<Item = (&'static str, String)>) {
        if self.nodes.contains_key(id) {
            return;
        }
        let facts = facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let node = v1::LineageNode { id: id.into(), kind: kind.into(), label: label.into(), facts };
        self.order.push(id.to_owned());
        self.nodes.insert(id.to_owned(), node);
    }

    fn edge(&mut self, from: &str, to: &str, role: &str) {
        if self.known.insert((from.to_owned(), to.to_owned(), role.to_owned())) {
            self.edges.push(v1::LineageEdge { from: from.into(), to: to.into(), role: role.into() });
        }
    }

    /// Without edges to what is no longer known (an old checkpoint, for one).
    fn done(mut self) -> v1::LineageGraph {
        let nodes = &self.nodes;
        self.edges.retain(|edge| nodes.contains_key(&edge.from) && nodes.contains_key(&edge.to));
        let nodes = self.order.iter().filter_map(|id| self.nodes.get(id).cloned()).collect();
        v1::LineageGraph { nodes, edges: self.edges, begin: Vec::new(), cut: false }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::Tables;

    fn nodes<'a>(graph: &'a v1::LineageGraph, kind: &str) -> Vec<&'a v1::LineageNode> {
        graph.nodes.iter().filter(|node| node.kind == kind).collect()
    }

    #[test]
    fn a_device_is_named_as_it_was_though_its_worker_lost_it() {
        let mut tables = Tables::default();
        tables.worker("a", 4, &[true, true]);
        let job = tables.submit(|spec| spec.gang.per_rank.gpus = 2);
        tables.plan();
        let before = graph(&tables.state, tables.state.job(job).unwrap());
        // The worker comes back without its second GPU.
        tables.worker("a", 4, &[true]);
        let after = graph(&tables.state, tables.state.job(job).unwrap());
        let devices = nodes(&after, "device");
        assert_eq!(devices.len(), 2, "{devices:?}");
        assert_eq!(devices, nodes(&before, "device"));
        for device in devices {
            let ran_on = |edge: &&v1::LineageEdge| edge.from == device.id && edge.role == "ran_on";
            assert_eq!(after.edges.iter().filter(ran_on).count(), 1, "{}", device.id);
        }
    }

    #[test]
    fn an_environment_is_told_apart_without_its_values() {
        let mut tables = Tables::default();
        let mut environment = |pairs: &[(&str, &str)]| {
            let job = tables.submit(|spec| {
                spec.environment_variables = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            });
            let graph = graph(&tables.state, tables.state.job(job).unwrap());
            assert!(!format!("{graph:?}").contains("hunter"), "{graph:?}");
            let node = nodes(&graph, "environment")[0].clone();
            (node.label, node.facts["sha256"].clone())
        };
        let (label, hash) = environment(&[("A", "1"), ("TOKEN", "hunter2")]);
        assert_eq!(label, "A, TOKEN");
        // printf 'A=1\0TOKEN=hunter2\0' | sha256sum
        assert_eq!(hash, "44defa59a1f995e9ba7b415521282ea9c04a582ba32fc8c85734da7ea53955bf");
        assert_eq!(environment(&[("TOKEN", "hunter2"), ("A", "1")]).1, hash);
        assert_ne!(environment(&[("A", "1"), ("TOKEN", "hunter3")]).1, hash);
        assert_ne!(environment(&[("A", "1\nTOKEN=hunter2")]).1, hash);
    }
}
