//! `muster audit`: the trail of what was done and denied, each record bound by its hash to the one before.

mod heads;

use super::Session;
use crate::failure::{Exit, Failure, bad_input};
use crate::output::text::instant;
use crate::output::{Column, Table, text, write_stdout};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use client::{Client, v1};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::path::PathBuf;
use types::{Caller, Timestamp};

/// `muster audit ...`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Show the newest records
    List(ListArgs),
    /// Check that no record was altered, taken out or put in: of the cluster, or of a file that `export` wrote
    Verify(VerifyArgs),
    /// Write all records that the cluster keeps, a JSON object a line
    Export(ExportArgs),
    /// Write where the trail ends now, signed by the cluster's authority
    Head,
    /// Write where the trail stood, each time that the cluster signed it by itself, an object a line
    Heads(ExportArgs),
}

/// `muster audit list`
#[derive(Args, Debug)]
pub struct ListArgs {
    /// So many of the newest
    #[arg(long, short = 'n', default_value_t = 50)]
    last: usize,
    /// Only those whose caller, action, object or result has this text
    #[arg(long, value_name = "TEXT")]
    grep: Option<String>,
}

/// `muster audit verify`
#[derive(Args, Debug)]
#[command(
    after_help = "That the newest records were cut off, or all of them made again, shows only against a head that was kept elsewhere:
  muster audit heads --follow >> /elsewhere/heads.jsonl
  muster audit verify audit.jsonl --head /elsewhere/heads.jsonl

After the authority was replaced both are named: --authority OLD --authority NEW (`muster cluster authority list`)."
)]
pub struct VerifyArgs {
    /// The file; the cluster's own records without it
    file: Option<PathBuf>,
    /// A file that `muster audit head` or `heads` wrote: the records must lead to each head in it
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// Fingerprint of the authority that the heads must be signed by [default: that of the token in use]; may be given several times
    #[arg(long, value_name = "SHA256", requires = "head")]
    authority: Vec<String>,
}

/// `muster audit export`
#[derive(Args, Debug)]
#[command(after_help = "The cluster keeps the newest 16,384 records: run this with --follow beside it to keep all.

Example:
  muster audit export --follow >> audit.jsonl")]
pub struct ExportArgs {
    /// Only records with a higher number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
    /// Go on with what comes, until interrupted
    #[arg(long, short)]
    follow: bool,
}

impl VerifyArgs {
    /// Needs no cluster.
    pub fn is_local(&self) -> bool {
        self.file.is_some()
    }
}

/// One record on a line. What was hashed goes along as it was; the rest is for people.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    number: u64,
    time: String,
    who: String,
    token: String,
    from: String,
    action: String,
    object: String,
    result: String,
    times: u32,
    previous: String,
    hash: String,
    body: String,
}

impl From<&v1::AuditRecord> for Line {
    fn from(record: &v1::AuditRecord) -> Self {
        Line {
            number: record.number,
            time: instant(record.time_ms),
            who: record.who.clone(),
            token: record.token_id.clone(),
            from: record.from.clone(),
            action: record.action.clone(),
            object: record.object.clone(),
            result: record.result.clone(),
            times: record.times,
            previous: text::hex(&record.previous),
            hash: text::hex(&record.hash),
            body: text::hex(&record.body),
        }
    }
}

/// Walks along the records and finds the first that does not follow from what was before it.
#[derive(Default)]
struct Chain {
    last: Option<(u64, String)>,
    count: u64,
    /// Number and hash of records that were signed, and are to come.
    heads: BTreeMap<u64, String>,
}

