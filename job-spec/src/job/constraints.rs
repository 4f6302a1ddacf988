//! Where a job may run: `x-muster.required`, `preferred`, `worker_labels`, `devices`, `tolerations`, `group` and `away_from`.

use super::Reader;
use crate::fields::{Field, Fields};
use crate::yaml::Value;
use types::{Constraints, Limits, PlaceLevel};

/// What somebody writes who means yes or no.
const TRUTHS: [&str; 8] = ["true", "false", "yes", "no", "on", "off", "y", "n"];
const SPREADS: [&str; 7] = ["true", "false", "worker", "switch", "rack", "block", "zone"];

impl Reader<'_> {
    pub(super) fn constraints(&mut self, fields: &Fields<'_>) -> Constraints {
        Constraints {
            required: self.level(fields, "required"),
            preferred: self.level(fields, "preferred"),
            labels: self.worker_labels(fields),
            devices: self.names(fields, "devices", is_class, "product names of devices, such as \"NVIDIA H100\""),
            tolerations: self
                .names(fields, "tolerations", types::is_taint, "names of taints, such as only-vision")
                .into_iter()
                .collect(),
            group: self.group(fields, "group"),
            away_from: self.group(fields, "away_from"),
        }
    }

    fn group(&mut self, fields: &Fields<'_>, name: &str) -> String {
        let Some(field) = fields.get(&mut self.report, name) else { return String::new() };
        let group = field.text(&mut self.report).unwrap_or_default().to_owned();
        if !types::is_taint(&group) {
            field.fault(&mut self.report, format!("must be a name of {}", types::TAINT_RULE));
        }
        group
    }

    /// `spread`: true means by worker.
    pub(super) fn spread(&mut self, fields: &Fields<'_>) -> Option<PlaceLevel> {
        let field = fields.get(&mut self.report, "spread")?;
        let word = field.node.scalar().map(|scalar| scalar.text.to_ascii_lowercase()).unwrap_or_default();
        if TRUTHS.contains(&word.as_str()) || !word.starts_with(char::is_alphabetic) {
            return field.boolean(&mut self.report).unwrap_or(false).then_some(PlaceLevel::Worker);
        }
        field.choice(&mut self.report, &SPREADS).and_then(PlaceLevel::from_name)
    }

    fn level(&mut self, fields: &Fields<'_>, name: &str) -> Option<PlaceLevel> {
        let field = fields.get(&mut self.report, name)?;
        field.choice(&mut self.report, &PlaceLevel::NAMES).and_then(PlaceLevel::from_name)
    }

    fn worker_labels(&mut self, fields: &Fields<'_>) -> std::collections::BTreeMap<String, String> {
        let Some(field) = fields.get(&mut self.report, "worker_labels") else { return Default::default() };
        let Some(inner) = field.fields(&mut self.report) else { return Default::default() };
        self.at_most(&field, inner.len());
        let pairs = inner
            .all()
            .filter_map(|label| label.text(&mut self.report).map(|value| (label.key.to_owned(), value.to_owned())));
        pairs.collect()
    }

    /// One name, or a list of them.
    fn names(&mut self, fields: &Fields<'_>, field: &str, is_good: fn(&str) -> bool, what: &str) -> Vec<String> {
        let Some(field) = fields.get(&mut self.report, field) else { return Vec::new() };
        let items = match &field.node.value {
            Value::Sequence(items) => items.as_slice(),
            _ => std::slice::from_ref(field.node),
        };
        self.at_most(&field, items.len());
        let mut names = Vec::new();
        for item in items {
            match item.scalar().filter(|name| is_good(&name.text)) {
                Some(name) => names.push(name.text.clone()),
                None => self.report.fault(item.mark, &field.path, format!("must be {what}")),
            }
        }
        names
    }

    fn at_most(&mut self, field: &Field<'_>, count: usize) {
        if count > Limits::WISHES_MAX {
            let message = format!("has {count} entries; at most {} are allowed", Limits::WISHES_MAX);
            field.fault(&mut self.report, message);
        }
    }
}

fn is_class(name: &str) -> bool {
    !name.is_empty() && name.len() <= Limits::CLASS_BYTES_MAX
}
