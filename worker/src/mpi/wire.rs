//! How an agent proves itself to a node and hands over a command: challenge, keyed digest, command; the answer is the
//! command's exit code.

use super::Manifest;
use daemon::clock::boot_time;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longest command line of Open MPI's daemon that is taken.
const REQUEST_BYTES_MAX: u32 = 256 * 1024;
/// For a caller to prove itself.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    token: u64,
    command: String,
}

/// The agent's side: returns the command's exit code.
pub(super) fn ask(mut stream: TcpStream, manifest: &Manifest, command: &str) -> io::Result<u8> {
    stream.set_read_timeout(Some(HANDSHAKE_MAX))?;
    let mut challenge = [0; 32];
    stream.read_exact(&mut challenge)?;
    let request = serde_json::to_vec(&Request { token: manifest.token, command: command.to_owned() })?;
    let length = u32::try_from(request.len()).ok().filter(|length| *length <= REQUEST_BYTES_MAX);
    let length = length.ok_or_else(|| io::Error::other("the command is too long"))?;
    stream.write_all(&digest(&manifest.secret, &challenge, &request))?;
    stream.write_all(&length.to_le_bytes())?;
    stream.write_all(&request)?;
    // The daemon lives as long as the program.
    stream.set_read_timeout(None)?;
    let mut code = [0];
    stream.read_exact(&mut code).map_err(|_| io::Error::other("the member's node is gone"))?;
    Ok(code[0])
}

/// The node's side: the command of a caller that proved itself; an error for any other.
pub(super) fn answer(stream: &mut TcpStream, manifest: &Manifest) -> io::Result<String> {
    let deadline = boot_time() + HANDSHAKE_MAX;
    stream.set_write_timeout(Some(HANDSHAKE_MAX))?;
    let challenge: [u8; 32] = daemon::random::bytes()?;
    stream.write_all(&challenge)?;
    let (mut proof, mut length) = ([0; 32], [0; 4]);
    read_before(stream, &mut proof, deadline)?;
    read_before(stream, &mut length, deadline)?;
    let length = u32::from_le_bytes(length);
    if length > REQUEST_BYTES_MAX {
        return Err(io::Error::other(format!("a request of {length} bytes")));
    }
    let mut request = vec![0; length as usize];
    read_before(stream, &mut request, deadline)?;
    if !equal(&proof, &digest(&manifest.secret, &challenge, &request)) {
        return Err(io::Error::other("a caller that does not know the gang's secret"));
    }
    let request: Request = serde_json::from_slice(&request)?;
    if request.token != manifest.token {
        return Err(io::Error::other(format!("a caller of another attempt (token {})", request.token)));
    }
    stream.set_read_timeout(None)?;
    Ok(request.command)
}

/// A caller that sends a byte now and then gets no more time than another.
fn read_before(stream: &mut TcpStream, mut rest: &mut [u8], deadline: Duration) -> io::Result<()> {
    while !rest.is_empty() {
        let left = deadline.checked_sub(boot_time()).filter(|left| !left.is_zero());
        stream.set_read_timeout(Some(left.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))?))?;
        match stream.read(rest) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => rest = &mut rest[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Keyed twice, as in HMAC: knowing one digest does not help to extend it.
fn digest(secret: &str, challenge: &[u8], request: &[u8]) -> [u8; 32] {
    let keyed = |parts: &[&[u8]]| {
        let mut hash = Sha256::new();
        hash.update(secret.as_bytes());
        for part in parts {
            hash.update(part);
        }
        <[u8; 32]>::from(hash.finalize())
    };
    keyed(&[b"outer", &keyed(&[b"inner", challenge, request])])
}

/// In the same time wherever they differ.
fn equal(one: &[u8; 32], other: &[u8; 32]) -> bool {
    one.iter().zip(other).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn manifest(token: u64, secret: &str) -> Manifest {
        Manifest { token, secret: secret.into(), peers: Vec::new() }
    }

    fn heard(theirs: &Manifest) -> io::Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            let asking = scope.spawn(move || ask(TcpStream::connect(address).unwrap(), theirs, "orted -x \"1\""));
            let (mut stream, _) = listener.accept().unwrap();
            let heard = answer(&mut stream, &manifest(7, "secret"));
            if heard.is_ok() {
                stream.write_all(&[3]).unwrap();
                assert_eq!(asking.join().unwrap().unwrap(), 3);
            }
            heard
        })
    }

    #[test]
    fn a_member_is_heard_and_gets_its_answer() {
        assert_eq!(heard(&manifest(7, "secret")).unwrap(), "orted -x \"1\"");
    }

    #[test]
    fn strangers_and_other_attempts_are_not_heard() {
        assert!(heard(&manifest(7, "guess")).unwrap_err().to_string().contains("secret"));
        assert!(heard(&manifest(6, "secret")).unwrap_err().to_string().contains("attempt"));
    }
}
