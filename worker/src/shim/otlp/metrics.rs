//! Metrics of an `ExportMetricsServiceRequest` (`opentelemetry/proto/metrics/v1/metrics.proto`) as lines of the metrics stream.
//!
//! A gauge or a sum is a point under its own name; a histogram one for its count, sum, least and greatest value each; a summary
//! one for its count, sum and each quantile. Attributes are part of the name, but for a whole number called `step`, which is the
//! point's step.

use super::super::metrics::write_point;
use super::super::notices::{self, Notices};
use super::super::protobuf::{Field, Fields, Malformed, Number};
use super::values::{ATTRIBUTES_MAX, Attribute};
use std::fmt::Write as _;

/// Points of one request that are taken.
const POINTS_MAX: u64 = 10_000;
/// Bytes of lines that one request may become.
const LINES_BYTES_MAX: usize = 4 << 20;
/// "No value was recorded", in a point's flags.
const NO_VALUE: u64 = 1;

/// Adds what the request has to `lines`; returns how many points were not taken.
pub(super) fn read(request: &[u8], lines: &mut Vec<u8>, notices: &mut Notices) -> Result<u64, Malformed> {
    let mut reader = Reader { lines, notices, points: 0, rejected: 0 };
    for resource in Fields(request) {
        let (1, Field::Bytes(resource)) = resource? else { continue };
        for scope in Fields(resource) {
            let (2, Field::Bytes(scope)) = scope? else { continue };
            for metric in Fields(scope) {
                if let (2, Field::Bytes(metric)) = metric? {
                    reader.metric(metric)?;
                }
            }
        }
    }
    Ok(reader.rejected)
}

struct Reader<'a> {
    lines: &'a mut Vec<u8>,
    notices: &'a mut Notices,
    points: u64,
    rejected: u64,
}

/// What kind of points a metric has, by the field that holds them.
#[derive(Clone, Copy)]
enum Kind {
    Number,
    Histogram,
    ExponentialHistogram,
    Summary,
}

impl Reader<'_> {
    fn metric(&mut self, metric: &[u8]) -> Result<(), Malformed> {
        let mut name = &[][..];
        for field in Fields(metric) {
            if let (1, Field::Bytes(bytes)) = field? {
                name = bytes;
            }
        }
        for field in Fields(metric) {
            let (kind, points) = match field? {
                (5 | 7, Field::Bytes(points)) => (Kind::Number, points),
                (9, Field::Bytes(points)) => (Kind::Histogram, points),
                (10, Field::Bytes(points)) => (Kind::ExponentialHistogram, points),
                (11, Field::Bytes(points)) => (Kind::Summary, points),
                _ => continue,
            };
            for point in Fields(points) {
                if let (1, Field::Bytes(point)) = point? {
                    self.points += 1;
                    if self.points > POINTS_MAX || self.lines.len() > LINES_BYTES_MAX {
                        self.rejected += 1;
                    } else {
                        self.point(name, kind, point)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn point(&mut self, name: &[u8], kind: Kind, bytes: &[u8]) -> Result<(), Malformed> {
        let point = Point::read(kind, bytes)?;
        if point.flags & NO_VALUE != 0 {
            return Ok(());
        }
        let (labels, step) = labels(point.attributes)?;
        for (part, value) in point.values {
            let whole = [name, part.as_bytes(), labels.as_bytes()].concat();
            let name = notices::name("", &whole, self.notices);
            if value.is_finite() {
                // Microseconds are whole numbers that f64 holds exactly; nanoseconds would not be.
                let time = (point.time > 0).then_some((point.time / 1_000) as f64 / 1e6);
                write_point(self.lines, &name, value, step, time);
            } else {
                let told = format_args!("values that are no finite numbers are left out, the first one is of {name:?}");
                self.notices.say_once("finite", told);
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Point<'a> {
    attributes: Vec<Attribute<'a>>,
    /// Nanoseconds since 1970.
    time: u64,
    flags: u64,
    /// What is added to the name for each, and the value.
    values: Vec<(String, Number)>,
}

impl<'a> Point<'a> {
    fn read(kind: Kind, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut point = Self::default();
        for field in Fields(bytes) {
            match (kind, field?) {
                (_, (3, Field::Fixed64(time))) => point.time = time,
                (Kind::Number | Kind::Summary, (8, Field::Varint(flags)))
                | (Kind::Histogram | Kind::ExponentialHistogram, (10, Field::Varint(flags))) => point.flags = flags,
                (Kind::Number | Kind::Summary, (7, Field::Bytes(attribute)))
                | (Kind::Histogram, (9, Field::Bytes(attribute)))
                | (Kind::ExponentialHistogram, (1, Field::Bytes(attribute))) => point.attribute(attribute)?,
                (Kind::Number, (4, Field::Fixed64(bits))) => point.value("", Number::F64(f64::from_bits(bits))),
                (Kind::Number, (6, Field::Fixed64(bits))) => point.value("", Number::Signed(bits.cast_signed())),
                (_, (4, Field::Fixed64(count))) => point.value(".count", Number::Unsigned(count)),
                (_, (5, Field::Fixed64(bits))) => point.value(".sum", Number::F64(f64::from_bits(bits))),
                (Kind::Histogram, (11, Field::Fixed64(bits)))
                | (Kind::ExponentialHistogram, (12, Field::Fixed64(bits))) => {
                    point.value(".min", Number::F64(f64::from_bits(bits)));
                }
                (Kind::Histogram, (12, Field::Fixed64(bits)))
                | (Kind::ExponentialHistogram, (13, Field::Fixed64(bits))) => {
                    point.value(".max", Number::F64(f64::from_bits(bits)));
                }
                (Kind::Summary, (6, Field::Bytes(quantile))) => point.quantile(quantile)?,
                _ => {}
            }
        }
        Ok(point)
    }

    fn attribute(&mut self, bytes: &'a [u8]) -> Result<(), Malformed> {
        if self.attributes.len() < ATTRIBUTES_MAX {
            self.attributes.push(Attribute::read(bytes)?);
        }
        Ok(())
    }

    fn value(&mut self, part: &str, value: Number) {
        // A field that comes again counts as the first did: so no point has more values than it has kinds of them.
        if self.values.len() < ATTRIBUTES_MAX && self.values.iter().all(|(known, _)| known != part) {
            self.values.push((part.to_owned(), value));
        }
    }

    fn quantile(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let (mut quantile, mut value) = (0.0, 0.0);
        for field in Fields(bytes) {
            match field? {
                (1, Field::Fixed64(bits)) => quantile = f64::from_bits(bits),
                (2, Field::Fixed64(bits)) => value = f64::from_bits(bits),
                _ => {}
            }
        }
        self.value(&format!(".p{}", quantile * 100.0), Number::F64(value));
        Ok(())
    }
}

/// `{a=1,b=x}` in the order of their keys, nothing where there are none; and the step among them.
fn labels(mut attributes: Vec<Attribute<'_>>) -> Result<(String, Option<u64>), Malformed> {
    attributes.sort_unstable();
    let is_step = |attribute: &Attribute<'_>| attribute.key == b"step" && attribute.whole_number().is_some();
    let step = attributes.iter().find(|attribute| is_step(attribute)).and_then(Attribute::whole_number);
    let mut text = String::new();
    for attribute in attributes.iter().filter(|attribute| !is_step(attribute)) {
        let _ = write!(text, "{}", if text.is_empty() { '{' } else { ',' });
        attribute.write(&mut text)?;
    }
    if !text.is_empty() {
        text.push('}');
    }
    Ok((text, step))
}