impl Chain {
    fn check(&mut self, line: &Line) -> Result<(), String> {
        let bad = |why: &str| Err(format!("record {}: {why}", line.number));
        let body = text::unhex(&line.body).ok_or_else(|| format!("record {}: it cannot be read", line.number))?;
        let previous = text::unhex(&line.previous).unwrap_or_default();
        let hash = Sha256::new().chain_update(&previous).chain_update(&body).finalize();
        if text::hex(&hash) != line.hash {
            return bad("its hash is not that of its content");
        }
        if !says_the_same(&body, line) {
            return bad("what it shows is not what was hashed");
        }
        if let Some((number, hash)) = &self.last
            && (line.number != number + 1 || line.previous != *hash)
        {
            return bad("it does not follow the one before it: records were taken out, put in or exchanged");
        }
        if self.count == 0 {
            // Heads before the first record are of records that are not here.
            let previous = text::hex(&previous);
            if self.heads.get(&(line.number - 1)).is_some_and(|hash| *hash != previous) {
                return bad("it does not follow the head that was signed before it");
            }
            self.heads.retain(|number, _| *number >= line.number);
        }
        if self.heads.remove(&line.number).is_some_and(|hash| hash != line.hash) {
            return bad("it is not the one whose hash was signed");
        }
        self.last = Some((line.number, line.hash.clone()));
        self.count += 1;
        Ok(())
    }

    /// All signed heads must have come.
    fn end(&self) -> Result<(), String> {
        match self.heads.keys().next().filter(|number| **number > 0) {
            Some(number) => Err(format!("record {number}, whose hash was signed, is not there: the end was cut off")),
            None => Ok(()),
        }
    }
}

/// Is the readable part what was hashed?
fn says_the_same(body: &[u8], line: &Line) -> bool {
    type Body = (u64, Timestamp, Caller, String, String, String, u32);
    let Ok((number, time, caller, action, object, result, times)) = postcard::from_bytes::<Body>(body) else {
        return false;
    };
    (number, times) == (line.number, line.times)
        && instant(time.0) == line.time
        && caller.principal.to_string() == line.who
        && (caller.from, action, object, result)
            == (line.from.clone(), line.action.clone(), line.object.clone(), line.result.clone())
}

/// Runs what needs the cluster.
pub async fn run(command: AuditCommand, client: &Client, session: &Session) -> anyhow::Result<Exit> {
    match command {
        AuditCommand::List(args) => list(&args, client, session).await?,
        AuditCommand::Export(args) => {
            let mut records = client.audit(args.after, args.follow);
            while let Some(record) = records.next().await? {
                write_stdout(format!("{}\n", serde_json::to_string(&Line::from(&record))?).as_bytes())?;
            }
        }
        AuditCommand::Head => {
            let head = heads::HeadLine::from(client.audit_head().await?);
            write_stdout(format!("{}\n", serde_json::to_string(&head)?).as_bytes())?;
        }
        AuditCommand::Heads(args) => {
            let mut heads = client.audit_heads(args.after, args.follow);
            while let Some(head) = heads.next().await? {
                write_stdout(format!("{}\n", serde_json::to_string(&heads::HeadLine::from(head))?).as_bytes())?;
            }
        }
        AuditCommand::Verify(args) => {
            let mut chain = Chain { heads: heads::read(&args, session)?, ..Chain::default() };
            let mut records = client.audit(0, false);
            while let Some(record) = records.next().await? {
                chain.check(&Line::from(&record)).map_err(broken)?;
            }
            chain.end().map_err(broken)?;
            verified(&chain, session)?;
        }
    }
    Ok(Exit::Success)
}

async fn list(args: &ListArgs, client: &Client, session: &Session) -> anyhow::Result<()> {
    let mut newest = std::collections::VecDeque::new();
    let mut records = client.audit(0, false);
    while let Some(record) = records.next().await? {
        let line = Line::from(&record);
        let texts = [&line.who, &line.action, &line.object, &line.result];
        if args.grep.as_ref().is_some_and(|wanted| !texts.iter().any(|text| text.contains(wanted.as_str()))) {
            continue;
        }
        if newest.len() >= args.last {
            newest.pop_front();
        }
        newest.push_back(line);
    }
    session.output.print(&serde_json::json!({ "records": newest }), |output| {
        let whole = ["NO", "TIME", "WHO", "FROM", "ACTION"].map(Column::whole);
        let mut table = Table::new(whole.into_iter().chain([Column::text("OBJECT"), Column::text("RESULT")]).collect());
        for line in &newest {
            let times = if line.times > 1 { format!(" ({} times)", line.times) } else { String::new() };
            table.row(vec![
                line.number.to_string().into(),
                line.time.as_str().into(),
                line.who.as_str().into(),
                line.from.as_str().into(),
                line.action.as_str().into(),
                line.object.as_str().into(),
                format!("{}{times}", line.result).into(),
            ]);
        }
        table.render(output, "no records")
    })
}

