//! Texts of a job: names, description, tags, command, environment variables, and the expressions in them.

use super::Reader;
use crate::distance::nearest;
use crate::expression::{self, Kind};
use crate::faults::Mark;
use crate::fields::{Field, Fields, shorten};
use crate::yaml::surprises_yaml_1_1;
use std::collections::BTreeMap;
use types::{Limits, Output};

/// Longest name of a job, experiment, tag or variable, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// Longest description in bytes.
const DESCRIPTION_BYTES_MAX: usize = 8 * 1024;

/// What the worker sets for each rank (after `MUSTER_`): a job's own value would be lost or would lead a rank astray.
const RESERVED: [&str; 15] = [
    "JOB_ID",
    "ATTEMPT",
    "TOKEN",
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "WORKER",
    "MANIFEST",
    "LISTEN_FD",
    "METRICS",
    "METRICS_FD",
    "CHECKPOINT_DIR",
    "RESUME_FROM",
];

impl Reader<'_> {
    /// A one-line text for tables.
    pub(super) fn label(&mut self, root: &Fields<'_>, name: &str) -> Option<String> {
        let field = root.get(&mut self.report, name)?;
        let text = field.text(&mut self.report)?;
        if text.trim().is_empty() || text.len() > NAME_BYTES_MAX {
            field.fault(&mut self.report, format!("must have 1 to {NAME_BYTES_MAX} bytes"));
        } else if text.chars().any(char::is_control) {
            field.fault(&mut self.report, "must be one line without control characters");
        }
        Some(text.to_owned())
    }

    /// Free text of several lines.
    pub(super) fn description(&mut self, fields: &Fields<'_>) -> String {
        let Some(field) = fields.get(&mut self.report, "description") else { return String::new() };
        let text = field.text(&mut self.report).unwrap_or_default();
        if text.len() > DESCRIPTION_BYTES_MAX {
            let message = format!("has {} bytes, more than {DESCRIPTION_BYTES_MAX}", text.len());
            field.fault(&mut self.report, message);
        } else if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
            field.fault(&mut self.report, "has control characters");
        }
        text.to_owned()
    }

    pub(super) fn tags(&mut self, root: &Fields<'_>) -> BTreeMap<String, String> {
        let mut tags = BTreeMap::new();
        let Some(fields) = self.entries(root, "tags") else { return tags };
        for field in fields.all() {
            // Azure ML lets a tag be just a name.
            let value = if field.node.is_null() { Some("") } else { field.text(&mut self.report) };
            let clean = |text: &str| !text.chars().any(char::is_control) && text.len() <= NAME_BYTES_MAX;
            match value {
                Some(value) if clean(value) && clean(field.key) && !field.key.is_empty() => {
                    tags.insert(field.key.to_owned(), value.to_owned());
                }
                Some(_) => field.fault(
                    &mut self.report,
                    format!("a tag and its value must each be one line of at most {NAME_BYTES_MAX} bytes"),
                ),
                None => {}
            }
        }
        tags
    }

    pub(super) fn command(&mut self, root: &Fields<'_>) -> Option<String> {
        let field = root.required(&mut self.report, "command")?;
        let text = field.text(&mut self.report)?;
        if text.trim().is_empty() {
            field.fault(&mut self.report, "is empty");
        } else if text.len() > Limits::COMMAND_BYTES_MAX {
            let message =
                format!("has {} bytes, more than {}: put it into a script", text.len(), Limits::COMMAND_BYTES_MAX);
            field.fault(&mut self.report, message);
        } else if text.contains('\0') {
            field.fault(&mut self.report, "contains a NUL character");
        }
        if text.contains("$[[") {
            field.warn(&mut self.report, "$[[ ]] has no meaning in a command job and is left as it is");
        }
        Some(text.to_owned())
    }

    /// Values are kept as written: `1`, `1e3`, `true` and `"x"` all become their text.
    pub(super) fn environment_variables(&mut self, root: &Fields<'_>) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::new();
        let Some(fields) = self.entries(root, "environment_variables") else { return variables };
        for field in fields.all() {
            self.check_variable_name(&field);
            if field.node.is_null() {
                field.fault_null(&mut self.report);
            } else if let Some(text) = field.text(&mut self.report) {
                if text.contains('\0') {
                    field.fault(&mut self.report, "contains a NUL character");
                }
                self.warn_ambiguous(&field);
                variables.insert(field.key.to_owned(), text.to_owned());
            }
        }
        variables
    }

    pub(super) fn check_variable_name(&mut self, field: &Field<'_>) {
        let name = field.key;
        let bad = |c: char| c.is_control() || c.is_whitespace() || c == '=';
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(bad) {
            self.report.fault(field.key_mark, &field.path, format!("{} cannot name a variable", shorten(name)));
        }
        let reserved = name
            .strip_prefix("MUSTER_")
            .is_some_and(|rest| RESERVED.contains(&rest) || rest.starts_with("INPUT_") || rest.starts_with("OUTPUT_"));
        if reserved {
            self.report.fault(field.key_mark, &field.path, "is set by Muster for each rank and cannot be chosen");
        }
    }

    /// Azure ML reads YAML 1.1, where more unquoted words are booleans and numbers.
    pub(super) fn warn_ambiguous(&mut self, field: &Field<'_>) {
        if let Some(scalar) = field.node.scalar()
            && scalar.plain
            && surprises_yaml_1_1(&scalar.text)
        {
            let message = format!("{} is taken as it is written; Azure ML reads it otherwise: quote it", field.shown());
            self.report.warn(field.node.mark, &field.path, message);
        }
    }

    /// Checks each `${{...}}` in the command and the variables against the declared names.
    pub(super) fn expressions(
        &mut self,
        root: &Fields<'_>,
        input: impl Fn(&str) -> bool,
        outputs: &BTreeMap<String, Output>,
    ) {
        let variables = root.get_nullable("environment_variables");
        let variables = variables.as_ref().and_then(|field| match &field.node.value {
            crate::yaml::Value::Mapping(_) => field.fields(&mut self.report),
            _ => None,
        });
        let places = root.get_nullable("command").into_iter().chain(variables.iter().flat_map(Fields::all));
        for field in places.collect::<Vec<_>>() {
            let Some(scalar) = field.node.scalar() else { continue };
            for (n, found) in expression::find(&scalar.text).into_iter().enumerate() {
                let fault = match found.target {
                    Err(reason) => Some((reason, None)),
                    Ok((Kind::Input, name)) if input(name) => None,
                    Ok((Kind::Output, name)) if outputs.contains_key(name) => None,
                    Ok((kind, name)) => Some(Self::undeclared(kind, name, root)),
                };
                if let Some((message, meant)) = fault {
                    let mark = self.source.nth(scalar.span, "${{", n).unwrap_or(field.node.mark);
                    self.report.fault_with(mark, &field.path, message, meant);
                }
            }
        }
    }

    fn undeclared(kind: Kind, name: &str, root: &Fields<'_>) -> (String, Option<String>) {
        let declared = |kind: Kind| -> Vec<String> {
            let field = root.get_nullable(kind.word());
            match field.as_ref().map(|field| &field.node.value) {
                Some(crate::yaml::Value::Mapping(entries)) => entries.iter().map(|entry| entry.key.clone()).collect(),
                _ => Vec::new(),
            }
        };
        let other = if kind == Kind::Input { Kind::Output } else { Kind::Input };
        let meant = if declared(other).iter().any(|declared| declared == name) {
            Some(format!("{}.{name}", other.word()))
        } else {
            let names = declared(kind);
            nearest(name, names.iter().map(String::as_str)).map(|near| format!("{}.{near}", kind.word()))
        };
        (format!("the job has no {} named {name:?}", kind.word()), meant)
    }

    /// Opens a mapping of named things and bounds their number.
    pub(super) fn entries<'n>(&mut self, root: &Fields<'n>, name: &str) -> Option<Fields<'n>> {
        let field = root.get(&mut self.report, name)?;
        let fields = field.fields(&mut self.report)?;
        if fields.len() > Limits::MAP_ENTRIES_MAX {
            let message = format!("has {} entries, more than {}", fields.len(), Limits::MAP_ENTRIES_MAX);
            field.fault(&mut self.report, message);
        }
        Some(fields)
    }

    /// The place of a field's name, for faults about what is missing in it.
    pub(super) fn place(field: &Field<'_>) -> Mark {
        field.key_mark
    }
}
