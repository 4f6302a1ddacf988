//! Where a job may run: `x-muster.required`, `preferred`, `worker_labels` and `devices`.

use super::Reader;
use crate::fields::{Field, Fields};
use crate::yaml::Value;
use types::{Constraints, Limits, PlaceLevel};

const LEVELS: [&str; 3] = ["worker", "rack", "zone"];

impl Reader<'_> {
    pub(super) fn constraints(&mut self, fields: &Fields<'_>) -> Constraints {
        Constraints {
            required: self.level(fields, "required"),
            preferred: self.level(fields, "preferred"),
            labels: self.worker_labels(fields),
            devices: self.devices(fields),
        }
    }

    fn level(&mut self, fields: &Fields<'_>, name: &str) -> Option<PlaceLevel> {
        let field = fields.get(&mut self.report, name)?;
        field.choice(&mut self.report, &LEVELS).and_then(PlaceLevel::from_name)
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
    fn devices(&mut self, fields: &Fields<'_>) -> Vec<String> {
        let Some(field) = fields.get(&mut self.report, "devices") else { return Vec::new() };
        let Value::Sequence(items) = &field.node.value else {
            return field.text(&mut self.report).map(str::to_owned).into_iter().collect();
        };
        self.at_most(&field, items.len());
        let mut names = Vec::new();
        for item in items {
            match item.scalar() {
                Some(name) if !name.text.is_empty() && name.text.len() <= Limits::CLASS_BYTES_MAX => {
                    names.push(name.text.clone());
                }
                _ => self.report.fault(
                    item.mark,
                    &field.path,
                    "must be product names of devices, such as \"NVIDIA H100\"",
                ),
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