/// Checks a file.
pub fn verify_file(args: &VerifyArgs, session: &Session) -> anyhow::Result<Exit> {
    let path = args.file.as_ref().context("no file is named")?;
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut chain = Chain { heads: heads::read(args, session)?, ..Chain::default() };
    for (index, line) in std::io::BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        let place = || format!("{}:{}", path.display(), index + 1);
        let line: Line = serde_json::from_str(&line).map_err(|error| bad_input(format!("{}: {error}", place())))?;
        chain.check(&line).map_err(|why| broken(format!("{}: {why}", place())))?;
    }
    chain.end().map_err(broken)?;
    verified(&chain, session)?;
    Ok(Exit::Success)
}

fn broken(why: String) -> anyhow::Error {
    Failure { exit: Exit::Error, text: format!("the trail is broken: {why}") }.into()
}

fn verified(chain: &Chain, session: &Session) -> anyhow::Result<()> {
    let (number, hash) = chain.last.clone().unwrap_or_default();
    let value = serde_json::json!({ "records": chain.count, "last": number, "hash": hash });
    session
        .output
        .print(&value, |_| format!("{} records follow from each other; the last is {number}, {hash}\n", chain.count))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use types::Principal;

    fn trail() -> Vec<Line> {
        let mut previous = Vec::from([0_u8; 32]);
        let one = |number: u64| {
            let user = Principal::User { name: "ana".into(), token: "t1".into() };
            let caller = Caller { principal: user, from: "10.0.0.7".into() };
            let body = (number, Timestamp(number * 1_000), caller, "jobs/submit", number.to_string(), "ok", 1_u32);
            let body = postcard::to_allocvec(&body).unwrap();
            let hash = Sha256::new().chain_update(&previous).chain_update(&body).finalize().to_vec();
            let record = v1::AuditRecord {
                number,
                time_ms: number * 1_000,
                who: "user/ana".into(),
                token_id: "t1".into(),
                from: "10.0.0.7".into(),
                action: "jobs/submit".into(),
                object: number.to_string(),
                result: "ok".into(),
                times: 1,
                hash: hash.clone().into(),
                previous: std::mem::replace(&mut previous, hash).into(),
                body: body.into(),
            };
            Line::from(&record)
        };
        (5..9).map(one).collect()
    }

    fn check(lines: &[Line]) -> Result<u64, String> {
        let mut chain = Chain::default();
        lines.iter().try_for_each(|line| chain.check(line)).map(|()| chain.count)
    }

    #[test]
    fn records_lead_to_each_head_that_was_signed() {
        let lines = trail();
        let with = |heads: &[(u64, &str)]| {
            let heads = heads.iter().map(|(number, hash)| (*number, (*hash).to_owned())).collect();
            let mut chain = Chain { heads, ..Chain::default() };
            lines.iter().try_for_each(|line| chain.check(line)).and_then(|()| chain.end())
        };
        let (hash, last) = (lines[1].hash.as_str(), lines[3].hash.as_str());
        assert_eq!(with(&[(6, hash), (8, last)]), Ok(()));
        assert_eq!(with(&[(3, "of one that is forgotten"), (4, &lines[0].previous)]), Ok(()));
        assert!(with(&[(4, hash)]).unwrap_err().contains("record 5"), "another history before");
        assert!(with(&[(6, last)]).unwrap_err().contains("record 6"), "another history");
        assert!(with(&[(9, last)]).unwrap_err().contains("record 9"), "cut off");
    }

    #[test]
    fn what_was_altered_taken_out_or_exchanged_is_named() {
        assert_eq!(check(&trail()), Ok(4));
        let mut altered = trail();
        altered[1].who = "user/bob".into();
        assert!(check(&altered).unwrap_err().contains("record 6"));
        let mut forged = trail();
        forged[2].body = forged[2].body.replacen("75", "76", 1);
        assert!(check(&forged).unwrap_err().contains("record 7"));
        let mut shorter = trail();
        shorter.remove(1);
        assert!(check(&shorter).unwrap_err().contains("record 7"));
        let mut exchanged = trail();
        exchanged.swap(1, 2);
        assert!(check(&exchanged).is_err());
    }
}
