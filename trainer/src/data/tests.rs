//! Each loader takes what is right, and says of each wrong file what is wrong and where.

use std::io::Write;
use std::path::PathBuf;

use super::*;
use crate::config::Config;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
        path
    }

    fn csv(&self, text: &str, more: &str) -> Result<Samples, Error> {
        let path = self.write("data.csv", text.as_bytes());
        let config =
            Config::parse("t", &format!("data: {{source: csv, path: {}{more}}}", path.display()), &[]).unwrap();
        let Source::Csv { path, label, header, delimiter } = &config.data.source else { panic!() };
        csv::load(path, &csv::Layout { label, header: *header, delimiter: *delimiter })
    }

    fn csv_faults(&self, text: &str, more: &str) -> Vec<String> {
        faults(self.csv(text, more))
    }
}

fn faults(result: Result<Samples, Error>) -> Vec<String> {
    match result {
        Err(Error::Data { faults }) => faults
            .iter()
            .map(|fault| format!("{}: {}", fault.line.map_or(String::new(), |line| line.to_string()), fault.message))
            .collect(),
        Err(other) => vec![other.to_string()],
        Ok(samples) => panic!("{samples:?}"),
    }
}

#[test]
fn the_digits_are_all_there() {
    let samples = digits::load().unwrap();
    assert_eq!((samples.labels.len(), samples.shape), (1_797, vec![8, 8]));
    assert!(samples.features.iter().all(|value| (0.0..=16.0).contains(value)));
    let (labels, classes) = samples.labels.finish();
    assert_eq!(classes, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert_eq!(labels[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert!((0..10).all(|class| labels.iter().filter(|label| **label == class).count() > 170));
}

#[test]
fn the_split_covers_every_sample_once_and_features_are_scaled() {
    let config = Config::parse("t", "", &[]).unwrap();
    let data = load(&config.data).unwrap();
    assert_eq!((data.train.len(), data.test.len()), (1_438, 359));
    let rows = |part: &Part| -> Vec<Vec<u32>> {
        part.features.chunks(64).map(|row| row.iter().map(|value| (value * 16.0) as u32).collect()).collect()
    };
    let mut split = [rows(&data.train), rows(&data.test)].concat();
    let whole = digits::load().unwrap().features;
    let mut whole: Vec<Vec<u32>> =
        whole.chunks(64).map(|row| row.iter().map(|value| *value as u32).collect()).collect();
    split.sort();
    whole.sort();
    assert_eq!(split, whole);
    let other = Config::parse("t", "data: {split_seed: 1}", &[]).unwrap();
    assert_ne!(load(&other.data).unwrap().hash, data.hash);
    assert_eq!(load(&config.data).unwrap().hash, data.hash);
}

#[test]
fn standardized_features_have_mean_0_and_deviation_1() {
    let folder = Folder::new();
    let rows: Vec<String> = (0..40).map(|at| format!("{},7,{}", at * at, ["a", "b"][at % 2])).collect();
    let path = folder.write("d.csv", rows.join("\n").as_bytes());
    let text = format!("data: {{source: csv, path: {}, standardize: true}}", path.display());
    let data = load(&Config::parse("t", &text, &[]).unwrap().data).unwrap();
    let column: Vec<f64> = data.train.features.chunks(2).map(|row| f64::from(row[0])).collect();
    let mean = column.iter().sum::<f64>() / column.len() as f64;
    let square = column.iter().map(|value| value * value).sum::<f64>() / column.len() as f64;
    assert!(mean.abs() < 1e-6 && (square - 1.0).abs() < 1e-5, "{mean} {square}");
    assert!(data.train.features.chunks(2).all(|row| row[1] == 0.0), "a constant feature becomes 0");
    assert_eq!((data.transform.mean[1], data.transform.deviation[1]), (7.0, 1.0));
}

#[test]
fn tables_are_read_in_all_their_spellings() {
    let folder = Folder::new();
    for (text, more) in [
        ("x,y,kind\n1,2,a\n3,4.5,b\n", ""),
        ("\u{feff}x,y,kind\r\n1,2,a\r\n\r\n3,4.5,b", ""),
        ("1,2,a\n3,4.5,b\n", ""),
        ("kind;x;y\n\"a\";1;2\n\"b\";\"3\";4.5\n", ", label: kind, delimiter: ';'"),
        ("a\t1\t2\nb\t 3\t4.5\n", ", label: 0, delimiter: tab"),
        ("9,9,9\n1,2,a\n3,4.5,b\n", ", header: true"),
    ] {
        let samples = folder.csv(text, more).unwrap();
        assert_eq!(
            (samples.shape.as_slice(), samples.features.as_slice()),
            ([2].as_slice(), [1.0, 2.0, 3.0, 4.5].as_slice()),
            "{text:?}"
        );
        assert_eq!(samples.labels.finish(), (vec![0, 1], vec!["a".to_owned(), "b".to_owned()]));
    }
    let quoted = folder.csv("1,\"a, \"\"b\"\"\"\n2,c\n", "").unwrap();
    assert_eq!(quoted.labels.finish().1, ["a, \"b\"", "c"]);
    let numbers = folder.csv("1,10\n2,9\n3,-1\n", "").unwrap();
    assert_eq!(numbers.labels.finish(), (vec![2, 1, 0], ["-1", "9", "10"].map(str::to_owned).to_vec()));
}

#[test]
fn every_wrong_line_of_a_table_is_named() {
    let folder = Folder::new();
    let found = folder.csv_faults("x,y,kind\n1,two,a\n3,4\n5,inf,b\n6,7,\n\"8,9,c\n1,2,a\n", "");
    let starts = [
        "2: field 2 is \"two\", not a finite number",
        "3: has 2 fields where the first line has 3",
        "4: field 2 is \"inf\"",
        "5: the label is empty",
        "6: a quote is not closed",
    ];
    assert_eq!(found.len(), starts.len(), "{found:?}");
    for (found, start) in found.iter().zip(starts) {
        assert!(found.starts_with(start), "{found} is not {start}");
    }
    assert!(folder.csv_faults("", "")[0].contains("has no samples"));
    assert!(folder.csv_faults("1,2\n", ", label: 5")[0].contains("1: has 2 columns: there is no column 5"));
    assert!(
        folder.csv_faults("x,y\n1,2\n", ", label: kind")[0].contains("no column \"kind\" for the label, only x, y")
    );
    assert!(folder.csv_faults("1;2;3\n", "")[0].contains("is the delimiter right?"));
    let many: String = "1,a\n".to_owned() + &"x,a\n".repeat(500);
    assert_eq!(folder.csv_faults(&many, "").len(), FAULTS_MAX);
    let long = folder.csv_faults(&"1,".repeat(600_000), "");
    assert!(long[0].contains("longer than"), "{long:?}");
    let path = folder.write("latin.csv", b"1,a\n2,\xe4\n");
    let layout = csv::Layout { label: &config::Column::Last, header: None, delimiter: ',' };
    assert_eq!(faults(csv::load(&path, &layout)), ["2: the line is not UTF-8 text"]);
}

#[test]
fn what_is_not_a_plain_file_is_refused_without_waiting() {
    let folder = Folder::new();
    let layout = csv::Layout { label: &config::Column::Last, header: None, delimiter: ',' };
    assert!(matches!(csv::load(&folder.0.path().join("none"), &layout), Err(Error::Io { .. })));
    assert!(faults(csv::load(folder.0.path(), &layout))[0].contains("not a plain file"));
    assert!(faults(csv::load(std::path::Path::new("/dev/zero"), &layout))[0].contains("not a plain file"));
}

fn npy(version: u8, header: &str, values: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend([version, 0]);
    match version {
        1 => bytes.extend((header.len() as u16).to_le_bytes()),
        _ => bytes.extend((header.len() as u32).to_le_bytes()),
    }
    bytes.extend(header.as_bytes());
    bytes.extend(values);
    bytes
}

fn npy_header(kind: &str, shape: &str) -> String {
    format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}      \n")
}

fn le<const N: usize>(values: impl IntoIterator<Item = [u8; N]>) -> Vec<u8> {
    values.into_iter().flatten().collect()
}

#[test]
fn arrays_of_all_types_are_read() {
    let folder = Folder::new();
    let values = [1_i8, 2, 3, 4, 5, 6];
    let arrays = [
        ("<f4", le(values.map(|value| f32::from(value).to_le_bytes()))),
        ("<f8", le(values.map(|value| f64::from(value).to_le_bytes()))),
        ("|u1", le(values.map(|value| [value as u8]))),
        ("<i4", le(values.map(|value| i32::from(value).to_le_bytes()))),
        ("<i8", le(values.map(|value| i64::from(value).to_le_bytes()))),
    ];
    for (at, (kind, bytes)) in arrays.iter().enumerate() {
        let version = 1 + at as u8 % 2;
        let features = folder.write("x.npy", &npy(version, &npy_header(kind, "2, 3"), bytes));
        let first_two = &bytes[..bytes.len() / 3];
        let labels = folder.write("y.npy", &npy(version, &npy_header(kind, "2,"), first_two));
        let samples = npy::load(&features, &labels).unwrap();
        assert_eq!((samples.shape, samples.features), (vec![3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), "{kind}");
        assert_eq!(samples.labels.finish(), (vec![0, 1], vec!["1".to_owned(), "2".to_owned()]));
    }
}

#[test]
fn wrong_arrays_are_refused() {
    let folder = Folder::new();
    let good = npy(1, &npy_header("<f4", "2, 1"), &[0; 8]);
    let labels = folder.write("y.npy", &npy(1, &npy_header("|u1", "2,"), &[0, 1]));
    let features = folder.write("good.npy", &good);
    npy::load(&features, &labels).unwrap();
    let refused = |bytes: &[u8]| faults(npy::load(&folder.write("x.npy", bytes), &labels)).remove(0);
    for length in 0..good.len() {
        refused(&good[..length]);
    }
    let header = |kind: &str, shape: &str| npy(1, &npy_header(kind, shape), &[0; 8]);
    assert!(refused(b"PK\x03\x04 a zip of arrays").contains("is not a .npy file"));
    assert!(refused(&[good.clone(), vec![0]].concat()).contains("needs"));
    assert!(refused(&npy(3, &npy_header("<f4", "2, 1"), &[0; 8])).contains("format 3"));
    assert!(refused(&header(">f4", "2, 1")).contains("values of type >f4"));
    assert!(refused(&header("<f4", "8")).contains("bytes"));
    assert!(refused(&header("<f4", "2,")).contains("one dimension"));
    assert!(refused(&header("<f4", "9999999999, 9999999999, 9999999999")).contains("more than"));
    assert!(refused(&header("<f4", "-2, 1")).contains("broken shape"));
    let fortran = npy_header("<f4", "2, 1").replace("False", "True");
    assert!(refused(&npy(1, &fortran, &[0; 8])).contains("Fortran order"));
    assert!(refused(&npy(2, &"x".repeat(70_000), &[])).contains("header of 70000 bytes"));
    let not_finite = le([f32::NAN.to_le_bytes(), 1_f32.to_le_bytes()]);
    assert!(refused(&npy(1, &npy_header("<f4", "2, 1"), &not_finite)).contains("row 0, feature 0: NaN"));
    let three = folder.write("y3.npy", &npy(1, &npy_header("|u1", "3,"), &[0, 1, 2]));
    assert!(faults(npy::load(&features, &three))[0].contains("2 samples need one label each"));
    let half = folder.write("yh.npy", &npy(1, &npy_header("<f4", "2,"), &le([0.5_f32, 1.0].map(f32::to_le_bytes))));
    assert!(faults(npy::load(&features, &half))[0].contains("row 0: the label is not a whole number"));
}

fn idx(kind: u8, shape: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, kind, shape.len() as u8];
    for length in shape {
        file.extend(length.to_be_bytes());
    }
    file.extend(bytes);
    file
}

#[test]
fn idx_files_are_read_and_wrong_ones_refused() {
    let folder = Folder::new();
    let good = idx(8, &[2, 2, 2], &[0, 64, 128, 255, 1, 2, 3, 4]);
    let images = folder.write("images", &good);
    let labels = folder.write("labels", &idx(8, &[2], &[7, 3]));
    let samples = idx::load(&images, &labels).unwrap();
    assert_eq!((samples.shape, samples.features[3]), (vec![2, 2], 255.0));
    assert_eq!(samples.labels.finish(), (vec![1, 0], vec!["3".to_owned(), "7".to_owned()]));
    let refused = |bytes: &[u8]| faults(idx::load(&folder.write("x", bytes), &labels)).remove(0);
    for length in 0..good.len() {
        refused(&good[..length]);
    }
    assert!(refused(&[0x1f, 0x8b, 8, 0]).contains("gzip"));
    assert!(refused(&idx(0x0d, &[2, 2], &[0; 16])).contains("IDX type 0x0d"));
    assert!(refused(b"GIF89a").contains("is not an IDX file"));
    assert!(refused(&idx(8, &[2], &[0, 1])).contains("is it the label file?"));
    assert!(refused(&idx(8, &[u32::MAX, u32::MAX, u32::MAX], &[])).contains("more than"));
    let three = folder.write("three", &idx(8, &[3], &[0, 1, 2]));
    assert!(faults(idx::load(&images, &three))[0].contains("2 samples need one label each"));
}

#[test]
fn data_that_cannot_train_a_classifier_is_refused() {
    let folder = Folder::new();
    let refused = |text: &str| {
        let path = folder.write("d.csv", text.as_bytes());
        let text = format!("data: {{source: csv, path: {}}}", path.display());
        load(&Config::parse("t", &text, &[]).unwrap().data).unwrap_err().to_string()
    };
    assert!(refused("1,a\n2,a\n3,a\n").contains("has 1 class in 3 samples"));
    assert!(refused("1,a\n2,b\n").contains("leave 0 for testing"));
    let many: String = (0..10_001).flat_map(|at| ["1,label".to_owned(), at.to_string(), "\n".to_owned()]).collect();
    assert!(refused(&many).contains("10001: more than 10000 different labels"));
}
