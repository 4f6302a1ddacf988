//! COLL-7 from outside: groups that encrypt have the same results, ends and culprits as others, nothing of their numbers is on the wire,
//! and who changes what is under way ends the group.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use collectives::{Algorithm, Buf, BufMut, Communicator, Error, Op, Options, Rendezvous, Wire, connect_with};
use support::{connect_all_with, on_all, rendezvous};

fn encrypted(options: Options) -> Options {
    Options { tcp_only: true, encrypt: true, ..options }
}

fn group(world: usize, options: Options) -> Vec<Arc<dyn Communicator>> {
    connect_all_with(rendezvous(world), options).into_iter().map(|one| one.unwrap()).collect()
}

fn value(rank: u32, at: usize) -> f32 {
    (at as u32 ^ rank.wrapping_mul(7919)).wrapping_mul(0x9e37_79b9) as i32 as f32
}

/// What every operation gives, over these sizes.
fn results(group: &[Arc<dyn Communicator>]) -> Vec<Vec<Vec<f32>>> {
    let counts = [1, 12, 8_000, 100_003, 700_001];
    on_all(group, |comm| {
        let (rank, world) = (comm.rank(), comm.world_size() as usize);
        let mut all = Vec::new();
        for count in counts {
            let own = || (0..count).map(|at| value(rank, at)).collect::<Vec<f32>>();
            let mut sum = own();
            comm.all_reduce(BufMut::from(&mut sum), Op::Sum).unwrap();
            let mut gathered = vec![0f32; count * world];
            comm.all_gather(Buf::from(&own()), BufMut::from(&mut gathered)).unwrap();
            let mut part = vec![0f32; count];
            comm.reduce_scatter(Buf::from(&gathered), BufMut::from(&mut part), Op::Avg).unwrap();
            let mut copy = own();
            comm.broadcast(BufMut::from(&mut copy), world as u32 - 1).unwrap();
            comm.barrier().unwrap();
            all.extend([sum, gathered, part, copy]);
        }
        all
    })
}

#[test]
fn coll_7_the_bits_are_those_of_a_group_that_does_not_encrypt() {
    let ways = [
        Options::default(),
        Options { algorithm: Algorithm::Ring, ..Options::default() },
        Options { streams: 3, ..Options::default() },
        Options { streams: 2, algorithm: Algorithm::Ring, wire: Wire::Bf16, ..Options::default() },
    ];
    for world in [2, 4] {
        for options in ways {
            let plain = results(&group(world, Options { tcp_only: true, ..options }));
            let sealed = results(&group(world, encrypted(options)));
            let bits = |results: &[Vec<Vec<f32>>]| -> Vec<Vec<u8>> {
                results.iter().flatten().map(|one| Buf::from(one).as_bytes().to_vec()).collect()
            };
            assert!(bits(&plain) == bits(&sealed), "{world} {options:?}");
        }
    }
}

