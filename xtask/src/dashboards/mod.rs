//! The Grafana dashboards of `deploy/grafana`, made from tables in Rust, so that all follow the same conventions: a data source,
//! job and instance to choose, a description and a unit on every panel, links between them, nothing of one Grafana's own.
//!
//! In an expression `%` stands for the matchers of job and instance.

mod cluster;
mod machines;

use serde_json::{Value, json};

/// Where they lie, from the root of the repository.
pub const FOLDER: &str = "deploy/grafana";

/// Matchers that every expression has.
const MATCHERS: &str = r#"job=~"$job",instance=~"$instance""#;
/// Columns of a dashboard, and the size of a panel: two stand side by side.
const COLUMNS: usize = 24;
const WIDTH: usize = 12;
const HEIGHT: usize = 8;

/// One dashboard.
pub struct Dashboard {
    /// Of its file and its address.
    pub name: &'static str,
    pub title: &'static str,
    pub panels: &'static [Panel],
}

/// One picture of curves.
pub struct Panel {
    pub title: &'static str,
    /// What to read from it, and what to do.
    pub description: &'static str,
    /// As Grafana names units.
    pub unit: &'static str,
    pub curves: &'static [Curve],
}

/// An expression, and what its curves are called.
pub struct Curve(pub &'static str, pub &'static str);

/// All of them.
pub fn all() -> [&'static Dashboard; 6] {
    [&cluster::OVERVIEW, &cluster::QUEUES, &cluster::RAFT, &cluster::TELEMETRY, &machines::GANGS, &machines::WORKERS]
}

/// Path and text of each file.
pub fn files() -> impl Iterator<Item = (String, Value)> {
    all().into_iter().map(|dashboard| (format!("{FOLDER}/{}.json", dashboard.name), render(dashboard)))
}

fn render(dashboard: &Dashboard) -> Value {
    let panels: Vec<Value> = dashboard.panels.iter().enumerate().map(|(place, one)| panel(one, place)).collect();
    json!({
        "uid": dashboard.name,
        "title": dashboard.title,
        "tags": ["muster"],
        "schemaVersion": 38,
        "editable": false,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [{
            "title": "Muster", "type": "dashboards", "tags": ["muster"], "asDropdown": true, "includeVars": true,
            "keepTime": true,
        }],
        "templating": {"list": [
            {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
            choice("job", "label_values(up{job=~\"muster.*\"}, job)"),
            choice("instance", "label_values(up{job=~\"$job\"}, instance)"),
            choice("worker", "label_values(muster_worker_info{job=~\"$job\"}, worker)"),
        ]},
        "panels": panels,
    })
}

fn source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// A variable whose values Prometheus knows; all of them at first.
fn choice(name: &str, query: &str) -> Value {
    json!({
        "name": name, "label": name, "type": "query", "datasource": source(), "query": query, "refresh": 2,
        "includeAll": true, "multi": true, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
    })
}

fn panel(panel: &Panel, place: usize) -> Value {
    let letters = 'A'..='Z';
    let targets = panel.curves.iter().zip(letters).map(|(Curve(expression, legend), letter)| {
        json!({
            "refId": letter.to_string(), "datasource": source(), "expr": expression.replace('%', MATCHERS),
            "legendFormat": legend,
        })
    });
    json!({
        "id": place + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": source(),
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": place * WIDTH % COLUMNS, "y": place * WIDTH / COLUMNS * HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn dashboards_have_names_of_their_own_and_panels_within_one_dashboard_too() {
        let names: BTreeSet<&str> = all().iter().map(|one| one.name).collect();
        assert_eq!(names.len(), all().len());
        for dashboard in all() {
            let titles: BTreeSet<&str> = dashboard.panels.iter().map(|panel| panel.title).collect();
            assert_eq!(titles.len(), dashboard.panels.len(), "{}", dashboard.name);
        }
    }

    #[test]
    fn every_panel_says_what_it_shows_in_which_unit() {
        for (dashboard, panel) in all().into_iter().flat_map(|one| one.panels.iter().map(move |panel| (one, panel))) {
            let at = format!("{}: {}", dashboard.name, panel.title);
            assert!(!panel.title.is_empty() && panel.description.len() > 20 && !panel.unit.is_empty(), "{at}");
            assert!(!panel.curves.is_empty() && panel.curves.len() <= 26, "{at}");
        }
    }

    #[test]
    fn every_series_is_chosen_by_job_and_instance_and_every_rate_by_grafanas_interval() {
        let curves = all().into_iter().flat_map(|one| one.panels).flat_map(|panel| panel.curves);
        for Curve(expression, legend) in curves {
            let series = ["muster_", "DCGM_FI_"].map(|prefix| expression.matches(prefix).count()).iter().sum::<usize>();
            assert!(series > 0 && expression.matches("{%").count() == series, "{expression}");
            assert_eq!(
                expression.matches("rate(").count(),
                expression.matches("[$__rate_interval]").count(),
                "{expression}"
            );
            assert_eq!(expression.matches('(').count(), expression.matches(')').count(), "{expression}");
            assert!(!legend.is_empty(), "{expression}");
        }
    }

    #[test]
    fn what_is_rendered_belongs_to_no_one_grafana() {
        for (path, dashboard) in files() {
            assert!(dashboard["id"].is_null() && dashboard["version"].is_null(), "{path}");
            assert_eq!((&dashboard["editable"], &dashboard["graphTooltip"]), (&json!(false), &json!(1)), "{path}");
            let variables: Vec<&str> = dashboard["templating"]["list"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|one| one["name"].as_str())
                .collect();
            assert_eq!(variables, ["datasource", "job", "instance", "worker"], "{path}");
            let text = dashboard.to_string();
            assert!(!text.contains('%'), "{path}: a placeholder is left");
            assert_eq!(
                text.matches(r#""uid":"${datasource}""#).count(),
                text.matches(r#""type":"prometheus""#).count()
            );
        }
    }

    #[test]
    fn panels_lie_beside_and_below_each_other() {
        let (_, first) = files().next().unwrap();
        let places: Vec<_> =
            (0..3).map(|at| (&first["panels"][at]["gridPos"]["x"], &first["panels"][at]["gridPos"]["y"])).collect();
        assert_eq!(places, [(&json!(0), &json!(0)), (&json!(12), &json!(0)), (&json!(0), &json!(8))]);
    }
}
