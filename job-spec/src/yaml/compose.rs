//! Builds the node tree from the parser's events; refuses what would make it unbounded or ambiguous.
//!
//! Aliases are expanded where they stand, against one budget for the whole document, so a small file cannot grow into
//! a large tree. Merge keys (`<<`) work as in YAML 1.1: what is written in the mapping itself wins.

use super::{Core, Entry, Node, Scalar, Value};
use crate::faults::{Mark, Report};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Deepest nesting: a job needs 5.
const DEPTH_MAX: usize = 32;
/// Most nodes after expansion of aliases.
const NODES_MAX: usize = 20_000;
/// Most bytes of text after expansion of aliases.
const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// The root of the only document of `text`; nothing when there is none or it cannot be read, which is then reported.
pub(crate) fn compose(text: &str, report: &mut Report) -> Option<Node> {
    if let Some((before, control)) = first_control_character(text) {
        // The parser would take NUL for the end of the file and quietly drop the rest.
        report.fault(super::mark_after(before), "", format!("the file has a control character ({control:?}) here"));
        return None;
    }
    let mut composer = Composer::new(report);
    let mut parser = Parser::new_from_str(text);
    composer.run(&mut parser);
    let root = composer.root.take();
    if composer.stopped {
        return None;
    }
    if root.as_ref().is_none_or(Node::is_null) {
        report.fault(Mark::START, "", "the file is empty: a job needs at least a command");
        return None;
    }
    root
}

fn first_control_character(text: &str) -> Option<(&str, char)> {
    let bad = |c: char| (c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}')) || c == '\u{FEFF}';
    let (at, control) = text.char_indices().find(|(_, c)| bad(*c))?;
    Some((text.get(..at)?, control))
}

struct Composer<'r> {
    report: &'r mut Report,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    text_bytes: usize,
    documents: usize,
    root: Option<Node>,
    stopped: bool,
}

/// A list or mapping whose end was not seen yet.
struct Open {
    mark: Mark,
    anchor: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<Entry>, keys: BTreeMap<String, Mark>, merged: Vec<Entry>, key: Option<Key> },
}

enum Key {
    Plain(String, Mark),
    Merge,
    /// Reported already; its value is dropped.
    Refused,
}

impl<'r> Composer<'r> {
    fn new(report: &'r mut Report) -> Self {
        Self {
            report,
            open: Vec::new(),
            anchors: BTreeMap::new(),
            nodes: 0,
            text_bytes: 0,
            documents: 0,
            root: None,
            stopped: false,
        }
    }

