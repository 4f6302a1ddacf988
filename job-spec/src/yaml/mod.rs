//! YAML as a tree of nodes that know their place: one document, aliases expanded within bounds, keys unique.

mod compose;
mod scalar;
mod source;

pub(crate) use compose::compose;
pub(crate) use scalar::{Core, surprises_yaml_1_1};
pub(crate) use source::{Source, mark_after};

use crate::faults::Mark;

/// A value and where it starts. Of an alias: where the alias stands; its inner nodes keep their own places.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// First character.
    pub(crate) mark: Mark,
    /// What it is.
    pub(crate) value: Value,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Anything but a list or mapping.
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<Node>),
    /// A mapping, in file order, without duplicates.
    Mapping(Vec<Entry>),
}

/// A scalar as written.
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    /// The text after unquoting.
    pub(crate) text: String,
    /// What YAML 1.2's core schema takes it for.
    pub(crate) core: Core,
    /// False when it was quoted or a block.
    pub(crate) plain: bool,
    /// First character and the one after the last, in the source (of an alias: of what it stands for).
    pub(crate) span: (Mark, Mark),
}

/// One line of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its text; keys are text whatever they look like.
    pub(crate) key: String,
    /// Where the key starts.
    pub(crate) mark: Mark,
    /// Its value.
    pub(crate) node: Node,
}

impl Node {
    /// The scalar, if it is one.
    pub(crate) fn scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// True for `null`, `~` and nothing at all.
    pub(crate) fn is_null(&self) -> bool {
        self.scalar().is_some_and(|scalar| scalar.core == Core::Null)
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
            Value::Scalar(scalar) => match scalar.core {
                Core::Null => "nothing",
                Core::Boolean => "a boolean",
                Core::Integer => "a whole number",
                Core::Float => "a number",
                Core::Text => "text",
            },
        }
    }
}
