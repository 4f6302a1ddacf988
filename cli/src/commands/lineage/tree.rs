//! The graph of what made a job's results, as a tree.

use crate::output::table::clean;
use crate::output::{Output, style};
use client::v1;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Where it was asked from in the middle: what fed that first, then what it made. A node that was shown already is only named.
pub fn tree(graph: &v1::LineageGraph, output: &Output) -> String {
    let drawing = Drawing::new(graph, output);
    let mut text = String::new();
    let mut shown = BTreeSet::new();
    let mut begin: Vec<&str> =
        graph.begin.iter().map(String::as_str).filter(|node| drawing.nodes.contains_key(node)).collect();
    if begin.is_empty() {
        begin.extend(graph.nodes.iter().find(|node| node.kind == "job").map(|node| node.id.as_str()));
    }
    for start in begin {
        if shown.contains(start) {
            continue;
        }
        let _ = writeln!(text, "{}", drawing.title(start));
        shown.insert(start);
        drawing.facts(&mut text, start, "");
        drawing.branches(&mut text, start, "", &mut shown, 0);
    }
    for node in graph.nodes.iter().filter(|node| !shown.contains(node.id.as_str())) {
        let _ = writeln!(text, "{}", drawing.title(&node.id));
    }
    text
}

struct Drawing<'a> {
    nodes: BTreeMap<&'a str, &'a v1::LineageNode>,
    made: BTreeMap<&'a str, Vec<(&'a str, &'a str)>>,
    fed_by: BTreeMap<&'a str, Vec<(&'a str, &'a str)>>,
    output: &'a Output,
}

/// Chains are job, attempt, checkpoint, attempt ..: one level a restart. Past this a tree helps nobody.
const DEPTH_MAX: usize = 64;

impl<'a> Drawing<'a> {
    fn new(graph: &'a v1::LineageGraph, output: &'a Output) -> Self {
        let nodes = graph.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let mut made: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
        let mut fed_by: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
        for edge in &graph.edges {
            made.entry(&edge.from).or_default().push((&edge.to, &edge.role));
            fed_by.entry(&edge.to).or_default().push((&edge.from, &edge.role));
        }
        Drawing { nodes, made, fed_by, output }
    }

    fn title(&self, id: &str) -> String {
        match self.nodes.get(id) {
            None => clean(id),
            Some(node) => {
                let kind = self.output.paint(style::BUSY, &clean(&node.kind));
                format!("{kind} {}", clean(node.label.lines().next().unwrap_or_default()))
            }
        }
    }

    fn facts(&self, text: &mut String, id: &str, indent: &str) {
        let Some(node) = self.nodes.get(id) else { return };
        for (name, value) in &node.facts {
            let fact = format!("{name}: {}", value.lines().next().unwrap_or_default());
            let _ = writeln!(text, "{indent}│  {}", self.output.paint(style::DIM, &clean(&fact)));
        }
    }

    fn branches(&self, text: &mut String, id: &'a str, indent: &str, shown: &mut BTreeSet<&'a str>, depth: usize) {
        if depth > DEPTH_MAX {
            return;
        }
        let fed = self.fed_by.get(id).into_iter().flatten().map(|(other, role)| (*other, *role, "◂"));
        let made = self.made.get(id).into_iter().flatten().map(|(other, role)| (*other, *role, "▸"));
        let all: Vec<(&str, &str, &str)> = fed.chain(made).filter(|(other, ..)| !shown.contains(other)).collect();
        // Marked before they are drawn: a node stands under the nearest one, not under a later cousin.
        let fresh: Vec<_> = all.into_iter().filter(|(other, ..)| shown.insert(other)).collect();
        for (i, (other, role, arrow)) in fresh.iter().enumerate() {
            let is_last = i + 1 == fresh.len();
            let (branch, below) = if is_last { ("└─", "   ") } else { ("├─", "│  ") };
            let role = self.output.paint(style::DIM, &format!("{arrow} {}", clean(role)));
            let _ = writeln!(text, "{indent}{branch} {role} {}", self.title(other));
            let indent = format!("{indent}{below}");
            self.short_facts(text, other, &indent);
            self.branches(text, other, &indent, shown, depth + 1);
        }
    }

    fn short_facts(&self, text: &mut String, id: &str, indent: &str) {
        let Some(node) = self.nodes.get(id).filter(|node| !node.facts.is_empty()) else { return };
        let facts: Vec<String> = node
            .facts
            .iter()
            .map(|(name, value)| format!("{name}={}", value.lines().next().unwrap_or_default()))
            .collect();
        let room = self.output.width.unwrap_or(120).saturating_sub(indent.chars().count() + 2).max(20);
        let facts = crate::output::table::cut(&clean(&facts.join("  ")), room);
        let _ = writeln!(text, "{indent}  {}", self.output.paint(style::DIM, &facts));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    fn node(id: &str, kind: &str, label: &str) -> v1::LineageNode {
        v1::LineageNode { id: id.into(), kind: kind.into(), label: label.into(), ..Default::default() }
    }

    fn edge(from: &str, to: &str, role: &str) -> v1::LineageEdge {
        v1::LineageEdge { from: from.into(), to: to.into(), role: role.into() }
    }

    fn plain() -> Output {
        Output {
            format: Format::Table,
            color: false,
            width: None,
            height: None,
            is_terminal: false,
            stderr_is_terminal: false,
            bars: false,
        }
    }

    #[test]
    fn every_node_stands_once_and_cycles_end() {
        let graph = v1::LineageGraph {
            nodes: vec![
                node("job:7", "job", "digits"),
                node("code:ab", "code", "ab12"),
                node("attempt:1", "attempt", "1"),
                node("attempt:2", "attempt", "2"),
                node("ckpt", "checkpoint", "step 40"),
                node("lost", "metric", "alone"),
            ],
            edges: vec![
                edge("code:ab", "job:7", "code"),
                edge("job:7", "attempt:1", "started"),
                edge("job:7", "attempt:2", "started"),
                edge("attempt:1", "ckpt", "saved"),
                edge("ckpt", "attempt:2", "resumed"),
                edge("attempt:2", "job:7", "input"),
            ],
            ..Default::default()
        };
        let text = tree(&graph, &plain());
        for node in &graph.nodes {
            let title = format!("{} {}", node.kind, node.label);
            assert_eq!(text.matches(&title).count(), 1, "{title} in\n{text}");
        }
        assert!(text.starts_with("job digits\n├─ ◂ code code ab12\n"), "{text}");
    }

    #[test]
    fn an_empty_graph_is_empty() {
        assert_eq!(tree(&v1::LineageGraph::default(), &plain()), "");
    }
}