    fn run<'i>(&mut self, parser: &mut Parser<'i, StrInput<'i>>) {
        while !self.stopped {
            match parser.next_event() {
                None => return,
                Some(Ok((event, span))) => self.event(event, span),
                Some(Err(error)) => self.stop(mark(*error.marker()), syntax(&error)),
            }
        }
    }

    fn event(&mut self, event: Event<'_>, span: Span) {
        let place = mark(span.start);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.stop(place, "a second document starts here: a job file holds one");
                }
            }
            Event::Alias(id) => self.alias(id, place),
            Event::Scalar(text, style, anchor, tag) => self.scalar(text.into_owned(), style, anchor, tag, span),
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), "seq", place);
                self.start(Open { mark: place, anchor, content: Content::Sequence(Vec::new()) });
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), "map", place);
                let content =
                    Content::Mapping { entries: Vec::new(), keys: BTreeMap::new(), merged: Vec::new(), key: None };
                self.start(Open { mark: place, anchor, content });
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
        }
    }

    fn stop(&mut self, place: Mark, message: impl Into<String>) {
        self.stopped = true;
        self.report.fault(place, "", message);
    }

    fn scalar(&mut self, text: String, style: ScalarStyle, anchor: usize, tag: Option<Cow<'_, Tag>>, span: Span) {
        let place = mark(span.start);
        let plain = style == ScalarStyle::Plain;
        let core = match tag.as_deref() {
            None if plain => Core::of(&text),
            None => Core::Text,
            Some(tag) => self.tagged(tag, &text, place),
        };
        let node =
            Node { mark: place, value: Value::Scalar(Scalar { text, core, plain, span: (place, mark(span.end)) }) };
        self.complete(node, anchor);
    }

    fn tagged(&mut self, tag: &Tag, text: &str, place: Mark) -> Core {
        let found = Core::of(text);
        let fits = match tag.suffix.as_str() {
            _ if !tag.is_yaml_core_schema() => false,
            "str" => return Core::Text,
            "int" => found == Core::Integer,
            "float" => matches!(found, Core::Integer | Core::Float),
            "bool" => found == Core::Boolean,
            "null" => found == Core::Null,
            _ => false,
        };
        if !fits {
            self.report.fault(place, "", format!("tag {} does not fit or is not known here", shown(tag)));
        }
        found
    }

    fn check_tag(&mut self, tag: Option<&Tag>, fits: &str, place: Mark) {
        if let Some(tag) = tag
            && !(tag.is_yaml_core_schema() && tag.suffix == fits)
        {
            self.report.fault(place, "", format!("tag {} does not fit or is not known here", shown(tag)));
        }
    }

    fn alias(&mut self, id: usize, place: Mark) {
        let Some(node) = self.anchors.get(&id) else {
            self.stop(place, "the alias stands inside what it refers to");
            return;
        };
        // Charged before it is copied: the copy itself must not be the harm.
        let (nodes, text_bytes) = weight(node);
        if !self.charge(nodes, text_bytes, place) {
            return;
        }
        if let Some(node) = self.anchors.get(&id) {
            let node = Node { mark: place, value: node.value.clone() };
            self.attach(node);
        }
    }

    fn charge(&mut self, nodes: usize, text_bytes: usize, place: Mark) -> bool {
        self.nodes = self.nodes.saturating_add(nodes);
        self.text_bytes = self.text_bytes.saturating_add(text_bytes);
        if self.nodes > NODES_MAX || self.text_bytes > TEXT_BYTES_MAX {
            self.stop(
                place,
                format!("the file has more than {NODES_MAX} values or {TEXT_BYTES_MAX} bytes with its aliases"),
            );
        }
        !self.stopped
    }

    fn start(&mut self, open: Open) {
        if self.open.len() >= DEPTH_MAX {
            self.stop(open.mark, format!("values are nested deeper than {DEPTH_MAX}"));
        } else if self.charge(1, 0, open.mark) {
            self.open.push(open);
        }
    }

    fn end(&mut self) {
        let Some(open) = self.open.pop() else { return };
        let value = match open.content {
            Content::Sequence(items) => Value::Sequence(items),
            Content::Mapping { entries, keys, merged, .. } => Value::Mapping(merge(entries, keys, merged)),
        };
        self.remember(open.anchor, Node { mark: open.mark, value });
    }

    fn complete(&mut self, node: Node, anchor: usize) {
        let text_bytes = node.scalar().map_or(0, |scalar| scalar.text.len());
        if self.charge(1, text_bytes, node.mark) {
            self.remember(anchor, node);
        }
    }

    fn remember(&mut self, anchor: usize, node: Node) {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.attach(node);
    }

    fn attach(&mut self, node: Node) {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut open.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping { entries, keys, merged, key } => match key.take() {
                None => *key = Some(read_key(node, keys, self.report)),
                Some(Key::Refused) => {}
                Some(Key::Plain(text, place)) => entries.push(Entry { key: text, mark: place, node }),
                Some(Key::Merge) => collect_merged(node, merged, self.report),
            },
        }
    }
}

fn read_key(node: Node, keys: &mut BTreeMap<String, Mark>, report: &mut Report) -> Key {
    let Value::Scalar(scalar) = node.value else {
        report.fault(node.mark, "", "a key must be plain text, not a list or mapping");
        return Key::Refused;
    };
    if scalar.plain && scalar.text == "<<" {
        return Key::Merge;
    }
    if let Some(first) = keys.get(&scalar.text) {
        let key: String = scalar.text.chars().take(60).collect();
        report.fault(node.mark, "", format!("key {key:?} stands in line {} already", first.line));
        return Key::Refused;
    }
    keys.insert(scalar.text.clone(), node.mark);
    Key::Plain(scalar.text, node.mark)
}

fn collect_merged(node: Node, merged: &mut Vec<Entry>, report: &mut Report) {
    match node.value {
        Value::Mapping(entries) => merged.extend(entries),
        Value::Sequence(items) if items.iter().all(|item| matches!(item.value, Value::Mapping(_))) => {
            for item in items {
                collect_merged(item, merged, report);
            }
        }
        _ => report.fault(node.mark, "", "<< takes a mapping, an alias of one, or a list of them"),
    }
}

fn merge(mut entries: Vec<Entry>, keys: BTreeMap<String, Mark>, merged: Vec<Entry>) -> Vec<Entry> {
    let mut seen: BTreeSet<String> = keys.into_keys().collect();
    for entry in merged {
        if seen.insert(entry.key.clone()) {
            entries.push(entry);
        }
    }
    entries
}

