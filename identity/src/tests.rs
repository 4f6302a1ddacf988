//! Handshakes over real sockets: who gets in, who does not, and what the other end learns.

use super::*;
use rustls_pki_types::CertificateDer;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use types::{ClusterId, CoordinatorId, Principal, Timestamp, WorkerId};

const CLUSTER: ClusterId = ClusterId([3; 16]);

fn authority() -> Authority {
    Authority::create(CLUSTER, daemon::clock::now()).unwrap()
}

fn coordinator() -> Subject {
    Subject::Coordinator { cluster: CLUSTER, id: CoordinatorId(1) }
}

fn worker() -> Subject {
    Subject::Worker { cluster: CLUSTER, name: WorkerId::new("gpu-1").unwrap() }
}

fn node(authority: &Authority, subject: &Subject, life: Duration, now: Timestamp) -> Node {
    let trusted = [authority.certificate().clone()];
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let request = NodeRequest { subject, hosts: &hosts, trusted: &trusted, vouched: None, now, life };
    Node::new(Material::issue(authority, &request).unwrap())
}

fn fresh(authority: &Authority, subject: &Subject) -> Node {
    node(authority, subject, CERTIFICATE_LIFE, daemon::clock::now())
}

/// Connects `config` to a listener of `server`: what the listener learned, or why the dialer failed.
async fn meet(server: Node, client: std::sync::Arc<rustls::ClientConfig>) -> Result<Option<Peer>, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut incoming = accept(listener, server, Protocol::Grpc, &Places::of_descriptors(20_000)).unwrap();
    let stream = TcpStream::connect(incoming.local_addr()).await.unwrap();
    let name = COORDINATOR_NAME.try_into().unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(client).connect(name, stream).await.map_err(|e| e.to_string())?;
    // In TLS 1.3 a client is done before the server has judged its certificate: it learns of that at the first read.
    let served = tokio::time::timeout(Duration::from_secs(5), incoming.next());
    let mut byte = [0];
    tokio::select! {
        accepted = served => {
            let mut accepted = accepted.map_err(|_| "nothing was accepted".to_owned())?.ok_or("ended")?;
            accepted.write_all(b"k").await.unwrap();
            accepted.flush().await.unwrap();
            stream.read_exact(&mut byte).await.map_err(|error| error.to_string())?;
            Ok(Some((**accepted.peer()).clone()))
        }
        read = stream.read_exact(&mut byte) => Err(read.err().map_or("read".into(), |error| error.to_string())),
    }
}

#[tokio::test]
async fn a_node_is_known_by_its_certificate_and_a_person_comes_without() {
    let authority = authority();
    let server = fresh(&authority, &coordinator());
    let peer = meet(server.clone(), fresh(&authority, &worker()).material().client()).await.unwrap().unwrap();
    let (subject, issued) = peer.node.unwrap();
    assert_eq!(subject, worker());
    assert_eq!(subject.principal(), Principal::Worker(WorkerId::new("gpu-1").unwrap()));
    assert!(daemon::clock::now().0 - issued.0 < 60_000);
    let pinned = tls::pinned_client(&[fingerprint(authority.certificate())]).unwrap();
    assert_eq!(meet(server, pinned).await.unwrap().unwrap().node, None);
}

#[tokio::test]
async fn another_cluster_and_an_expired_certificate_are_refused_by_either_side() {
    let (ours, theirs) = (authority(), authority());
    let server = fresh(&ours, &coordinator());
    assert!(
        meet(server.clone(), fresh(&theirs, &worker()).material().client()).await.is_err(),
        "our node, their cluster"
    );
    let pinned = tls::pinned_client(&[fingerprint(theirs.certificate())]).unwrap();
    assert!(meet(server.clone(), pinned).await.is_err(), "a token of another cluster is never sent");
    // Trusts us, but its own certificate is of the other authority.
    let foreign = fresh(&theirs, &worker()).material();
    let mixed = Material::new(
        foreign.certificate().clone(),
        foreign.key_pem().to_owned(),
        vec![ours.certificate().clone()],
        None,
    );
    assert!(meet(server.clone(), mixed.unwrap().client()).await.is_err(), "their node in our cluster");
    let long_ago = Timestamp(daemon::clock::now().0 - 3_600_000);
    let old = node(&ours, &worker(), Duration::from_mins(1), long_ago);
    assert!(meet(server, old.material().client()).await.is_err(), "expired");
}

