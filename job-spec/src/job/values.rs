//! Inputs (literals, local files and folders) and outputs (folders) of a job.

use super::Reader;
use crate::expression::{NAME_BYTES_MAX, is_name};
use crate::fields::{Field, Fields};
use crate::yaml::{Core, Value};
use crate::{DataInput, LocalPath};
use std::collections::BTreeMap;
use types::{Input, InputKind, Output};

/// Longest path in a job file in bytes.
const PATH_BYTES_MAX: usize = 4_096;

const DATA_TYPES: [&str; 6] = ["uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model", "triton_model"];
const LITERAL_TYPES: [&str; 4] = ["string", "number", "integer", "boolean"];
const INPUT_MODES: [&str; 5] = ["ro_mount", "download", "direct", "eval_mount", "eval_download"];
const OUTPUT_MODES: [&str; 4] = ["rw_mount", "mount", "upload", "direct"];

/// Beginnings of places that are not on this machine.
const REMOTE: [&str; 14] = [
    "azureml:", "http:", "https:", "wasb:", "wasbs:", "abfs:", "abfss:", "adl:", "runs:", "s3:", "gs:", "hdfs:",
    "git+", "git:",
];

impl Reader<'_> {
    /// Literals, and what is to be uploaded.
    pub(super) fn inputs(&mut self, root: &Fields<'_>) -> (BTreeMap<String, Input>, BTreeMap<String, DataInput>) {
        let (mut literals, mut data) = (BTreeMap::new(), BTreeMap::new());
        let Some(fields) = self.entries(root, "inputs") else { return (literals, data) };
        self.names_differ(&fields, "MUSTER_INPUT_");
        for field in fields.all() {
            if let Value::Mapping(_) = &field.node.value {
                match self.typed_input(&field) {
                    Some(TypedInput::Literal(text)) => _ = literals.insert(field.key.to_owned(), Input::Literal(text)),
                    Some(TypedInput::Data(input)) => _ = data.insert(field.key.to_owned(), input),
                    // Faulty, but declared: an expression that names it is not a second fault.
                    None => _ = literals.insert(field.key.to_owned(), Input::Literal(String::new())),
                }
            } else {
                let text = self.literal(&field).unwrap_or_default();
                literals.insert(field.key.to_owned(), Input::Literal(text));
            }
        }
        (literals, data)
    }

    fn literal(&mut self, field: &Field<'_>) -> Option<String> {
        if field.node.is_null() {
            field.fault_null(&mut self.report);
            return None;
        }
        let text = field.text(&mut self.report)?;
        if text.contains('\0') {
            field.fault(&mut self.report, "contains a NUL character");
        }
        self.warn_ambiguous(field);
        Some(text.to_owned())
    }

    fn typed_input(&mut self, field: &Field<'_>) -> Option<TypedInput> {
        let fields = field.fields(&mut self.report)?;
        let all: Vec<&'static str> = DATA_TYPES.into_iter().chain(LITERAL_TYPES).collect();
        let kind = match fields.get_nullable("type") {
            Some(_) => fields.get(&mut self.report, "type")?.choice(&mut self.report, &all)?,
            None if fields.get_nullable("value").is_some() => "string",
            None => "uri_folder",
        };
        if LITERAL_TYPES.contains(&kind) {
            self.typed_literal(&fields, kind).map(TypedInput::Literal)
        } else {
            self.data_input(&fields, kind).map(TypedInput::Data)
        }
    }

    fn typed_literal(&mut self, fields: &Fields<'_>, kind: &str) -> Option<String> {
        fields.only(&mut self.report, &["type", "value", "default", "description"]);
        let value = match fields.get_nullable("value") {
            Some(value) => value,
            None => match fields.get_nullable("default") {
                Some(default) => default,
                None => fields.required(&mut self.report, "value")?,
            },
        };
        let text = self.literal(&value)?;
        let core = Core::of(&text);
        let fits = match kind {
            "number" => matches!(core, Core::Integer | Core::Float),
            "integer" => core == Core::Integer,
            "boolean" => core == Core::Boolean,
            _ => true,
        };
        if !fits {
            value.fault(&mut self.report, format!("{} does not fit the type {kind}", value.shown()));
            return None;
        }
        Some(text)
    }

    fn data_input(&mut self, fields: &Fields<'_>, kind: &str) -> Option<DataInput> {
        fields.only(&mut self.report, &["type", "path", "mode", "path_on_compute", "datastore", "description"]);
        if let Some(mode) = fields.get(&mut self.report, "mode")
            && mode.choice(&mut self.report, &INPUT_MODES).is_some_and(|mode| !matches!(mode, "ro_mount" | "download"))
        {
            mode.warn(&mut self.report, "not used: each rank gets a local copy");
        }
        self.unused(fields.get_nullable("path_on_compute"), "not used: the command gets the path by ${{inputs.NAME}}");
        self.unused(fields.get_nullable("datastore"), "not used: inputs are kept in the cluster");
        let path = fields.required(&mut self.report, "path");
        let path = path.and_then(|path| self.local_path(&path, "path must be a local file or folder"));
        let kind = match kind {
            "uri_file" => InputKind::File,
            "uri_folder" => InputKind::Folder,
            other => {
                let field = fields.get_nullable("type")?;
                field.fault(&mut self.report, format!("{other} inputs are not supported: use uri_file or uri_folder"));
                return None;
            }
        };
        Some(DataInput { kind, path: path? })
    }

    /// A path on this machine; other places are refused by name.
    pub(super) fn local_path(&mut self, field: &Field<'_>, must: &str) -> Option<LocalPath> {
        let text = field.text(&mut self.report)?;
        let lower = text.to_ascii_lowercase();
        if let Some(scheme) = REMOTE.iter().find(|scheme| lower.starts_with(**scheme)) {
            field.fault(&mut self.report, format!("{must}: {scheme} is not supported"));
            return None;
        }
        let written = match lower.strip_prefix("file:") {
            Some(_) => text.get("file:".len()..).unwrap_or_default(),
            None => text,
        };
        let written = written.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(written);
        if written.trim().is_empty() {
            field.fault(&mut self.report, format!("{must}, but is empty"));
        } else if written.len() > PATH_BYTES_MAX || written.chars().any(char::is_control) {
            field.fault(
                &mut self.report,
                format!("{must} of at most {PATH_BYTES_MAX} bytes without control characters"),
            );
        } else if written.contains("${{") {
            field.fault(&mut self.report, format!("{must}: expressions are for the command and environment_variables"));
        } else {
            let (line, column) = (field.node.mark.line, field.node.mark.column);
            return Some(LocalPath { written: written.to_owned(), field: field.path.clone(), line, column });
        }
        None
    }

    /// By name; each becomes a folder.
    pub(super) fn outputs(&mut self, root: &Fields<'_>) -> BTreeMap<String, Output> {
        let mut outputs = BTreeMap::new();
        let Some(fields) = self.entries(root, "outputs") else { return outputs };
        self.names_differ(&fields, "MUSTER_OUTPUT_");
        for field in fields.all() {
            // Azure ML lets an output be just a name.
            let output = if field.node.is_null() { Output::default() } else { self.output(&field) };
            outputs.insert(field.key.to_owned(), output);
        }
        outputs
    }

    fn output(&mut self, field: &Field<'_>) -> Output {
        let Some(fields) = field.fields(&mut self.report) else { return Output::default() };
        fields.only(&mut self.report, &["type", "mode", "path", "name", "version", "description"]);
        if let Some(kind) = fields.get(&mut self.report, "type")
            && kind.choice(&mut self.report, &DATA_TYPES).is_some_and(|kind| kind != "uri_folder")
        {
            kind.warn(&mut self.report, "each output is a folder here: the command writes into ${{outputs.NAME}}");
        }
        if let Some(mode) = fields.get(&mut self.report, "mode") {
            mode.choice(&mut self.report, &OUTPUT_MODES);
        }
        self.unused(fields.get_nullable("path"), "not used: outputs are kept in the cluster");
        let not_registered = "not used: outputs are not registered as assets";
        self.unused(fields.get_nullable("name"), not_registered);
        self.unused(fields.get_nullable("version"), not_registered);
        Output { description: self.description(&fields) }
    }

    /// Names become parts of variables in upper case, so two that differ in case only would be one.
    fn names_differ(&mut self, fields: &Fields<'_>, prefix: &str) {
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for field in fields.all() {
            if !is_name(field.key) {
                let rule = format!(
                    "must be named with 1 to {NAME_BYTES_MAX} letters, digits and _, and not begin with a digit"
                );
                self.report.fault(field.key_mark, &field.path, rule);
            } else if let Some(first) = seen.insert(field.key.to_ascii_uppercase(), field.key.to_owned()) {
                let variable = format!("{prefix}{}", field.key.to_ascii_uppercase());
                self.report.fault(field.key_mark, &field.path, format!("shares the variable {variable} with {first}"));
            }
        }
    }
}

enum TypedInput {
    Literal(String),
    Data(DataInput),
}