#[test]
fn coll_7_one_rank_that_wants_it_takes_those_along_that_do_not() {
    let threads: Vec<_> = rendezvous(3)
        .into_iter()
        .map(|one| {
            let options = Options { tcp_only: true, encrypt: one.rank == 1, ..Options::default() };
            std::thread::spawn(move || {
                let comm = connect_with(one, options).unwrap();
                let mut sum = vec![1f32; 70_000];
                comm.all_reduce(BufMut::from(&mut sum), Op::Sum).map(|()| sum)
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap().unwrap(), vec![3f32; 70_000]);
    }
}

#[test]
fn coll_4_5_aborts_deaths_and_ranks_that_differ_are_named_as_ever() {
    let group = group(3, encrypted(Options::default()));
    let ends = on_all(&group, |comm| {
        let count = if comm.rank() == 1 { 10 } else { 20 };
        comm.all_reduce(BufMut::from(&mut vec![1f32; count]), Op::Sum)
    });
    assert!(ends.iter().any(|end| matches!(end, Err(Error::Mismatch { culprit: Some(1), .. }))), "{ends:?}");
    assert!(ends.iter().all(|end| matches!(end, Err(Error::Mismatch { .. } | Error::Aborted { .. }))), "{ends:?}");

    let group = self::group(3, encrypted(Options::default()));
    let ends = on_all(&group, |comm| {
        if comm.rank() == 2 {
            comm.abort("out of data");
            return Ok(());
        }
        comm.barrier()
    });
    for end in &ends[..2] {
        let Err(Error::Aborted { culprit: Some(2), cause, .. }) = end else { panic!("{end:?}") };
        assert_eq!(cause, "out of data");
    }
}

type Connected = Result<Arc<dyn Communicator>, Error>;

/// Between rank 1 and rank 0: passes everything on, keeps it, and turns one bit over in what comes after so many bytes of a connection.
struct Wiretap {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Wiretap {
    fn before(real: SocketAddr, turns_over: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let all = Arc::clone(&heard);
        std::thread::spawn(move || {
            while let Ok((dialer, _)) = listener.accept() {
                let accepter = TcpStream::connect(real).unwrap();
                let ways = [(dialer.try_clone(), accepter.try_clone()), (Ok(accepter), Ok(dialer))];
                for (from, to) in ways {
                    let (from, to, all) = (from.unwrap(), to.unwrap(), Arc::clone(&all));
                    std::thread::spawn(move || pass_on(from, to, &all, turns_over));
                }
            }
        });
        Wiretap { address, heard }
    }

    /// A group of two, rank 1 of which dials rank 0 through it.
    fn between(turns_over: u64, options: Options) -> (Self, Vec<Connected>) {
        let mut all: Vec<Rendezvous> = rendezvous(2);
        let wiretap = Wiretap::before(all[0].peers[0].address, turns_over);
        all[1].peers[0].address = wiretap.address;
        (wiretap, connect_all_with(all, options))
    }

    fn heard(&self, text: &[u8]) -> bool {
        self.heard.lock().unwrap().iter().any(|way| way.windows(text.len()).any(|part| part == text))
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, all: &Mutex<Vec<Vec<u8>>>, turns_over: u64) {
    let (mut bytes, passed) = ([0; 4096], AtomicU64::new(0));
    let place = {
        let mut all = all.lock().unwrap();
        all.push(Vec::new());
        all.len() - 1
    };
    while let Ok(some @ 1..) = from.read(&mut bytes) {
        let before = passed.fetch_add(some as u64, Ordering::Relaxed);
        all.lock().unwrap()[place].extend_from_slice(&bytes[..some]);
        if (before..before + some as u64).contains(&turns_over) {
            bytes[(turns_over - before) as usize] ^= 1;
        }
        if to.write_all(&bytes[..some]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

const WORDS: &[u8; 16] = b"weights of mine!";

fn words() -> Vec<i32> {
    let (numbers, _) = WORDS.as_chunks();
    numbers.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect::<Vec<i32>>().repeat(2_000)
}

/// From rank 1, which dials, to rank 0.
fn send_words(comm: &dyn Communicator) -> Result<Vec<i32>, Error> {
    let mut words = if comm.rank() == 1 { words() } else { vec![0; 8_000] };
    comm.broadcast(BufMut::from(&mut words), 1)?;
    comm.barrier()?;
    Ok(words)
}

fn whole(ranks: Vec<Connected>) -> Vec<Arc<dyn Communicator>> {
    ranks.into_iter().map(|one| one.unwrap()).collect()
}

#[test]
fn coll_7_who_listens_on_the_way_reads_nothing() {
    for (encrypt, reads) in [(false, true), (true, false)] {
        let (wiretap, ranks) = Wiretap::between(u64::MAX, Options { tcp_only: true, encrypt, ..Options::default() });
        let got = on_all(&whole(ranks), send_words);
        assert!(got.iter().all(|got| got.as_ref().unwrap() == &words()));
        // The control that must be heard, so that the other can be trusted.
        assert_eq!(wiretap.heard(WORDS), reads, "encrypt: {encrypt}");
    }
}

#[test]
fn coll_7_who_changes_a_bit_on_the_way_ends_the_group_and_no_wrong_number_comes_out() {
    // Past the greeting of 64 bytes and its proof: in a length, a head, the words, a tag. Without a cipher the words would be altered.
    for turns_over in [97, 120, 170, 5_000, 16_300, 30_000] {
        let (_wiretap, ranks) = Wiretap::between(turns_over, encrypted(Options::default()));
        // What is said first, before any operation, counts too.
        if ranks.iter().any(Result::is_err) {
            continue;
        }
        let ends = on_all(&whole(ranks), send_words);
        assert!(ends[0].is_err(), "{turns_over}");
        let all_as_sent = |end: &Result<Vec<i32>, Error>| end.as_ref().is_ok_and(|got| *got == words());
        assert!(ends.iter().all(|end| end.is_err() || all_as_sent(end)), "{turns_over}");
    }
    let (_wiretap, ranks) = Wiretap::between(5_000, Options { tcp_only: true, ..Options::default() });
    let ends = on_all(&whole(ranks), send_words);
    assert!(ends[0].as_ref().is_ok_and(|got| *got != words()), "the control is altered unseen");
}
