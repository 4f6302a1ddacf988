//! Values in bytes: job files, jobs on the wire, folders' trees, the tables of a snapshot, entries of the log.

use cluster_state::{Command, State};
use prost::Message as _;
use proto::{convert, v1};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use stores::blobs::hash_of;
use types::{FileKind, Timestamp, Tree, TreeEntry};

/// What a job's author writes. What is taken may be sent, and arrives as it was.
pub(crate) fn job_file(bytes: &[u8]) {
    let Ok(draft) = job_spec::parse_bytes(bytes, "job.yml") else { return };
    let _ = job_spec::expand(&draft.spec.command, &|_, name| Some(name.to_owned()));
    if let Ok(again) = convert::job_spec(convert::wire_job_spec(&draft.spec)) {
        assert_eq!(again, draft.spec, "a job that was sent arrives as another");
    }
}

pub(crate) fn job_files() -> Vec<Vec<u8>> {
    let minimal = "command: echo ${{inputs.rate}}\ninputs:\n  rate: 0.1\n";
    let whole = "$schema: https://azuremlschemas.azureedge.net/latest/commandJob.schema.json\n\
        type: command\ncode: .\ncommand: >-\n  python train.py --data ${{inputs.data}} --rate ${{inputs.rate}}\n\
        display_name: digits\nexperiment_name: tries\ndescription: |\n  two\n  lines\ntags: {a: b}\n\
        environment_variables:\n  SEED: \"7\"\ninputs:\n  data: {type: uri_folder, path: ./data}\n  rate: 1e-3\n\
        outputs:\n  model: {type: uri_folder}\ndistribution:\n  type: pytorch\n  process_count_per_instance: 2\n\
        resources:\n  instance_count: 2\nlimits:\n  timeout: 3600\n";
    [minimal, whole, "command: 'true'\nx: &a [*a]\n", "{command: [1, ~, !!str x]}"]
        .map(|text| text.as_bytes().to_vec())
        .into()
}

/// What a client sends. What is taken and sent on arrives as it was.
pub(crate) fn job_wire(bytes: &[u8]) {
    let Ok(wire) = v1::JobSpec::decode(bytes) else { return };
    let Ok(spec) = convert::job_spec(wire) else { return };
    let again = convert::job_spec(convert::wire_job_spec(&spec));
    assert!(again.is_ok_and(|again| again == spec), "a job that was taken is not taken again: {spec:?}");
}

pub(crate) fn job_wires() -> Vec<Vec<u8>> {
    let draft = |text: &Vec<u8>| job_spec::parse_bytes(text, "job.yml").ok();
    let drafts: Vec<_> = job_files().iter().filter_map(draft).collect();
    drafts.iter().map(|draft| convert::wire_job_spec(&draft.spec).encode_to_vec()).collect()
}

/// A folder's contents, as somebody uploads them.
pub(crate) fn tree(bytes: &[u8]) {
    let Ok(tree) = stores::trees::decode(bytes) else { return };
    let again = stores::trees::encode(&tree).ok().and_then(|(_, bytes)| stores::trees::decode(&bytes).ok());
    assert_eq!(again, Some(tree), "a tree that was taken is not taken again");
}

pub(crate) fn trees() -> Vec<Vec<u8>> {
    let entry = |path: &str, kind| TreeEntry { path: path.into(), kind, bytes: 7, hash: hash_of(b"content") };
    let some = vec![entry("c", FileKind::File), entry("a/b.py", FileKind::Executable)];
    let trees = [Vec::new(), some].into_iter().filter_map(|entries| Tree::new(entries).ok());
    trees.filter_map(|tree| Some(stores::trees::encode(&tree).ok()?.1.to_vec())).collect()
}

/// The tables, out of a snapshot whose checksum is right.
pub(crate) fn state(bytes: &[u8]) {
    same_again::<(Timestamp, State)>(bytes);
}

pub(crate) fn states() -> Vec<Vec<u8>> {
    vec![postcard::to_allocvec(&(Timestamp(1), State::default())).unwrap_or_default()]
}

/// A command, out of an entry of the log.
pub(crate) fn command(bytes: &[u8]) {
    same_again::<Command>(bytes);
}

pub(crate) fn commands() -> Vec<Vec<u8>> {
    // Each kind by its number, with zeros for what it says.
    (0..64).map(|kind| [vec![kind], vec![0; 64]].concat()).collect()
}

/// What is read is read again out of what is written of it.
pub(crate) fn same_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(value) = postcard::from_bytes::<T>(bytes) else { return };
    let again = postcard::to_allocvec(&value).and_then(|bytes| postcard::from_bytes::<T>(&bytes));
    assert!(again.is_ok_and(|again| again == value), "what was read is not what is written of it: {value:?}");
}
