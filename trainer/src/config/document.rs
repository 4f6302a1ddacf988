//! A configuration file as a tree that remembers its lines: YAML of one document, of which JSON is a part.
//!
//! Anchors, aliases and tags are refused: they hide where a value comes from, and aliases can make a small file huge.

use std::borrow::Cow;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

/// Larger than any configuration written by hand.
pub(crate) const BYTES_MAX: u64 = 256 * 1024;
/// Deepest nesting.
const DEPTH_MAX: usize = 8;

/// One value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) origin: Origin,
    pub(crate) value: Value,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Origin {
    /// The file's line, from 1.
    Line(usize),
    /// The command line.
    Override,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    /// Any scalar as written; `plain` where it had no quotes.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// One `key: value`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Where the key stands.
    pub(crate) origin: Origin,
    pub(crate) node: Node,
}

impl Value {
    /// For messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Value::Null => "nothing".to_owned(),
            Value::Scalar { text, .. } => format!("{text:?}"),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a group of fields".to_owned(),
        }
    }
}

/// A line and what is wrong there.
pub(crate) type LineFault = (usize, String);

/// Reads the text of one document; a text without any is an empty table. All faults that do not stop the reading are
/// collected beside the tree.
pub(crate) fn parse(text: &str) -> (Node, Vec<LineFault>) {
    let mut reader = Reader { parser: Parser::new_from_str(text), faults: Vec::new() };
    let node = match reader.document() {
        Ok(node) => node,
        Err(fault) => {
            reader.faults.push(fault);
            None
        }
    };
    (node.unwrap_or(Node { origin: Origin::Line(1), value: Value::Table(Vec::new()) }), reader.faults)
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    faults: Vec<LineFault>,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), LineFault> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn document(&mut self) -> Result<Option<Node>, LineFault> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::DocumentStart(_) if root.is_some() => {
                    return Err((span.start.line(), "a second document begins: one is enough".to_owned()));
                }
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                event => root = Some(self.node(event, span, 0)?),
            }
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, LineFault> {
        let line = span.start.line();
        if depth > DEPTH_MAX {
            return Err((line, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let value = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse(line, anchor, tag.as_ref());
                scalar(&text, style)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse(line, anchor, tag.as_ref());
                self.list(depth)?
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse(line, anchor, tag.as_ref());
                self.table(depth)?
            }
            Event::Alias(_) => {
                self.faults.push((line, "aliases are not taken: write the value out".to_owned()));
                Value::Null
            }
            _ => return Err((line, "a value was expected".to_owned())),
        };
        Ok(Node { origin: Origin::Line(line), value })
    }

    fn list(&mut self, depth: usize) -> Result<Value, LineFault> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn table(&mut self, depth: usize) -> Result<Value, LineFault> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let line = span.start.line();
            let key = match event {
                Event::MappingEnd => return Ok(Value::Table(entries)),
                Event::Scalar(text, _, anchor, tag) => {
                    self.refuse(line, anchor, tag.as_ref());
                    text.into_owned()
                }
                _ => return Err((line, "a field name must be plain text".to_owned())),
            };
            let (event, span) = self.next()?;
            let node = self.node(event, span, depth + 1)?;
            if entries.iter().any(|entry| entry.key == key) {
                self.faults.push((line, format!("field {key:?} stands twice")));
            } else {
                entries.push(Entry { key, origin: Origin::Line(line), node });
            }
        }
    }

    fn refuse(&mut self, line: usize, anchor: usize, tag: Option<&Cow<'_, Tag>>) {
        if anchor != 0 {
            self.faults.push((line, "anchors are not taken: write the value out where it is wanted".to_owned()));
        }
        if let Some(tag) = tag {
            self.faults.push((line, format!("the tag {tag} is not taken")));
        }
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    let plain = style == ScalarStyle::Plain;
    if plain && matches!(text, "" | "~" | "null") {
        Value::Null
    } else {
        Value::Scalar { text: text.to_owned(), plain }
    }
}

fn syntax(error: &ScanError) -> LineFault {
    (error.marker().line(), format!("not valid YAML or JSON: {}", error.info()))
}

/// Puts `value` at the dotted `path`, over what the file says there. Tables on the way are made where they lack.
pub(crate) fn set(root: &mut Node, path: &str, mut value: Node) -> Result<(), String> {
    value.origin = Origin::Override;
    let mut node = root;
    for key in path.split('.') {
        if key.is_empty() {
            return Err(format!("{path:?} is not a field name such as training.epochs"));
        }
        if matches!(node.value, Value::Null) {
            node.value = Value::Table(Vec::new());
        }
        let Value::Table(entries) = &mut node.value else {
            return Err(format!("{path:?} goes through a field that is not a group"));
        };
        let at = entries.iter().position(|entry| entry.key == key).unwrap_or_else(|| {
            let node = Node { origin: Origin::Override, value: Value::Null };
            entries.push(Entry { key: key.to_owned(), origin: Origin::Override, node });
            entries.len() - 1
        });
        node = &mut entries[at].node;
    }
    *node = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_give_the_same_tree() {
        let (yaml, none) = parse("a:\n  b: 1\n  c: [x, 'y']\n");
        assert!(none.is_empty(), "{none:?}");
        let (json, none) = parse("{\"a\": {\"b\": 1, \"c\": [\"x\", \"y\"]}}");
        assert!(none.is_empty(), "{none:?}");
        let shape = |node: &Node| format!("{:?}", node.value).replace("plain: true", "plain: false");
        let lines = |text: String| text.split("Line(").map(|part| part.trim_start_matches(char::is_numeric)).collect();
        let (yaml, json): (String, String) = (lines(shape(&yaml)), lines(shape(&json)));
        assert_eq!(yaml, json);
    }

    #[test]
    fn what_hides_a_value_is_refused_with_its_line() {
        let (_, faults) = parse("a: &x 1\nb: *x\nc: !t 2\na: 3\n");
        let lines: Vec<_> = faults.iter().map(|fault| fault.0).collect();
        assert_eq!(lines, [1, 2, 3, 4], "{faults:?}");
        assert_eq!(parse("a: 1\n---\nb: 2\n").1[0].0, 2);
        assert!(parse("a: [1, 2").1[0].1.contains("not valid YAML"));
        let deep = "[".repeat(100);
        assert!(!parse(&deep).1.is_empty());
    }

    #[test]
    fn an_empty_text_is_an_empty_table() {
        for text in ["", "\n# only a comment\n", "---\n"] {
            let (node, faults) = parse(text);
            assert!(faults.is_empty() && matches!(node.value, Value::Table(_) | Value::Null), "{text:?} {faults:?}");
        }
    }

    #[test]
    fn overrides_replace_and_add() {
        let (mut root, _) = parse("a: {b: 1}\n");
        let one = |text: &str| parse(text).0;
        assert_eq!(set(&mut root, "a.b", one("[2, 3]")), Ok(()));
        assert_eq!(set(&mut root, "c.d", one("x")), Ok(()));
        assert!(set(&mut root, "a.b.c", one("x")).is_err());
        assert!(set(&mut root, "a..c", one("x")).is_err());
        assert!(format!("{root:?}").contains("Override"));
    }
}
