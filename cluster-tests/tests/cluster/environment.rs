//! What programs that know TensorFlow or Azure ML find in their environment, as two ranks of one job see it.

use crate::support::shared;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;

const JOB: &str = r"
command: env
experiment_name: surroundings
resources: {instance_count: 2}
distribution: {type: tensorflow}
inputs: {rate: 0.1}
x-muster: {spread: true}
";

#[tokio::test]
async fn tensorflow_and_azure_ml_programs_find_what_they_look_for() {
    shared(async |cluster| {
        let job = cluster.submit("environment/job.yml", JOB).await?;
        let ended = cluster.ended(job).await?;
        assert_eq!(ended.summary.unwrap_or_default().phase, "Completed", "{:?}", ended.attempts);
        let mut ranks: Vec<BTreeMap<String, String>> = Vec::new();
        for rank in ["0", "1"] {
            let logs = cluster.muster(&["logs", &job.to_string(), "--rank", rank]).await?.good()?;
            let pairs = logs.stdout.lines().filter_map(|line| line.split_once('='));
            ranks.push(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
        }

        let configs: Vec<Value> =
            ranks.iter().map(|rank| serde_json::from_str(&rank["TF_CONFIG"])).collect::<Result<_, _>>()?;
        assert_eq!(configs[0]["cluster"], configs[1]["cluster"]);
        let workers: Vec<SocketAddr> = serde_json::from_value(configs[0]["cluster"]["worker"].clone())?;
        assert_eq!(workers.len(), 2, "{}", configs[0]);
        assert_ne!(workers[0], workers[1]);
        for (index, config) in configs.iter().enumerate() {
            assert_eq!((&config["task"]["type"], &config["task"]["index"]), (&"worker".into(), &index.into()));
        }

        for (index, rank) in ranks.iter().enumerate() {
            let expected = [
                ("AZUREML_RUN_ID", format!("job-{job}")),
                ("AZUREML_EXPERIMENT_NAME", "surroundings".into()),
                ("AZUREML_NODE_COUNT", "2".into()),
                ("AZ_BATCH_MASTER_NODE", workers[0].to_string()),
                ("AZ_BATCHAI_MPI_MASTER_NODE", workers[0].ip().to_string()),
                ("AZURE_ML_INPUT_rate", "0.1".into()),
                ("MUSTER_RANK", index.to_string()),
            ];
            for (name, value) in expected {
                assert_eq!(rank.get(name), Some(&value), "{name} of rank {index}");
            }
        }
        Ok(())
    })
    .await;
}
