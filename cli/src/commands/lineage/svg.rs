//! The graph as a picture: SVG, from what was fed on the left to what was made on the right.
//!
//! Each node stands one column to the right of the last that fed it, and near the nodes that it is joined to. Facts are shown
//! when the pointer rests on a node. All text is escaped, and nothing is loaded from elsewhere.

use crate::output::table::{clean, cut};
use client::v1;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Pixels.
const BOX: (f64, f64) = (220.0, 44.0);
const GAP: (f64, f64) = (70.0, 16.0);
const MARGIN: f64 = 20.0;
/// Of a label in a box.
const LABEL_CHARS_MAX: usize = 30;
/// Rounds in which nodes move towards those that they are joined to.
const ROUNDS: usize = 4;

/// The whole document.
pub fn svg(graph: &v1::LineageGraph) -> String {
    let places = places(graph);
    let far = |pick: fn(&(f64, f64)) -> f64| places.iter().map(pick).fold(0.0, f64::max);
    let (width, height) = (far(|place| place.0) + BOX.0 + MARGIN, far(|place| place.1) + BOX.1 + MARGIN);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <defs><marker id=\"end\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path d=\"M0 0 L8 4 L0 8 z\" fill=\"#808080\"/></marker></defs>\n"
    );
    let names = names(graph);
    for edge in &graph.edges {
        if let (Some(from), Some(to)) = (names.get(edge.from.as_str()), names.get(edge.to.as_str())) {
            arrow(&mut text, places[*from], places[*to], &edge.role);
        }
    }
    for (node, place) in graph.nodes.iter().zip(&places) {
        boxed(&mut text, node, *place, graph.begin.contains(&node.id));
    }
    text.push_str("</svg>\n");
    text
}

fn names(graph: &v1::LineageGraph) -> BTreeMap<&str, usize> {
    graph.nodes.iter().zip(0..).map(|(node, index)| (node.id.as_str(), index)).collect()
}

/// Left upper corners, in the order of the nodes.
fn places(graph: &v1::LineageGraph) -> Vec<(f64, f64)> {
    let names = names(graph);
    let edge = |edge: &v1::LineageEdge| Some((*names.get(edge.from.as_str())?, *names.get(edge.to.as_str())?));
    let edges: Vec<(usize, usize)> = graph.edges.iter().filter_map(edge).collect();
    let columns = columns(graph.nodes.len(), &edges);
    let mut rows: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (node, column) in columns.iter().enumerate() {
        rows.entry(*column).or_default().push(node);
    }
    let mut joined = vec![Vec::new(); columns.len()];
    for (from, to) in edges {
        joined[from].push(to);
        joined[to].push(from);
    }
    let mut heights = vec![0.0; columns.len()];
    for round in 0..=ROUNDS {
        for column in rows.values_mut() {
            if round > 0 {
                let middle = |node: &usize| {
                    let others = &joined[*node];
                    others.iter().map(|other| heights[*other]).sum::<f64>() / others.len().max(1) as f64
                };
                column.sort_by(|one, other| middle(one).total_cmp(&middle(other)));
            }
            for (row, node) in column.iter().enumerate() {
                heights[*node] = MARGIN + row as f64 * (BOX.1 + GAP.1);
            }
        }
    }
    let x = |column: usize| MARGIN + column as f64 * (BOX.0 + GAP.0);
    columns.into_iter().zip(heights).map(|(column, y)| (x(column), y)).collect()
}

/// One behind the last that feeds it. What feeds itself by a detour has its place by the rest.
fn columns(nodes: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut fed_by = vec![0_usize; nodes];
    let mut feeds = vec![Vec::new(); nodes];
    for (from, to) in edges.iter().filter(|(from, to)| from != to) {
        fed_by[*to] += 1;
        feeds[*from].push(*to);
    }
    let mut columns = vec![0; nodes];
    let mut is_done = vec![false; nodes];
    let mut ready: Vec<usize> = (0..nodes).filter(|node| fed_by[*node] == 0).collect();
    for _ in 0..nodes {
        // In a ring none is ready: any of it begins.
        let Some(node) = ready.pop().or_else(|| is_done.iter().position(|done| !done)) else { break };
        is_done[node] = true;
        for to in &feeds[node] {
            if is_done[*to] {
                continue;
            }
            columns[*to] = columns[*to].max(columns[node] + 1);
            fed_by[*to] = fed_by[*to].saturating_sub(1);
            if fed_by[*to] == 0 {
                ready.push(*to);
            }
        }
    }
    columns
}

