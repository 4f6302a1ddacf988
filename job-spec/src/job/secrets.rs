//! `x-muster.secrets`: which secrets of the cluster the ranks get, and in which variables.

use super::Reader;
use crate::fields::{Fields, shorten};
use crate::yaml::Value;
use std::collections::BTreeMap;
use types::{Limits, SECRET_NAME_RULE, is_secret_name};

impl Reader<'_> {
    /// Names of secrets by variable.
    pub(super) fn secrets(&mut self, fields: &Fields<'_>) -> BTreeMap<String, String> {
        let mut secrets = BTreeMap::new();
        let Some(field) = fields.get(&mut self.report, "secrets") else { return secrets };
        let Some(inner) = field.fields(&mut self.report) else { return secrets };
        let (count, most) = (inner.len(), Limits::SECRETS_OF_JOB_MAX);
        if count > most {
            field.fault(&mut self.report, format!("has {count} entries; at most {most} are allowed"));
        }
        for variable in inner.all() {
            self.check_variable_name(&variable);
            if variable.key.starts_with("MUSTER_") {
                self.report.fault(variable.key_mark, &variable.path, "variables of this name are Muster's own");
            }
            match variable.text(&mut self.report) {
                Some(name) if is_secret_name(name) => _ = secrets.insert(variable.key.to_owned(), name.to_owned()),
                Some(name) => {
                    let message = format!("{} is no name of a secret: {SECRET_NAME_RULE}", shorten(name));
                    variable.fault(&mut self.report, message);
                }
                None => {}
            }
        }
        secrets
    }

    /// A variable has one source.
    pub(super) fn one_source(&mut self, root: &Fields<'_>, variables: &BTreeMap<String, String>) {
        let extras = root.get_nullable("x-muster").filter(|extras| matches!(extras.node.value, Value::Mapping(_)));
        let Some(extras) = extras.and_then(|extras| extras.fields(&mut self.report)) else { return };
        let secrets = extras.get_nullable("secrets").filter(|field| matches!(field.node.value, Value::Mapping(_)));
        let Some(secrets) = secrets.and_then(|secrets| secrets.fields(&mut self.report)) else { return };
        for field in secrets.all().filter(|field| variables.contains_key(field.key)) {
            self.report.fault(field.key_mark, &field.path, "is among the environment_variables too");
        }
    }
}