#[tokio::test]
async fn who_says_nothing_is_sent_away_and_holds_up_nobody_from_elsewhere() {
    let authority = authority();
    let server = fresh(&authority, &coordinator());
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let mut incoming = accept(listener, server, Protocol::Grpc, &Places::of_descriptors(20_000)).unwrap();
    let port = incoming.local_addr().port();
    // Far more than one address may shake hands for at once.
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    let begun = std::time::Instant::now();
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = other.connect(([127, 0, 0, 1], port).into()).await.unwrap();
    let client = fresh(&authority, &worker()).material().client();
    let name = COORDINATOR_NAME.try_into().unwrap();
    let honest = tokio::spawn(tokio_rustls::TlsConnector::from(client).connect(name, stream));
    let accepted = incoming.next().await.unwrap();
    assert_eq!(accepted.peer().from, "127.0.0.2".parse().ok());
    assert!(begun.elapsed() < Duration::from_secs(4), "held up for {:?}", begun.elapsed());
    drop(honest.await.unwrap().unwrap());
    let mut end = [0];
    for mut stream in silent {
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut end)).await.expect("sent away");
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
}

/// The other ends of connections without a certificate, as a server that always reads has them.
async fn strangers(places: &Places, count: usize) -> Vec<(Peer, tokio::task::JoinHandle<std::io::Result<usize>>)> {
    let authority = authority();
    let server = fresh(&authority, &coordinator());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut incoming = accept(listener, server, Protocol::Grpc, places).unwrap();
    let connector =
        tokio_rustls::TlsConnector::from(tls::pinned_client(&[fingerprint(authority.certificate())]).unwrap());
    let mut strangers = Vec::new();
    for _ in 0..count {
        let stream = TcpStream::connect(incoming.local_addr()).await.unwrap();
        let dialing = connector.connect(COORDINATOR_NAME.try_into().unwrap(), stream);
        let (dialed, accepted) = tokio::join!(dialing, incoming.next());
        let (dialed, mut accepted) = (dialed.unwrap(), accepted.unwrap());
        let peer = (**accepted.peer()).clone();
        let reading = tokio::spawn(async move {
            let _open = dialed;
            accepted.read(&mut [0]).await
        });
        strangers.push((peer, reading));
    }
    strangers
}

#[tokio::test]
async fn who_proves_nothing_is_closed_after_a_while_and_who_is_served_or_known_is_not() {
    let silence = Duration::from_secs(2);
    let places = Places::new(Bounds { silence, ..Bounds::of_descriptors(1_024) });
    let mut strangers = strangers(&places, 3).await;
    let ((known, of_known), (served, of_served), (_, silent)) =
        (strangers.remove(0), strangers.remove(0), strangers.remove(0));
    known.proved();
    tokio::time::sleep(silence / 2).await;
    served.served();
    let patience = Duration::from_secs(20);
    let read = tokio::time::timeout(patience, silent).await.expect("it stays open").unwrap();
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert!(!of_served.is_finished(), "it was of use since");
    assert_eq!((places.closed(Closed::Silent), places.open()), (1, (2, 1)));
    let read = tokio::time::timeout(patience, of_served).await.expect("it stays open").unwrap();
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert!(!of_known.is_finished(), "it is known");
    of_known.abort();
}

#[tokio::test]
async fn a_worker_cannot_pose_as_a_coordinator() {
    let authority = authority();
    let client = fresh(&authority, &worker()).material().client();
    assert!(meet(fresh(&authority, &worker()), client).await.is_err());
}

#[tokio::test]
async fn both_authorities_count_while_they_overlap() {
    let (old, new) = (authority(), authority());
    let both = [old.certificate().clone(), new.certificate().clone()];
    let request = |subject| NodeRequest {
        subject,
        hosts: &[],
        trusted: &both,
        vouched: None,
        now: daemon::clock::now(),
        life: CERTIFICATE_LIFE,
    };
    let subject = coordinator();
    let server = Node::new(Material::issue(&new, &request(&subject)).unwrap());
    let subject = worker();
    let client = Node::new(Material::issue(&old, &request(&subject)).unwrap());
    assert!(meet(server, client.material().client()).await.unwrap().unwrap().node.is_some());
}

