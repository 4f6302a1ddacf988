//! The command job: which fields there are, what each may hold, and what Muster makes of it.
//!
//! Three kinds of fields: those that Muster uses (here, `gang`, `values`), those of Azure ML that it accepts and warns
//! about because they change nothing here (`ignored`), and those of other kinds of jobs, which are refused by name.

mod constraints;
mod gang;
mod ignored;
mod secrets;
mod texts;
mod values;

use crate::faults::{Mark, Report};
use crate::fields::Fields;
use crate::yaml::{self, Source};
use crate::{DOCUMENT_BYTES_MAX, DataInput, Draft, Faults, LocalPath};
use std::collections::BTreeMap;
use types::{Input, JobSpec, Limits, Millis};

/// Fields of a command job that Muster uses.
const USED: [&str; 16] = [
    "$schema",
    "type",
    "name",
    "display_name",
    "experiment_name",
    "description",
    "tags",
    "command",
    "code",
    "environment_variables",
    "inputs",
    "outputs",
    "resources",
    "distribution",
    "limits",
    "x-muster",
];

/// Kinds of jobs that Azure ML has and Muster has not.
const OTHER_JOBS: [&str; 7] = ["sweep", "pipeline", "parallel", "automl", "spark", "import", "finetuning"];

/// Fields that only other kinds of jobs have, and which kind that is.
const OTHER_FIELDS: [(&str, &str); 11] = [
    ("trial", "sweep"),
    ("search_space", "sweep"),
    ("sampling_algorithm", "sweep"),
    ("objective", "sweep"),
    ("early_termination", "sweep"),
    ("jobs", "pipeline"),
    ("settings", "pipeline"),
    ("component", "pipeline"),
    ("task", "parallel or automl"),
    ("input_data", "parallel"),
    ("mini_batch_size", "parallel"),
];

/// Longest `limits.timeout` in seconds: 10 years.
const TIMEOUT_SECONDS_MAX: i64 = (Limits::TIMEOUT_MS_MAX / 1_000) as i64;

/// What is read while the tree is walked.
pub(crate) struct Reader<'a> {
    pub(crate) report: Report,
    pub(crate) source: Source<'a>,
}

/// All that can be made of a file: its faults, and the draft as far as it could be read, which counts only if there are none.
pub(crate) fn read(text: &str, file: &str) -> (Option<Draft>, Report) {
    let mut report = Report::new(file);
    if text.len() > DOCUMENT_BYTES_MAX {
        report.fault(Mark::START, "", format!("the file has {} bytes, more than {DOCUMENT_BYTES_MAX}", text.len()));
        return (None, report);
    }
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let root = yaml::compose(text, &mut report);
    let mut reader = Reader { report, source: Source::new(text) };
    let draft = root.and_then(|root| {
        let fields = Fields::open(&mut reader.report, "", root.mark, &root)?;
        reader.job(&fields, file)
    });
    (draft, reader.report)
}

/// The draft, or every fault.
pub(crate) fn conclude((draft, mut report): (Option<Draft>, Report)) -> Result<Draft, Faults> {
    match draft {
        Some(draft) if report.is_sound() => Ok(Draft { warnings: report.into_warnings(), ..draft }),
        _ => {
            if report.is_sound() {
                report.fault(Mark::START, "", "the file cannot be read as a job");
            }
            Err(report.into_faults())
        }
    }
}

