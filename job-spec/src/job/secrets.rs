//! `x-muster.secrets`: which secrets of the cluster the ranks get, and in which variables: `VARIABLE: NAME`, or `VARIABLE: {file: NAME}` for
//! one that holds the path of a file with the value.

use super::Reader;
use crate::fields::{Field, Fields, shorten};
use crate::yaml::Value;
use std::collections::{BTreeMap, BTreeSet};
use types::{Limits, SECRET_NAME_RULE, is_secret_name};

impl Reader<'_> {
    /// Names of secrets by variable, and which of these variables hold the path of a file.
    pub(super) fn secrets(&mut self, fields: &Fields<'_>) -> (BTreeMap<String, String>, BTreeSet<String>) {
        let (mut secrets, mut files) = (BTreeMap::new(), BTreeSet::new());
        let Some(field) = fields.get(&mut self.report, "secrets") else { return (secrets, files) };
        let Some(inner) = field.fields(&mut self.report) else { return (secrets, files) };
        let (count, most) = (inner.len(), Limits::SECRETS_OF_JOB_MAX);
        if count > most {
            field.fault(&mut self.report, format!("has {count} entries; at most {most} are allowed"));
        }
        for variable in inner.all() {
            self.check_variable_name(&variable);
            if variable.key.starts_with("MUSTER_") {
                self.report.fault(variable.key_mark, &variable.path, "variables of this name are Muster's own");
            }
            let is_file = matches!(variable.node.value, Value::Mapping(_));
            let Some(name) = (if is_file { self.in_a_file(&variable) } else { self.secret(&variable) }) else {
                continue;
            };
            secrets.insert(variable.key.to_owned(), name);
            if is_file {
                files.insert(variable.key.to_owned());
            }
        }
        (secrets, files)
    }

    /// `{file: NAME}`.
    fn in_a_file(&mut self, variable: &Field<'_>) -> Option<String> {
        let inner = variable.fields(&mut self.report)?;
        inner.only(&mut self.report, &["file"]);
        let name = inner.get(&mut self.report, "file");
        if name.is_none() {
            variable.fault(
                &mut self.report,
                "write the name of a secret, or {file: NAME} for a file with its value".to_owned(),
            );
        }
        self.secret(&name?)
    }

    fn secret(&mut self, field: &Field<'_>) -> Option<String> {
        let name = field.text(&mut self.report)?;
        if is_secret_name(name) {
            return Some(name.to_owned());
        }
        field.fault(&mut self.report, format!("{} is no name of a secret: {SECRET_NAME_RULE}", shorten(name)));
        None
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