fn arrow(text: &mut String, from: (f64, f64), to: (f64, f64), role: &str) {
    let (x1, y1) = (from.0 + BOX.0, from.1 + BOX.1 / 2.0);
    let (x2, y2) = (to.0, to.1 + BOX.1 / 2.0);
    let bend = GAP.0 / 2.0 + (x2 - x1).abs() / 4.0;
    let _ = writeln!(
        text,
        "<path d=\"M{x1} {y1} C{} {y1} {} {y2} {x2} {y2}\" fill=\"none\" stroke=\"#808080\" marker-end=\"url(#end)\"><title>{}</title></path>",
        x1 + bend,
        x2 - bend,
        escaped(role)
    );
}

fn boxed(text: &mut String, node: &v1::LineageNode, (x, y): (f64, f64), is_begin: bool) {
    let (fill, stroke) = match node.kind.as_str() {
        "job" => ("#dbe9f6", "#1f77b4"),
        "attempt" | "worker" | "device" => ("#eeeeee", "#7f7f7f"),
        "code" | "git" | "diff" | "command" | "environment" => ("#e9e1f2", "#9467bd"),
        "output" | "checkpoint" | "metric" => ("#dff0dc", "#2ca02c"),
        _ => ("#fdebd3", "#ff7f0e"),
    };
    let facts: Vec<String> = node.facts.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let title = escaped(&format!("{}\n{}\n{}", node.id, node.label, facts.join("\n")));
    let (width, height) = BOX;
    let label = cut(&clean(node.label.lines().next().unwrap_or_default()), LABEL_CHARS_MAX);
    let _ = writeln!(
        text,
        "<g><title>{title}</title><rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"{fill}\" stroke=\"{stroke}\" stroke-width=\"{}\"/>\
         <text x=\"{}\" y=\"{}\" font-size=\"11\" fill=\"{stroke}\">{}</text><text x=\"{}\" y=\"{}\" font-size=\"13\">{}</text></g>",
        if is_begin { 3 } else { 1 },
        x + 10.0,
        y + 16.0,
        escaped(&node.kind),
        x + 10.0,
        y + 34.0,
        escaped(&label)
    );
}

/// XML allows no control characters but these.
fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, kind: &str, label: &str) -> v1::LineageNode {
        v1::LineageNode { id: id.into(), kind: kind.into(), label: label.into(), ..Default::default() }
    }

    fn edge(from: &str, to: &str) -> v1::LineageEdge {
        v1::LineageEdge { from: from.into(), to: to.into(), role: "input".into() }
    }

    #[test]
    fn what_is_fed_stands_right_of_what_feeds_it_and_none_on_another() {
        let graph = v1::LineageGraph {
            nodes: ["a", "b", "c", "d", "e"].map(|id| node(id, "job", id)).to_vec(),
            edges: vec![edge("a", "b"), edge("b", "c"), edge("a", "c"), edge("d", "c"), edge("gone", "a")],
            ..Default::default()
        };
        let places = places(&graph);
        assert!(places[0].0 < places[1].0 && places[1].0 < places[2].0 && places[3].0 < places[2].0, "{places:?}");
        let apart = |one: &(f64, f64), other: &(f64, f64)| {
            one.0.total_cmp(&other.0).is_ne() || (one.1 - other.1).abs() >= BOX.1
        };
        for (index, one) in places.iter().enumerate() {
            assert!(places[..index].iter().all(|other| apart(one, other)), "{places:?}");
        }
    }

    #[test]
    fn a_ring_is_drawn_and_ends() {
        let edges = [(0, 1), (1, 0), (1, 2), (2, 2)];
        assert_eq!(columns(3, &edges), [0, 1, 2]);
    }

    #[test]
    fn no_text_leaves_its_place() {
        let hostile = "</text><script>alert(1)</script>\u{1b}[2J & \"x\"";
        let graph = v1::LineageGraph {
            nodes: vec![v1::LineageNode {
                facts: [(hostile.to_owned(), hostile.to_owned())].into(),
                ..node(hostile, hostile, hostile)
            }],
            edges: vec![v1::LineageEdge { from: hostile.into(), to: hostile.into(), role: hostile.into() }],
            begin: vec![hostile.into()],
            cut: false,
        };
        let text = svg(&graph);
        assert!(!text.contains("<script") && !text.contains('\u{1b}'), "{text}");
        let opened = text.matches("<text").count();
        assert_eq!((opened, text.matches("</text>").count()), (2, 2));
    }
}
