//! The graph as a Mermaid flowchart, as Markdown pages and wikis draw it.

use client::v1;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Characters of a label: a command may be a page long.
const LABEL_CHARS_MAX: usize = 60;

/// From what was fed to what was made, left to right.
pub fn mermaid(graph: &v1::LineageGraph) -> String {
    let mut text = "flowchart LR\n".to_owned();
    let mut names = BTreeMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let (begin, end) = match node.kind.as_str() {
            "job" | "attempt" => ("([", "])"),
            "code" | "input" | "output" | "checkpoint" => ("[(", ")]"),
            _ => ("[", "]"),
        };
        let label = format!("{}: {}", node.kind, node.label.lines().next().unwrap_or_default());
        let _ = writeln!(text, "  n{index}{begin}\"{}\"{end}", quoted(&label));
        names.insert(node.id.as_str(), index);
    }
    for edge in &graph.edges {
        if let (Some(from), Some(to)) = (names.get(edge.from.as_str()), names.get(edge.to.as_str())) {
            let _ = writeln!(text, "  n{from} -- \"{}\" --> n{to}", quoted(&edge.role));
        }
    }
    text
}

/// Nothing of it is taken for Mermaid's own: what could be is a character reference.
fn quoted(label: &str) -> String {
    let short = crate::output::table::cut(&crate::output::table::clean(label), LABEL_CHARS_MAX);
    short.chars().fold(String::new(), |mut text, c| {
        if c.is_alphanumeric() || " .,:/=_-…".contains(c) {
            text.push(c);
        } else {
            let _ = write!(text, "#{};", u32::from(c));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_is_drawn_and_no_label_leaves_its_quotes() {
        let node = |id: &str, kind: &str, label: &str| v1::LineageNode {
            id: id.into(),
            kind: kind.into(),
            label: label.into(),
            ..Default::default()
        };
        let edge = |from: &str, to: &str| v1::LineageEdge { from: from.into(), to: to.into(), role: "input".into() };
        let graph = v1::LineageGraph {
            nodes: vec![node("command", "command", "echo \"x\"]; n9 --> n8\nmore"), node("job:7", "job", "digits")],
            edges: vec![edge("command", "job:7"), edge("gone", "job:7")],
            ..Default::default()
        };
        let wanted = "flowchart LR\n  n0[\"command: echo #34;x#34;#93;#59; n9 --#62; n8\"]\n  n1([\"job: digits\"])\n  n0 -- \"input\" --> n1\n";
        assert_eq!(mermaid(&graph), wanted);
    }
}
