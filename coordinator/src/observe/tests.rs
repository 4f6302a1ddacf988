//! What is counted, as Prometheus reads it.

use super::*;

fn text_of(observed: &Observed) -> String {
    let mut registry = Registry::with_prefix("muster");
    observed.register(&mut registry);
    text::encode(&[&registry]).unwrap()
}

#[test]
fn proposals_are_told_apart_by_outcome() {
    let observed = Observed::new();
    observed.proposal("applied");
    let text = text_of(&observed);
    assert!(text.contains("muster_proposals_total{outcome=\"applied\"} 1"), "{text}");
}

#[test]
fn every_kind_of_denial_is_there_before_the_first() {
    let observed = Observed::new();
    observed.denied(Denied::Token);
    let text = text_of(&observed);
    assert!(text.contains("muster_auth_denials_total{reason=\"token\"} 1"), "{text}");
    assert_eq!(text.matches("muster_auth_denials_total{reason=").count(), Denied::ALL.len());
}

#[test]
fn a_call_is_known_by_service_and_method() {
    let observed = Observed::new();
    observed.took("/muster.v1.Jobs/Submit", Duration::from_millis(3));
    let text = text_of(&observed);
    let series = "muster_grpc_duration_seconds_count{service=\"muster.v1.Jobs\",method=\"Submit\"} 1";
    assert!(text.contains(series), "{text}");
}

#[test]
fn what_is_waited_for_is_counted_by_kind() {
    let observed = Observed::new();
    observed.survey(&["no_capacity", "quota_used", "no_capacity"]);
    assert!(text_of(&observed).contains("muster_jobs_held_back{reason=\"no_capacity\"} 2"));
    observed.survey(&[]);
    assert!(!text_of(&observed).contains("muster_jobs_held_back{"));
}
