//! YAML as far as a file of queues needs it: mappings, texts and lists with their lines. No aliases, no tags, one document.

use super::trace::Faults;
use saphyr_parser::{Event, Parser};
use std::collections::BTreeSet;

/// Deepest nesting: a tree of queues is written two levels for each of its own.
const DEPTH_MAX: usize = 64;

/// What stands somewhere, and in which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    List,
    /// Key, its line, and what belongs to it, in the order of the file.
    Map(Vec<(String, usize, Node)>),
}

/// A list or a mapping whose end was not seen yet.
struct Open {
    line: usize,
    /// Nothing for a list, whose members are of no use to anybody.
    entries: Option<Vec<(String, usize, Node)>>,
    keys: BTreeSet<String>,
    key: Option<(String, usize)>,
}

/// The root of the only document; nothing where there is none, or where a fault leaves no sense in going on.
pub(super) fn compose(text: &str, faults: &mut Faults) -> Option<Node> {
    let (mut open, mut root): (Vec<Open>, Option<Node>) = (Vec::new(), None);
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, line) = match event {
            Ok((event, span)) => (event, span.start.line()),
            Err(error) => {
                faults.at(error.marker().line(), format!("this is no YAML: {}", error.info()));
                return None;
            }
        };
        let node = match event {
            Event::Scalar(text, ..) => {
                let value = text.into_owned();
                match open.last_mut() {
                    Some(Open { entries: Some(_), keys, key: key @ None, .. }) => {
                        if !keys.insert(value.clone()) {
                            faults.at(line, format!("{value:?} is there twice"));
                        }
                        *key = Some((value, line));
                        continue;
                    }
                    _ => Node { line, value: Value::Text(value) },
                }
            }
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                let is_map = matches!(event, Event::MappingStart(..));
                let is_key = matches!(open.last(), Some(Open { entries: Some(_), key: None, .. }));
                if open.len() == DEPTH_MAX || is_key {
                    faults.at(line, if is_key { "a key is a text" } else { "this is nested too deep" });
                    return None;
                }
                open.push(Open { line, entries: is_map.then(Vec::new), keys: BTreeSet::new(), key: None });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { line, entries, .. }) = open.pop() else { continue };
                Node { line, value: entries.map_or(Value::List, Value::Map) }
            }
            Event::Alias(_) => {
                faults.at(line, "aliases (*name) are not read here");
                return None;
            }
            Event::DocumentStart(_) if root.is_some() => {
                faults.at(line, "a second document begins here: only one is read");
                return root;
            }
            _ => continue,
        };
        match open.last_mut() {
            Some(Open { entries: Some(entries), key, .. }) => {
                entries.extend(key.take().map(|(key, line)| (key, line, node)));
            }
            Some(_) => {}
            None => root = Some(node),
        }
    }
    root
}