#[tokio::test]
async fn who_knows_the_old_authority_alone_believes_the_new_one_while_the_old_one_vouches_for_it() {
    let (old, new) = (authority(), authority());
    let both = [old.certificate().clone(), new.certificate().clone()];
    let now = daemon::clock::now();
    let vouched = old.vouch(&new, now).unwrap();
    let of = |trusted: &[CertificateDer<'static>], vouched: Option<&CertificateDer<'static>>| {
        let request =
            NodeRequest { subject: &coordinator(), hosts: &[], trusted, vouched, now, life: CERTIFICATE_LIFE };
        Node::new(Material::issue(&new, &request).unwrap())
    };
    let server = of(&both, Some(&vouched));
    let before = fresh(&old, &worker());
    assert!(meet(server.clone(), before.material().client()).await.unwrap().unwrap().node.is_some(), "an old worker");
    let pinned = tls::pinned_client(&[fingerprint(old.certificate())]).unwrap();
    assert!(meet(server.clone(), pinned.clone()).await.is_ok(), "a token made before");
    assert!(
        meet(server, tls::pinned_client(&[fingerprint(new.certificate())]).unwrap()).await.is_ok(),
        "one made after"
    );
    // A coordinator that was away meets one that was not: either dials.
    let away = fresh(&old, &coordinator());
    let back = of(&both, Some(&vouched));
    assert!(meet(away, back.material().client()).await.unwrap().unwrap().node.is_some());
    let retired = of(&both[1..], None);
    assert!(meet(retired.clone(), pinned).await.is_err(), "nobody vouches any more");
    assert!(meet(retired, before.material().client()).await.is_err(), "nor does its own certificate count");
    // One who was vouched for signs nodes, not a third authority.
    let third = authority();
    let above = new.vouch(&third, now).unwrap();
    let request = NodeRequest {
        subject: &coordinator(),
        hosts: &[],
        trusted: &[third.certificate().clone(), vouched],
        vouched: Some(&above),
        now,
        life: CERTIFICATE_LIFE,
    };
    let far = Node::new(Material::issue(&third, &request).unwrap());
    assert!(meet(far, before.material().client()).await.is_err());
}

#[tokio::test]
async fn a_connection_under_a_certificate_that_counts_no_more_ends_when_it_is_used() {
    let authority = authority();
    let server = fresh(&authority, &coordinator());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut incoming = accept(listener, server.clone(), Protocol::Grpc, &Places::of_descriptors(20_000)).unwrap();
    let stream = TcpStream::connect(incoming.local_addr()).await.unwrap();
    let config = fresh(&authority, &worker()).material().client();
    let connector = tokio_rustls::TlsConnector::from(config);
    let (dialed, accepted) =
        tokio::join!(connector.connect(COORDINATOR_NAME.try_into().unwrap(), stream), incoming.next());
    let (mut dialed, mut accepted) = (dialed.unwrap(), accepted.unwrap());
    dialed.write_all(b"one").await.unwrap();
    accepted.read_exact(&mut [0; 3]).await.unwrap();
    server.believe_from(Timestamp(accepted.peer().node.as_ref().unwrap().1.0 + 1));
    dialed.write_all(b"two").await.unwrap();
    let read = accepted.read_exact(&mut [0; 3]).await;
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionAborted);
    assert!(accepted.write_all(b"three").await.is_err());
}

#[test]
fn what_is_stored_is_loaded_again_and_others_may_not_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let files = NodeFolder::open(folder.path()).unwrap();
    assert!(files.load().unwrap().is_none());
    let authority = authority();
    let material = fresh(&authority, &coordinator()).material();
    files.store(&material).unwrap();
    files.store_authority(&authority).unwrap();
    let loaded = files.load().unwrap().unwrap();
    assert_eq!((loaded.subject.clone(), loaded.issued), (coordinator(), material.issued));
    let which = fingerprint(authority.certificate());
    assert_eq!(files.authority(which).unwrap().unwrap().certificate(), authority.certificate());
    assert!(files.authority(Fingerprint([0; 32])).unwrap().is_none());
    let key = folder.path().join("identity/node.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(files.load(), Err(FilesError::Io { .. })), "a key that others may read is not used");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&key, b"-----BEGIN").unwrap();
    assert!(matches!(files.load(), Err(FilesError::Damaged { .. })));
}

#[test]
fn a_file_that_holds_no_key_for_secrets_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let held = folder.path().join("key");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    let files = NodeFolder::open(folder.path()).unwrap().with_sealing_key(Some(held.clone()));
    assert!(files.sealing_keys().unwrap().is_none());
    std::fs::write(&held, "not a key\n").unwrap();
    std::fs::set_permissions(&held, private).unwrap();
    let error = files.sealing_keys().err().unwrap();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(
        (error.to_string(), why.as_str()),
        (format!("{} holds no key for secrets", held.display()), "a key is 64 hexadecimal digits")
    );
}

#[test]
fn a_certificate_that_names_nobody_is_refused() {
    assert!(Subject::from_uri("spiffe://00/worker/a").is_none());
    assert_eq!(Subject::from_uri(&worker().uri()), Some(worker()));
    assert_eq!(Subject::from_uri(&coordinator().uri()), Some(coordinator()));
    assert!(Subject::of(&CertificateDer::from(vec![1, 2, 3])).is_err());
    assert!(Subject::of(authority().certificate()).is_err(), "an authority is no node");
}

#[test]
fn credentials_are_kept_for_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.json");
    let token = Secret::generate(SecretKind::Access, Fingerprint([1; 32])).unwrap();
    Credentials { coordinators: vec!["a:1".into()], token: token.clone() }.store(&path).unwrap();
    let read = Credentials::load(&path).unwrap();
    assert!(read.token == token && read.coordinators == ["a:1"]);
    std::fs::write(&path, b"{\"token\": \"muster_pat_secret").unwrap();
    let error = Credentials::load(&path).err().unwrap().to_string();
    assert!(!error.contains("secret"), "{error}");
}
