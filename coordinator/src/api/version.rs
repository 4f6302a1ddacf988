//! Which clients are served: those of the same major version, and those that do not say theirs.

use tonic::{Request, Status};

const HEADER: &str = "muster-client-version";
const OWN: &str = env!("CARGO_PKG_VERSION");

/// Lets a call through, or refuses it in words that say what to do.
pub(crate) fn check(request: Request<()>) -> Result<Request<()>, Status> {
    let Some(version) = request.metadata().get(HEADER) else { return Ok(request) };
    let version = version.to_str().unwrap_or_default();
    if major(version).is_some() && major(version) == major(OWN) {
        return Ok(request);
    }
    let text =
        format!("a client of version {version:?} cannot be served by version {OWN}: use one of the same major version");
    Err(Status::failed_precondition(text))
}

fn major(version: &str) -> Option<u64> {
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn served(version: Option<&str>) -> bool {
        let mut request = Request::new(());
        if let Some(version) = version {
            request.metadata_mut().insert(HEADER, version.parse().unwrap());
        }
        check(request).is_ok()
    }

    #[test]
    fn only_another_major_version_is_refused() {
        assert!(served(None) && served(Some(OWN)));
        let next = major(OWN).unwrap() + 1;
        assert!(!served(Some(&format!("{next}.0.0"))) && !served(Some("new")));
    }
}
