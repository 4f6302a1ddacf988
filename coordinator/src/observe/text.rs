//! The two text forms that Prometheus reads: OpenMetrics where it is asked for, else the older one, which `curl` and
//! `promtool check metrics` take.

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;
use std::borrow::Cow;

/// Content type of OpenMetrics.
pub(crate) const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of the older form.
pub(crate) const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Does this `Accept` header ask for OpenMetrics?
pub(crate) fn wants_open(accept: &str) -> bool {
    accept.contains("application/openmetrics-text")
}

/// All registries as OpenMetrics, in this order.
pub(super) fn encode(registries: &[&Registry]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for registry in registries {
        encode_registry(&mut text, registry)?;
    }
    encode_eof(&mut text)?;
    Ok(text)
}

/// OpenMetrics in the older form: there a counter's head has the name of its series, and neither units nor the end are marked.
pub(crate) fn classic(open: &str) -> String {
    let counters: std::collections::BTreeSet<&str> =
        open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut text = String::with_capacity(open.len());
    for line in open.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
        text.push_str(&head(line, &counters));
        text.push('\n');
    }
    text
}

fn head<'a>(line: &'a str, counters: &std::collections::BTreeSet<&str>) -> Cow<'a, str> {
    let Some((mark, rest)) = line.split_at_checked("# TYPE ".len()) else { return line.into() };
    match rest.split_once(' ') {
        Some((name, rest)) if matches!(mark, "# TYPE " | "# HELP ") && counters.contains(name) => {
            format!("{mark}{name}_total {rest}").into()
        }
        _ => line.into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::ConstCounter;
    use prometheus_client::metrics::gauge::ConstGauge;
    use prometheus_client::registry::Unit;

    #[test]
    fn the_older_form_names_counters_as_their_series() {
        let (mut first, mut second) = (Registry::with_prefix("a"), Registry::default());
        first.register_with_unit("sent", "Bytes sent", Unit::Bytes, ConstCounter::new(3_u64));
        second.register("held", "Held", ConstGauge::new(1_i64));
        let open = encode(&[&first, &second]).unwrap();
        assert!(open.contains("# UNIT a_sent_bytes bytes\n") && open.ends_with("# EOF\n"), "{open}");
        let expected = "# HELP a_sent_bytes_total Bytes sent.\n# TYPE a_sent_bytes_total counter\na_sent_bytes_total 3\n\
                        # HELP held Held.\n# TYPE held gauge\nheld 1\n";
        assert_eq!(classic(&open), expected);
    }

    #[test]
    fn prometheus_asks_for_openmetrics_and_curl_does_not() {
        assert!(wants_open("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"));
        assert!(!wants_open("*/*"));
    }
}
