//! Fields of Azure ML's command job that change nothing in Muster: accepted, so that a file runs on both, with a warning.

use super::Reader;
use crate::fields::{Field, Fields};
use crate::yaml::Value;

/// Fields of the file itself that are accepted and not used.
pub(super) const TOP_LEVEL: [&str; 7] =
    ["environment", "compute", "identity", "services", "queue_settings", "properties", "parent_job_name"];

/// Fields of an environment that is written out in the job.
const ENVIRONMENT: [&str; 12] = [
    "name",
    "id",
    "description",
    "tags",
    "version",
    "auto_delete_setting",
    "build",
    "image",
    "conda_file",
    "inference_config",
    "os_type",
    "datastore",
];

const SERVICE: [&str; 6] = ["type", "port", "nodes", "properties", "ssh_public_keys", "log_dir"];

impl Reader<'_> {
    /// Checks the shape of what is not used, so that a slip is still seen, and warns that it is not.
    pub(super) fn ignored(&mut self, root: &Fields<'_>) {
        self.environment(root);
        if let Some(field) = root.get(&mut self.report, "compute")
            && field.text(&mut self.report).is_some()
        {
            field.warn(&mut self.report, "not used: the scheduler chooses the machines; see x-muster.queue");
        }
        self.mapping(root, "identity", &["type", "client_id", "object_id", "msi_resource_id"], "not used");
        self.mapping(
            root,
            "queue_settings",
            &["job_tier", "priority"],
            "not used: see x-muster.priority and x-muster.queue",
        );
        self.services(root);
        if let Some(field) = root.get(&mut self.report, "properties")
            && field.fields(&mut self.report).is_some()
        {
            field.warn(&mut self.report, "not used: tags are kept with the job");
        }
        if let Some(field) = root.get(&mut self.report, "parent_job_name")
            && field.text(&mut self.report).is_some()
        {
            field.warn(&mut self.report, "not used");
        }
    }

    fn environment(&mut self, root: &Fields<'_>) {
        let Some(field) = root.get(&mut self.report, "environment") else { return };
        if let Value::Mapping(_) = &field.node.value {
            if let Some(fields) = field.fields(&mut self.report) {
                fields.only(&mut self.report, &ENVIRONMENT);
            }
        } else if field.text(&mut self.report).is_none() {
            return;
        }
        field.warn(&mut self.report, "not used: ranks run in the environment of their worker");
    }

    fn services(&mut self, root: &Fields<'_>) {
        let Some(field) = root.get(&mut self.report, "services") else { return };
        let Some(services) = field.fields(&mut self.report) else { return };
        for service in services.all() {
            if let Some(fields) = service.fields(&mut self.report) {
                fields.only(&mut self.report, &SERVICE);
            }
        }
        field.warn(&mut self.report, "not used: Muster starts no services beside a job");
    }

    fn mapping(&mut self, root: &Fields<'_>, name: &str, known: &[&str], message: &str) {
        let Some(field) = root.get(&mut self.report, name) else { return };
        if let Some(fields) = field.fields(&mut self.report) {
            fields.only(&mut self.report, known);
            field.warn(&mut self.report, message);
        }
    }

    /// Warns about a field that is there but not used.
    pub(super) fn unused(&mut self, field: Option<Field<'_>>, message: &str) {
        if let Some(field) = field {
            field.warn(&mut self.report, message);
        }
    }
}
