//! From an error to one text on stderr and one exit code; the codes are documented in `docs/cli.md` and stay.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use types::JobPhase;

/// What the shell is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0
    Success,
    /// 1: anything that has no code of its own.
    Error,
    /// 2: wrong usage, or a job or value that is not valid.
    BadInput,
    /// 3: no such job, worker, member, output or context.
    NotFound,
    /// 4: no coordinator reachable, or none that could serve.
    NoCluster,
    /// 5: not allowed, or not known, to the cluster.
    Denied,
    /// 10: the followed job failed.
    JobFailed,
    /// 11: the followed job was cancelled.
    JobCanceled,
    /// 12: the reproduced job differs.
    Different,
    /// 130: interrupted from the keyboard.
    Interrupted,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Error => 1,
            Exit::BadInput => 2,
            Exit::NotFound => 3,
            Exit::NoCluster => 4,
            Exit::Denied => 5,
            Exit::JobFailed => 10,
            Exit::JobCanceled => 11,
            Exit::Different => 12,
            Exit::Interrupted => 130,
        }
    }

    /// A followed job's end is the command's end.
    pub fn of_phase(phase: &str) -> Exit {
        match JobPhase::from_name(phase) {
            Some(JobPhase::Completed) => Exit::Success,
            Some(JobPhase::Canceled) => Exit::JobCanceled,
            Some(JobPhase::Failed) => Exit::JobFailed,
            _ => Exit::Error,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// An error that carries its own exit code.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// What the shell is told.
    pub exit: Exit,
    /// What a person is told.
    pub text: String,
}

/// The input is at fault: exit code 2.
pub fn bad_input(text: impl Into<String>) -> anyhow::Error {
    Failure { exit: Exit::BadInput, text: text.into() }.into()
}

/// There is no such thing: exit code 3.
pub fn not_found(text: impl Into<String>) -> anyhow::Error {
    Failure { exit: Exit::NotFound, text: text.into() }.into()
}

/// The exit code of an error.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.exit;
        }
        if let Some(failure) = cause.downcast_ref::<client::Error>() {
            return match failure {
                client::Error::NoCoordinator { .. }
                | client::Error::NotServed { .. }
                | client::Error::NoToken { .. } => Exit::NoCluster,
                client::Error::Denied(_) => Exit::Denied,
                client::Error::NotFound(_) => Exit::NotFound,
                client::Error::Invalid(_) => Exit::BadInput,
                _ => Exit::Error,
            };
        }
    }
    Exit::Error
}

/// Did the reader of our output go away? Then there is nobody to tell.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// Prints the error once, with its causes and, where one is known, what to do.
pub fn print(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "{}", text(error));
}

fn text(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error:#}");
    let no_cluster =
        error.chain().any(|cause| matches!(cause.downcast_ref(), Some(client::Error::NoCoordinator { .. })));
    if no_cluster {
        let _ = write!(
            text,
            "\nhint: is a cluster running? `muster demo --keep` starts one here; `--coordinators HOST:PORT,..` or \
             `--context NAME` names another"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_as_documented() {
        let codes = [
            (Exit::Success, 0),
            (Exit::Error, 1),
            (Exit::BadInput, 2),
            (Exit::NotFound, 3),
            (Exit::NoCluster, 4),
            (Exit::JobFailed, 10),
            (Exit::JobCanceled, 11),
            (Exit::Different, 12),
            (Exit::Interrupted, 130),
        ];
        assert!(codes.iter().all(|(exit, code)| exit.code() == *code));
    }

    #[test]
    fn a_jobs_end_is_the_commands_end() {
        assert_eq!(Exit::of_phase("Completed"), Exit::Success);
        assert_eq!(Exit::of_phase("Failed"), Exit::JobFailed);
        assert_eq!(Exit::of_phase("Canceled"), Exit::JobCanceled);
        assert_eq!(Exit::of_phase("Running"), Exit::Error);
    }

    #[test]
    fn errors_find_their_code_through_context() {
        let error = anyhow::Error::from(client::Error::NotFound("no job 7".into())).context("cannot show it");
        assert_eq!(exit_of(&error), Exit::NotFound);
        assert_eq!(exit_of(&bad_input("x").context("y")), Exit::BadInput);
        let unreachable = anyhow::Error::from(client::Error::NoCoordinator { tried: vec![] });
        assert_eq!(exit_of(&unreachable), Exit::NoCluster);
        assert!(text(&unreachable).contains("muster demo --keep"));
        assert_eq!(exit_of(&anyhow::anyhow!("other")), Exit::Error);
    }

    #[test]
    fn a_reader_that_left_is_recognised() {
        let io = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&anyhow::Error::from(io).context("printing")));
        assert!(!is_broken_pipe(&anyhow::anyhow!("broken pipe")));
    }
}
