//! The lineage graph of one job, read off the tables: what went in, where it ran, what came out.

use cluster_state::{Attempt, Job, State};
use proto::v1;
use std::collections::BTreeMap;
use types::{Input, MemberEnd};

/// Nodes and edges in a fixed order.
pub(crate) fn graph(state: &State, job: &Job) -> v1::LineageGraph {
    let mut graph = Graph::default();
    let job_id = format!("job:{}", job.id);
    graph.node(&job_id, "job", &name(job), [("phase", job.phase.name().to_owned())]);
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
    if let Some(code) = &spec.code {
        let id = format!("code:{}", code.tree);
        graph.node(&id, "code", &code.tree.short(), [("tree", code.tree.to_string())]);
        graph.edge(&id, job_id, "code");
        if let Some(git) = &code.git {
            let git_id = format!("git:{}", git.commit);
            let facts = [("branch", git.branch.clone()), ("dirty", git.dirty.to_string())];
            graph.node(&git_id, "git", &git.commit, facts);
            graph.edge(&git_id, &id, "code");
        }
    }
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
        // Names only: values may be secrets.
        let names: Vec<&str> = spec.environment_variables.keys().map(String::as_str).collect();
        graph.node("environment", "environment", &names.join(", "), []);
        graph.edge("environment", job_id, "input");
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
        for index in member.ranks.iter().flat_map(|rank| &rank.devices) {
            let device =
                known.and_then(|worker| worker.registration.inventory.devices.iter().find(|d| d.index == *index));
            let Some(device) = device else { continue };
            let device_id = format!("device:{}", device.uuid);
            graph.node(&device_id, "device", &device.name, [("uuid", device.uuid.clone())]);
            graph.edge(&device_id, &id, "ran_on");
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
        let output_id = format!("output:{}:{}", output.node_rank, output.output.name);
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
        let edge = v1::LineageEdge { from: from.into(), to: to.into(), role: role.into() };
        if !self.edges.contains(&edge) {
            self.edges.push(edge);
        }
    }

    /// Without edges to what is no longer known (an old checkpoint, for one).
    fn done(mut self) -> v1::LineageGraph {
        let nodes = &self.nodes;
        self.edges.retain(|edge| nodes.contains_key(&edge.from) && nodes.contains_key(&edge.to));
        let nodes = self.order.iter().filter_map(|id| self.nodes.get(id).cloned()).collect();
        v1::LineageGraph { nodes, edges: self.edges }
    }
}
