//! Does the time of a refusal tell how near a guessed token was? Unknown tokens, some with a hash that begins as a true one's, in
//! turns, before their address has made so many guesses that it is answered without a look.

use super::stats::Times;
use super::{Options, Report, Table};
use crate::https::{Dialer, Stream};
use crate::{Cluster, PATIENCE, Shape};
use anyhow::Context as _;
use identity::digest;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

/// Addresses of this machine that guess, one after the other.
const ADDRESSES: usize = 1_000;
/// Guesses of each kind by each: in all fewer than are looked at.
const GUESSES: usize = 6;
/// Of what a guess's hash has in common with the true one's.
const BITS: [u32; 3] = [0, 12, 24];

/// Measures.
pub(super) async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let addresses = options.count.unwrap_or(ADDRESSES);
    let cluster = Cluster::start_in(&options.dir, &options.muster, Shape::new(1, 0)).await?;
    let truth = digest(cluster.credentials()?.token.bearer());
    let guesses: Vec<Vec<String>> = BITS.iter().map(|bits| near(&truth, *bits)).collect();
    let (dialer, http) = (Dialer::new(&cluster.authorities(), b"")?, cluster.addresses_of(1)?.1.clone());
    let mut times = [const { Vec::new() }; BITS.len()];
    for address in 0..addresses {
        let from = IpAddr::from(Ipv4Addr::from_bits(0x7f01_0001 + address as u32));
        let mut stream = dialer.connect(&http, Some(from)).await?;
        // The first answer of a connection has its own costs.
        ask(&mut stream, "/healthz", "x", "200").await?;
        for turn in 0..GUESSES * BITS.len() {
            // Each kind is as often first, second and third.
            let kind = (turn + address) % BITS.len();
            let guess = &guesses[kind][(address * GUESSES + turn / BITS.len()) % guesses[kind].len()];
            times[kind].push(ask(&mut stream, "/metrics", guess, "401").await?);
        }
    }
    let title = format!("Unknown tokens, {} of each kind: microseconds to the refusal", addresses * GUESSES);
    let columns =
        ["bits of the hash as in a true token's", "p10", "p50", "p90", "p99", "mean, without the slowest 1 %"];
    let mut table = Table::new(&title, &columns);
    let micros = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e6);
    for (bits, mut times) in BITS.iter().zip(times) {
        times.sort_unstable();
        let usual = &times[..times.len() * 99 / 100];
        let mean = usual.iter().sum::<Duration>() / usual.len().max(1) as u32;
        let times = Times::of(times.clone());
        let shares = [100, 500, 900, 990].map(|share| micros(times.per_mille(share)));
        table.row(std::iter::once(format!("{bits} or more")).chain(shares).chain([micros(mean)]));
    }
    report.table(table);
    Ok(())
}

/// Tokens that do not count, whose hash begins with so many bits of this one.
fn near(truth: &[u8; 32], bits: u32) -> Vec<String> {
    let head = |hash: &[u8; 32]| u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    let tokens = (0_u64..).map(|n| format!("muster_pat_{n:064x}"));
    let same = tokens.filter(|token| (head(&digest(token)) ^ head(truth)).leading_zeros() >= bits);
    // The nearest ones take millions of tries each.
    same.take(if bits > 16 { 4 } else { 64 }).collect()
}

/// From a request to the whole of its answer, which has this status.
async fn ask(stream: &mut Stream, path: &str, token: &str, status: &str) -> anyhow::Result<Duration> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    let begun = Instant::now();
    stream.write_all(request.as_bytes()).await?;
    let (mut text, mut part) = (String::new(), vec![0; 4_096]);
    loop {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut part)).await.context("no answer")??;
        anyhow::ensure!(read > 0, "the connection ended after {text:?}");
        text.push_str(&String::from_utf8_lossy(&part[..read]));
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.to_ascii_lowercase();
        let length = length.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if body.len() >= length {
            anyhow::ensure!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text}");
            return Ok(begun.elapsed());
        }
    }
}
