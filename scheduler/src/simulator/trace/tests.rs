//! Each format with good and bad lines.

use super::*;
use proptest::prelude::*;

fn faults(text: &str, format: Format) -> String {
    read(text, format).unwrap_err().to_string()
}

const PHILLY: &str = "timestamp,duration,num_gpus,gpu_time,cluster\n\
    2017-10-09 07:01:55,66.0,1,66.0,11cb48\n2017-10-09 06:13:03,2951.5,16,2951.0,6214e9\n\n";
const SWF: &str = "; MaxProcs: 128\n 1 10 5 100 4 -1 -1 8 200 -1 1 3 1 -1 0 -1 -1 -1\n\
    2 20 -1 -1 4 -1 -1 4 200 -1 0 3 1 -1 1 -1 -1 -1\n";
const OWN: &str = "submit_s,run_s,gpus,queue,walltime_s,gpus_per_machine\n5,10.25,16,vision,,8\n3,1,1,text,60,\n";

#[test]
fn philly_jobs_come_in_order_of_submission() {
    let trace = read(PHILLY, Format::Philly).unwrap();
    assert_eq!(trace.jobs.len(), 2);
    assert_eq!((trace.jobs[0].submit, trace.jobs[0].run, trace.jobs[0].devices), (Millis(0), Millis(2_951_500), 16));
    assert_eq!(trace.jobs[1].submit, Millis(2_932_000));
    assert_eq!(trace.queues, ["11cb48", "6214e9"]);
}

#[test]
fn swf_jobs_that_never_ran_are_left_out() {
    let trace = read(SWF, Format::Swf).unwrap();
    assert_eq!((trace.jobs.len(), trace.left_out), (1, 1));
    let job = &trace.jobs[0];
    assert_eq!((job.devices, job.run, job.walltime), (8, Millis(100_000), Some(Millis(200_000))));
    assert_eq!((trace.queues[0].as_str(), trace.users[0].as_str()), ("queue-0", "user-3"));
}

#[test]
fn own_csv_and_json_say_the_same() {
    let json = "[{\"submit_s\": 5, \"run_s\": 10.25, \"gpus\": 16, \"queue\": \"vision\", \"gpus_per_machine\": 8},\n\
        {\"submit_s\": 3, \"run_s\": 1, \"gpus\": 1, \"queue\": \"text\", \"walltime_s\": 60}]";
    let lines = json.trim_matches(['[', ']']).replace("},", "}");
    let csv = read(OWN, Format::Csv).unwrap();
    assert_eq!(csv.jobs[1].run, Millis(10_250));
    assert_eq!(read(json, Format::Json).unwrap(), csv);
    assert_eq!(read(&lines, Format::Json).unwrap(), csv);
}

#[test]
fn every_fault_is_listed_with_its_line() {
    let text = "submit_s,run_s,gpus,gpus_per_machine\nx,1,1,\n0,1,3,2\n0,-1,0,\n1,2\n";
    assert_eq!(
        faults(text, Format::Csv),
        "2: `submit_s` is \"x\", not a number of seconds from 0 to 946080000\n\
         3: `gpus` is 3, not a multiple of `gpus_per_machine`, which is 2\n\
         4: `run_s` is \"-1\", not a number of seconds from 0 to 946080000\n\
         5: 2 fields where the head has 4"
    );
    assert_eq!(faults("submit_s,gpu\n", Format::Csv).lines().count(), 3);
    let philly = PHILLY.replace("07:01", "07:71").replace(",16,", ",none,");
    assert_eq!(faults(&philly, Format::Philly).lines().map(|line| &line[..2]).collect::<Vec<_>>(), ["2:", "3:"]);
    let swf = SWF.replace(" 8 200", " 8 x").replace("2 20", "2 20 7");
    assert_eq!(faults(&swf, Format::Swf).lines().map(|line| &line[..2]).collect::<Vec<_>>(), ["2:", "3:"]);
    let json = "[{\"submit_s\": -5, \"run_s\": 1, \"gpus\": 1},\n{\"gpu\": 3},\n\n{\"submit_s\": 1, \"run_s\": 1, \"gpus\": 0, \"cpus\": 0}]";
    assert_eq!(faults(json, Format::Json).lines().map(|line| &line[..2]).collect::<Vec<_>>(), ["1:", "2:", "4:"]);
}

#[test]
fn a_trace_without_jobs_is_refused() {
    for format in [Format::Csv, Format::Philly] {
        assert!(read(OWN.lines().next().unwrap(), format).is_err());
    }
    assert_eq!(faults("submit_s,run_s,gpus\n", Format::Csv), "there is no job in it");
}

#[test]
fn formats_are_told_from_their_first_line() {
    let muri = "job_id,num_gpu,submit_time,iterations,model_name,iteration_time\n";
    let samples = [(PHILLY, Format::Philly), (SWF, Format::Swf), (OWN, Format::Csv), (muri, Format::Muri)];
    for (text, format) in samples {
        assert_eq!(Format::detect(text), Some(format));
    }
    assert_eq!(Format::detect("[]"), Some(Format::Json));
    assert_eq!(Format::detect("a,b\n"), None);
}

#[test]
fn a_muri_job_runs_its_iterations_and_not_its_duration() {
    let text = "job_id,num_gpu,submit_time,iterations,model_name,batch_size,duration,iteration_time\n\
        0,1,0,5853661,dqn,128,2868294000,490\n";
    let trace = read(text, Format::Muri).unwrap();
    assert_eq!(trace.jobs[0].run, Millis(2_911_318_298));
}

proptest! {
    /// Whatever the text, reading ends with jobs or faults.
    #[test]
    fn no_text_is_too_bad(head in "[a-z_,]{0,60}", lines in proptest::collection::vec("[-0-9a-z.,;\"{} ]{0,40}", 0..8)) {
        let text = format!("{head}\n{}", lines.join("\n"));
        for (format, _) in Format::ALL {
            let _ = read(&text, format);
            let known = format!("submit_s,run_s,gpus,priority\n{}", lines.join("\n"));
            let _ = read(&known, format);
        }
    }
}