/// Nodes and bytes of text.
fn weight(node: &Node) -> (usize, usize) {
    let add = |sum: (usize, usize), more: (usize, usize)| (sum.0 + more.0, sum.1 + more.1);
    match &node.value {
        Value::Scalar(scalar) => (1, scalar.text.len()),
        Value::Sequence(items) => items.iter().map(weight).fold((1, 0), add),
        Value::Mapping(entries) => {
            entries.iter().map(|entry| add((1, entry.key.len()), weight(&entry.node))).fold((1, 0), add)
        }
    }
}

/// The parser counts columns from 0.
fn mark(marker: Marker) -> Mark {
    Mark { line: marker.line().max(1), column: marker.col() + 1 }
}

fn syntax(error: &ScanError) -> String {
    format!("not YAML: {}", error.info().trim().trim_end_matches('.'))
}

fn shown(tag: &Tag) -> String {
    format!("{tag}").chars().filter(|c| !c.is_control()).take(60).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Node, String> {
        let mut report = Report::new("f");
        let node = compose(text, &mut report);
        if report.is_sound() { Ok(node.unwrap()) } else { Err(report.into_faults().to_string()) }
    }

    fn show(node: &Node) -> String {
        match &node.value {
            Value::Scalar(scalar) => format!("{:?}:{}", scalar.core, scalar.text),
            Value::Sequence(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(",")),
            Value::Mapping(entries) => {
                let entries: Vec<_> = entries.iter().map(|e| format!("{}={}", e.key, show(&e.node))).collect();
                format!("{{{}}}", entries.join(","))
            }
        }
    }

    #[test]
    fn trees_are_built() {
        for (text, expected) in [
            ("a: 1\nb: [x, '2', !!str 3]", "{a=Integer:1,b=[Text:x,Text:2,Text:3]}"),
            ("a: &x {k: v}\nb: *x", "{a={k=Text:v},b={k=Text:v}}"),
            ("a: &x {k: v, l: 1}\nb: {<<: *x, l: 2}", "{a={k=Text:v,l=Integer:1},b={l=Integer:2,k=Text:v}}"),
            ("b: {<<: [{a: 1}, {a: 2, c: 3}]}", "{b={a=Integer:1,c=Integer:3}}"),
            ("a:\nb: |\n  x\n  y\n", "{a=Null:~,b=Text:x\ny\n}"),
            ("---\na: on\n...\n", "{a=Text:on}"),
            ("? a\n: 1", "{a=Integer:1}"),
        ] {
            assert_eq!(show(&read(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn bad_documents_are_refused_with_their_place() {
        for (text, expected) in [
            ("", "f:1:1: the file is empty"),
            ("# only a comment\n", "f:1:1: the file is empty"),
            ("a: 1\na: 2", "f:2:1: key \"a\" stands in line 1 already"),
            ("a: 1\n---\nb: 2", "f:2:1: a second document starts here"),
            ("a: &x [*x]", "f:1:8: the alias stands inside what it refers to"),
            ("a: *nope", "f:1:4: not YAML"),
            ("a: [1, 2", "not YAML"),
            ("a: b: c", "not YAML"),
            ("{[a]: 1}", "f:1:2: a key must be plain text"),
            ("a: !secret x", "f:1:12: tag !secret does not fit or is not known here"),
            ("a: !!int x", "f:1:10: tag"),
            ("a: {<<: 1}", "f:1:9: << takes a mapping"),
            ("a: 1\nb: \u{1}", "f:2:4: the file has a control character ('\\u{1}') here"),
            ("a: x\0: y", "f:1:5: the file has a control character"),
        ] {
            let fault = read(text).unwrap_err();
            assert!(fault.contains(expected), "{text:?}: {fault}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        assert!(read(&format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX))).is_ok());
        assert!(read(&format!("{}{}", "[".repeat(DEPTH_MAX + 1), "]".repeat(DEPTH_MAX + 1))).is_err());
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read(&"- ".repeat(100_000)).is_err());
        assert!(read(&"{a: ".repeat(50_000)).is_err());
    }

    #[test]
    fn aliases_cannot_blow_up() {
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let list = vec![format!("*a{}", i - 1); 10].join(", ");
            laughs = format!("{laughs}a{i}: &a{i} [{list}]\n");
        }
        assert!(read(&laughs).unwrap_err().contains("with its aliases"));
        let long = format!("a: &a {}\nb: [{}]", "x".repeat(100_000), vec!["*a"; 100].join(", "));
        assert!(read(&long).unwrap_err().contains("with its aliases"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[-a-c:\\[\\]{},&*!|>'\"#?%<~ \t\n\r0-9.\\\\]{0,80}") {
            let mut report = Report::new("f");
            let node = compose(&text, &mut report);
            proptest::prop_assert!(node.is_some() || !report.is_sound());
        }
    }
}