impl Reader<'_> {
    /// Reads everything, so that all faults are seen; the draft counts only if there was none.
    fn job(&mut self, root: &Fields<'_>, file: &str) -> Option<Draft> {
        if !self.is_command_job(root) {
            return None;
        }
        self.unknown_fields(root);
        self.ignored(root);
        let name = self.label(root, "name");
        let display_name = self.label(root, "display_name");
        let experiment_name = self.label(root, "experiment_name").unwrap_or_default();
        let description = self.description(root);
        let tags = self.tags(root);
        let (inputs, data) = self.inputs(root);
        let outputs = self.outputs(root);
        let code = self.code(root);
        let command = self.command(root);
        let environment_variables = self.environment_variables(root);
        self.expressions(root, |name| inputs.contains_key(name) || data.contains_key(name), &outputs);
        let timeout = self.timeout(root);
        let (gang, extras) = self.gang(root);
        self.one_source(root, &environment_variables);
        let spec = JobSpec {
            workspace: extras.workspace,
            display_name: display_name.or(name).unwrap_or_default(),
            experiment_name,
            description,
            tags,
            command: command.unwrap_or_default(),
            code: None,
            environment_variables,
            secrets: extras.secrets,
            secret_files: extras.secret_files,
            inputs,
            outputs,
            gang,
            timeout,
            grace: extras.grace,
            priority: extras.priority,
            queue: extras.queue,
            restart: extras.restart,
            constraints: extras.constraints,
            preemptible: extras.preemptible,
            estimate: extras.estimate,
            keep_telemetry: extras.keep_telemetry,
        };
        self.check_size(&spec, &data);
        Some(Draft { file: file.to_owned(), spec, code, data, warnings: Vec::new() })
    }

    fn is_command_job(&mut self, root: &Fields<'_>) -> bool {
        let Some(field) = root.get(&mut self.report, "type") else { return true };
        let text = field.node.scalar().map(|scalar| scalar.text.to_ascii_lowercase());
        let other = text.and_then(|text| OTHER_JOBS.iter().find(|job| **job == text));
        if let Some(job) = other {
            // The other fields of such a job would only bring noise.
            field.fault(&mut self.report, format!("{job} jobs are not supported: Muster runs command jobs"));
            return false;
        }
        field.choice(&mut self.report, &["command"]);
        true
    }

    fn unknown_fields(&mut self, root: &Fields<'_>) {
        let mut known: Vec<&str> = USED.into_iter().chain(ignored::TOP_LEVEL).collect();
        for (name, job) in OTHER_FIELDS {
            if let Some(field) = root.get_nullable(name) {
                let message = format!("belongs to {job} jobs: Muster runs command jobs");
                self.report.fault(field.key_mark, &field.path, message);
                known.push(name);
            }
        }
        let others: Vec<&str> = OTHER_FIELDS.iter().map(|(name, _)| *name).collect();
        known.retain(|name| !others.contains(name) || root.get_nullable(name).is_some());
        root.only(&mut self.report, &known);
    }

    fn code(&mut self, root: &Fields<'_>) -> Option<LocalPath> {
        let field = root.get(&mut self.report, "code")?;
        self.local_path(&field, "code must be a local folder")
    }

    fn timeout(&mut self, root: &Fields<'_>) -> Option<Millis> {
        let limits = root.get(&mut self.report, "limits")?.fields(&mut self.report)?;
        limits.only(&mut self.report, &["timeout"]);
        let seconds = limits.get(&mut self.report, "timeout")?.integer(&mut self.report, 1..=TIMEOUT_SECONDS_MAX)?;
        Some(Millis(u64::try_from(seconds).ok()?.checked_mul(1_000)?))
    }

    /// The whole must fit into one entry of the log; hashes and the git state, which come later, are counted in.
    fn check_size(&mut self, spec: &JobSpec, data: &BTreeMap<String, DataInput>) {
        const FIXED: usize = 1_024;
        const EACH: usize = 64;
        let pairs = |map: &BTreeMap<String, String>| map.iter().map(|(k, v)| k.len() + v.len() + EACH).sum::<usize>();
        let literal = |input: &Input| if let Input::Literal(text) = input { text.len() } else { 0 };
        let bytes = FIXED
            + [&spec.display_name, &spec.experiment_name, &spec.description, &spec.command]
                .map(String::len)
                .iter()
                .sum::<usize>()
            + pairs(&spec.tags)
            + pairs(&spec.environment_variables)
            + pairs(&spec.secrets)
            + spec.inputs.iter().map(|(name, input)| name.len() + literal(input) + EACH).sum::<usize>()
            + spec.outputs.iter().map(|(name, output)| name.len() + output.description.len() + EACH).sum::<usize>()
            + data.iter().map(|(name, input)| name.len() + input.path.written.len() + EACH).sum::<usize>();
        if bytes > Limits::SPEC_BYTES_MAX {
            let message = format!(
                "the job takes about {bytes} bytes, more than {}: move long texts into the code folder",
                Limits::SPEC_BYTES_MAX
            );
            self.report.fault(Mark::START, "", message);
        }
    }
}
