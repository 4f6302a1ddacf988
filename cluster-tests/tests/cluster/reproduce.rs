//! A job done again from its lineage alone: bit for bit the same, and each byte that is another is named.

use crate::support::{hex, shared};
use cluster_tests::{Answer, Cluster};
use serde_json::{Value, json};
use types::JobId;

const JOB: &str = r"
display_name: digits to be made again
code: code
command: sh run.sh ${{inputs.config}} ${{outputs.model}}
environment_variables: {SEED: '1', UNUSED: '0'}
inputs:
  config: {type: uri_file, path: train.yml}
outputs:
  model: {type: uri_folder}
resources: {instance_count: 2}
distribution: {type: pytorch, process_count_per_instance: 1}
";

const RUN: &str = "exec muster train --config $1 --training.seed $SEED --output $2\n";

const CONFIG: &str = "data: {source: digits}\nmodel: {hidden: [16]}\ntraining: {epochs: 2, batch_size: 64}\n";

/// The first job, with nothing left of what it was made from.
async fn first(cluster: &Cluster, name: &str) -> anyhow::Result<JobId> {
    cluster.write(&format!("{name}/code/run.sh"), RUN)?;
    cluster.write(&format!("{name}/train.yml"), CONFIG)?;
    let job = cluster.submit(&format!("{name}/job.yml"), JOB).await?;
    let summary = cluster.ended(job).await?.summary.unwrap_or_default();
    assert_eq!(summary.phase, "Completed", "{}", summary.reason);
    std::fs::remove_dir_all(cluster.folder().join("files").join(name))?;
    Ok(job)
}

async fn reproduce(cluster: &Cluster, job: JobId, more: &[&str]) -> anyhow::Result<(i32, Value)> {
    let job = job.to_string();
    let arguments: Vec<&str> = ["reproduce", &job, "-o", "json"].into_iter().chain(more.iter().copied()).collect();
    let Answer { code, stdout, stderr, .. } = cluster.muster(&arguments).await?;
    let value = serde_json::from_str(&stdout).map_err(|error| anyhow::anyhow!("{error}: {stdout}{stderr}"))?;
    Ok((code, value))
}

/// Differences in this part, by name.
fn named<'a>(value: &'a Value, part: &str) -> Vec<&'a str> {
    let all = value["differences"].as_array().unwrap().iter();
    all.filter(|one| one["part"] == part).map(|one| one["name"].as_str().unwrap()).collect()
}

async fn weights(cluster: &Cluster, job: &Value) -> anyhow::Result<String> {
    let place = cluster.folder().join(format!("weights-{job}"));
    let arguments = ["download", &job.to_string(), place.to_str().unwrap()].map(str::to_owned);
    cluster.muster(&arguments).await?.good()?;
    Ok(hex(&std::fs::read(place.join("model.safetensors"))?))
}

#[tokio::test]
async fn a_digits_job_done_again_from_its_lineage_has_bit_identical_weights() {
    shared(async |cluster| {
        let job = first(cluster, "again").await?;
        let (code, value) = reproduce(cluster, job, &[]).await?;
        assert_eq!((code, &value["equal"], &value["differences"]), (0, &json!(true), &json!([])), "{value:#}");
        assert!(value["output_files_same"].as_u64() > Some(0) && value["metrics_same"].as_u64() > Some(0), "{value:#}");
        let again = value["reproduced_by"].clone();
        assert_ne!(again, json!(job.0));
        assert_eq!(weights(cluster, &json!(job.0)).await?, weights(cluster, &again).await?);
        let shown = cluster.muster(&["jobs", "show", &again.to_string(), "-o", "json"]).await?.json()?;
        assert_eq!(shown["spec"]["tags"]["reproduces"], job.to_string(), "{shown:#}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn one_byte_of_code_data_or_environment_is_named() {
    shared(async |cluster| {
        let job = first(cluster, "altered").await?;
        // A comment: the same weights from another code.
        let run = cluster.write("altered/other/run.sh", &format!("{RUN}#"))?;
        let folder = run.parent().unwrap().to_str().unwrap().to_owned();
        let (code, value) = reproduce(cluster, job, &["--with-code", &folder]).await?;
        assert_eq!((code, named(&value, "code")), (12, vec!["run.sh"]), "{value:#}");
        assert_eq!(value["differences"].as_array().map(Vec::len), Some(1), "{value:#}");
        assert_eq!(value["differences"][0]["before"], hex(RUN.as_bytes()));
        assert_eq!(value["differences"][0]["after"], hex(format!("{RUN}#").as_bytes()));

        let config = cluster.write("altered/train.yml", &CONFIG.replace("16", "17"))?;
        let input = format!("config={}", config.display());
        let (code, value) = reproduce(cluster, job, &["--with-input", &input, "--env", "UNUSED=1"]).await?;
        assert_eq!((code, named(&value, "input")), (12, vec!["config/train.yml"]), "{value:#}");
        assert_eq!(named(&value, "environment"), ["UNUSED"], "{value:#}");
        assert!(named(&value, "output").contains(&"model/model.safetensors"), "{value:#}");
        assert!(named(&value, "metric").contains(&"loss of rank 0"), "{value:#}");
        assert!(!value.to_string().contains("UNUSED=1"), "values may be secrets: {value:#}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_job_that_was_done_again_can_be_compared_later() {
    shared(async |cluster| {
        let first =
            cluster.submit("later/job.yml", "command: echo $((6 * 7)) > ${{outputs.answer}}/it\noutputs: {answer: }\n");
        let first = first.await?;
        let id = first.to_string();
        cluster.ended(first).await?;
        let wrong = cluster.muster(&["reproduce", &id, "--with-input", "none=1"]).await?;
        assert!(wrong.code == 2 && wrong.stderr.contains("no input"), "{}", wrong.stderr);
        let again = cluster.muster(&["reproduce", &id, "--no-wait"]).await?.good()?.stdout.trim().to_owned();
        cluster.ended(again.parse()?).await?;
        let told = cluster.muster(&["reproduce", &id, "--compare", &again]).await?.good()?;
        let wanted = format!("job {again} is the same as job {id}: 1 files of outputs");
        assert!(told.stdout.starts_with(&wanted), "{}", told.stdout);
        Ok(())
    })
    .await;
}
