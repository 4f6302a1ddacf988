//! Answers for programs: every command that reads gives JSON and YAML, and both say the same.

use crate::support::shared;
use anyhow::Context as _;
use cluster_tests::Cluster;
use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};
use serde_json::{Map, Value};

/// All documents of a YAML text.
fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut parser = Parser::new_from_str(text);
    let mut found = Vec::new();
    loop {
        match event(&mut parser)? {
            Event::StreamEnd => return Ok(found),
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
            begin => found.push(value(&mut parser, begin)?),
        }
    }
}

fn event<'i>(parser: &mut Parser<'i, StrInput<'i>>) -> anyhow::Result<Event<'i>> {
    let next = parser.next_event().context("the YAML ends early")?;
    Ok(next.map_err(|error| anyhow::anyhow!("not YAML: {error}"))?.0)
}

fn value<'i>(parser: &mut Parser<'i, StrInput<'i>>, begin: Event<'i>) -> anyhow::Result<Value> {
    Ok(match begin {
        // A plain scalar that JSON knows (null, true, a number) is that to YAML 1.2 as well.
        Event::Scalar(text, ScalarStyle::Plain, ..) => {
            serde_json::from_str(&text).unwrap_or_else(|_| text.into_owned().into())
        }
        Event::Scalar(text, ..) => text.into_owned().into(),
        Event::SequenceStart(..) => {
            let mut items = Vec::new();
            loop {
                match event(parser)? {
                    Event::SequenceEnd => break items.into(),
                    begin => items.push(value(parser, begin)?),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut map = Map::new();
            loop {
                let key = match event(parser)? {
                    Event::MappingEnd => break map.into(),
                    begin => value(parser, begin)?,
                };
                let begin = event(parser)?;
                let key = key.as_str().with_context(|| format!("a key that is no text: {key}"))?.to_owned();
                map.insert(key, value(parser, begin)?);
            }
        }
        other => anyhow::bail!("not expected here: {other:?}"),
    })
}

/// What a command answers in both formats: as many values as lines of JSON or documents of YAML.
async fn both(cluster: &Cluster, arguments: &[&str], lines: bool) -> anyhow::Result<(Vec<Value>, Vec<Value>)> {
    let text = async |format: &str| {
        let answer = cluster.muster(&[arguments, &["-o", format]].concat()).await?.good();
        anyhow::Ok(answer.with_context(|| format!("{arguments:?} as {format}"))?.stdout)
    };
    let json = text("json").await?;
    let json = if lines {
        json.lines().map(serde_json::from_str).collect::<Result<_, _>>()
    } else {
        serde_json::from_str(&json).map(|value| vec![value])
    };
    let json = json.with_context(|| format!("{arguments:?} as JSON"))?;
    Ok((json, documents(&text("yaml").await?).with_context(|| format!("{arguments:?} as YAML"))?))
}

/// Texts that a careless writer of YAML would turn into something else.
const JOB: &str = r#"
display_name: "yes"
experiment_name: answers
description: "- a: b # c\n\ttab and \"quotes\" \\ 'too'\n\n  indented: [x"
tags: {number: "0x1f", none: "null", dash: "-", colon: "a: b", long: "1e3", empty: ""}
command: |
  echo '{"name": "loss", "value": 0.5, "step": 1}' >&$MUSTER_METRICS_FD
  echo '--- a document? # no'; echo ' : odd' >&2
outputs: {model: }
"#;

#[tokio::test]
async fn every_answer_is_the_same_in_json_and_in_yaml() {
    shared(async |cluster| {
        let job = cluster.submit("answers/job.yml", JOB).await?;
        assert_eq!(cluster.ended(job).await?.summary.unwrap_or_default().phase, "Completed");
        let file = cluster.folder().join("files/answers/job.yml").display().to_string();
        cluster.muster(&["contexts", "set", "lab", "--coordinators", "127.0.0.1:1"]).await?.good()?;
        let job = job.to_string();
        let one: [&[&str]; 8] = [
            &["jobs", "list", "--experiment", "answers"],
            &["jobs", "show", &job],
            &["jobs", "explain", &job],
            &["metrics", &job],
            &["lineage", &job],
            &["contexts", "list"],
            &["version"],
            &["submit", &file, "--check"],
        ];
        for arguments in one {
            let (json, yaml) = both(cluster, arguments, false).await?;
            assert_eq!(json, yaml, "{arguments:?}");
        }
        let many: [(&[&str], usize); 3] =
            [(&["logs", &job], 2), (&["metrics", &job, "--follow"], 1), (&["jobs", "watch", &job], 1)];
        for (arguments, count) in many {
            let (json, yaml) = both(cluster, arguments, true).await?;
            assert_eq!((json.len(), yaml.len()), (count, count), "{arguments:?}: {json:?} {yaml:?}");
            assert_eq!(names(&json[0]), names(&yaml[0]), "{arguments:?}");
        }
        // What other tests change meanwhile has the same names in both.
        let moving: [&[&str]; 6] = [
            &["jobs", "list"],
            &["workers", "list"],
            &["workers", "show", "worker-1"],
            &["cluster", "status"],
            &["cluster", "members"],
            &["users", "list"],
        ];
        for arguments in moving {
            let (json, yaml) = both(cluster, arguments, false).await?;
            assert!(!names(&json[0]).is_empty() && yaml.len() == 1, "{arguments:?}");
            assert_eq!(names(&json[0]), names(&yaml[0]), "{arguments:?}");
        }
        Ok(())
    })
    .await;
}

/// Names of an answer, and of the first item of each of its lists.
fn names(value: &Value) -> Vec<String> {
    let map = value.as_object().into_iter().flatten();
    map.flat_map(|(name, value)| {
        let inner = value.get(0).map(names).unwrap_or_default();
        std::iter::once(name.clone()).chain(inner.into_iter().map(move |inner| format!("{name}.{inner}")))
    })
    .collect()
}

#[tokio::test]
async fn a_watched_list_says_a_line_for_each_change() {
    shared(async |cluster| {
        let arguments = ["jobs", "list", "--experiment", "watched", "--watch", "-o", "json"];
        let mut watch = cluster.follow(&arguments)?;
        let jobs = |line: Option<String>| {
            let value: Value = serde_json::from_str(&line.context("the watch has ended")?)?;
            anyhow::Ok(value["jobs"].as_array().context("no jobs")?.clone())
        };
        assert!(jobs(watch.line().await?)?.is_empty());
        let job = cluster.submit("watched/job.yml", "experiment_name: watched\ncommand: 'true'\n").await?;
        let seen = jobs(watch.line().await?)?;
        assert_eq!((seen.len(), seen[0]["id"].as_u64()), (1, Some(job.0)));
        watch.interrupt()?;
        while watch.line().await?.is_some() {}
        assert_eq!(watch.end().await?.code(), Some(130));
        Ok(())
    })
    .await;
}
