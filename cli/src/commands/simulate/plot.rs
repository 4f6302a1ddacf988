//! `--plot`: use and queue over time and the distribution of waiting times, a line for each policy, as SVG.

use plotters::coord::Shift;
use plotters::prelude::*;
use scheduler::simulator::trace::Trace;
use scheduler::simulator::{Cluster, Outcome, Report};
use std::path::Path;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Runs = [(Report, Outcome)];

/// Width and height in pixels.
const SIZE: (u32, u32) = (960, 1_080);
/// Points of a distribution.
const POINTS: usize = 400;
const HOUR_MS: f64 = 3_600_000.0;

/// Draws it. The picture goes to the file at once, when it is whole.
pub fn draw(path: &Path, trace: &Trace, cluster: &Cluster, runs: &Runs) -> anyhow::Result<()> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let hours = runs.iter().map(|(_, outcome)| outcome.sums.end as f64 / HOUR_MS).fold(0.0, f64::max);
        if let [used, queue, waits] = root.split_evenly((3, 1)).as_slice() {
            let gpus = cluster.devices() as f64;
            over_time(used, "GPUs in use, %", hours, runs, |step| 100.0 * step.0 / gpus)?;
            over_time(queue, "jobs waiting", hours, runs, |step| step.1)?;
            distribution(waits, trace, runs)?;
        }
        root.present()?;
    }
    std::fs::write(path, text)?;
    Ok(())
}

fn color(index: usize) -> RGBColor {
    const COLORS: [RGBColor; 8] = [
        RGBColor(31, 119, 180),
        RGBColor(214, 39, 40),
        RGBColor(44, 160, 44),
        RGBColor(148, 103, 189),
        RGBColor(255, 127, 14),
        RGBColor(23, 190, 207),
        RGBColor(227, 119, 194),
        RGBColor(127, 127, 127),
    ];
    COLORS.get(index % COLORS.len()).copied().unwrap_or(BLACK)
}

/// Each step's mean; `value` gets GPUs in use and jobs waiting.
fn over_time(
    area: &Area<'_>,
    title: &str,
    hours: f64,
    runs: &Runs,
    value: impl Fn((f64, f64)) -> f64,
) -> anyhow::Result<()> {
    let series = |outcome: &Outcome| -> Vec<(f64, f64)> {
        let timeline = &outcome.timeline;
        let step = timeline.step as f64;
        let mean = |&(used, waiting): &(u128, u128)| value((used as f64 / step, waiting as f64 / step));
        let at = |index: usize| (index as f64 + 0.5) * step / HOUR_MS;
        timeline.steps.iter().enumerate().map(|(index, sums)| (at(index), mean(sums))).collect()
    };
    let lines: Vec<(String, Vec<(f64, f64)>)> =
        runs.iter().map(|(report, outcome)| (report.policy.clone(), series(outcome))).collect();
    let top = lines.iter().flat_map(|(_, line)| line).map(|point| point.1).fold(1e-9, f64::max);
    lines_on(area, title, "hours", (hours.max(1e-9), top * 1.05), lines)
}

/// Part of the jobs that waited at most so long.
fn distribution(area: &Area<'_>, trace: &Trace, runs: &Runs) -> anyhow::Result<()> {
    let series = |outcome: &Outcome| -> Vec<(f64, f64)> {
        let both = trace.jobs.iter().zip(&outcome.jobs);
        let mut waits: Vec<u64> = both.filter(|(_, job)| job.end.is_some()).map(|(_, job)| job.waited).collect();
        waits.sort_unstable();
        let last = waits.len().saturating_sub(1);
        let at = |point: usize| point * last / POINTS;
        let point = |point: usize| {
            let wait = waits.get(at(point)).map_or(0.0, |wait| *wait as f64 / 1_000.0);
            ((1.0 + wait).log10(), 100.0 * (at(point) + 1) as f64 / (last + 1) as f64)
        };
        (0..=POINTS).map(point).collect()
    };
    let lines: Vec<(String, Vec<(f64, f64)>)> =
        runs.iter().map(|(report, outcome)| (report.policy.clone(), series(outcome))).collect();
    let most = lines.iter().flat_map(|(_, line)| line).map(|point| point.0).fold(1.0, f64::max);
    lines_on(area, "jobs that waited at most so long, %", "log10 of 1 + seconds", (most, 100.0), lines)
}

fn lines_on(
    area: &Area<'_>,
    title: &str,
    below: &str,
    (right, top): (f64, f64),
    lines: Vec<(String, Vec<(f64, f64)>)>,
) -> anyhow::Result<()> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    chart.configure_mesh().light_line_style(TRANSPARENT).x_desc(below).draw()?;
    for (index, (name, points)) in lines.into_iter().enumerate() {
        let color = color(index);
        let line = chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
        line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}
