//! Tells from a rank's last words whether its framework's own rendezvous failed: an address that somebody else has, or one
//! that nobody answered at. Neither is the program's fault, and other ports mostly help.
//!
//! Only what the frameworks themselves print counts, one line of it: a program that cannot bind a port of its own is a
//! program at fault, whatever it is built on.

use types::RendezvousFault;

/// A longer address is none.
const ADDRESS_BYTES_MAX: usize = 80;

/// A line that a framework prints when its rendezvous fails.
struct Sign {
    framework: &'static str,
    /// Each is in the line, in lower case.
    needles: &'static [&'static str],
    failure: Failure,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// The address is in use.
    Bind,
    /// Nobody answered there, or not in time.
    Connect,
}

use Failure::{Bind, Connect};

const fn sign(framework: &'static str, failure: Failure, needles: &'static [&'static str]) -> Sign {
    Sign { framework, needles, failure }
}

/// The surest first. An address in use is a cause, an address without an answer may be what follows from one.
const SIGNS: [Sign; 17] = [
    // 1.x names the address, 2.x the port alone.
    sign("PyTorch", Bind, &["the server socket has failed to listen on any local network address"]),
    sign("PyTorch", Bind, &["the server socket has failed to bind to", "address already in use"]),
    sign("PyTorch", Bind, &["distnetworkerror", "eaddrinuse"]),
    sign("TensorFlow", Bind, &["failed to add port to server", "no address added"]),
    sign("TensorFlow", Bind, &["could not start grpc server"]),
    sign("TensorFlow", Bind, &["chttp2", "address already in use"]),
    sign("NCCL", Bind, &["nccl", "bind", "address already in use"]),
    sign("gloo", Bind, &["gloo/transport", "bind", "address already in use"]),
    sign("Open MPI", Bind, &["bind() failed", "address already in use"]),
    sign("Open MPI", Bind, &["orte", "address already in use"]),
    sign("PyTorch", Connect, &["the client socket has timed out", "while trying to connect"]),
    sign("PyTorch", Connect, &["timed out initializing process group in store based barrier"]),
    sign("PyTorch", Connect, &["diststoreerror: timed out", "waiting for clients"]),
    sign("gloo", Connect, &["gloo", "connect timeout"]),
    sign("gloo", Connect, &["gloo", "timed out connecting"]),
    sign("NCCL", Connect, &["nccl", "connect to", "failed", "timed out"]),
    sign("Open MPI", Connect, &["unable to complete a tcp connection to another process"]),
];

/// What the framework of a rank with these last words failed at, if that is what they say.
pub(super) fn recognise(stderr: &str) -> Option<RendezvousFault> {
    let lines: Vec<(&str, String)> = stderr.lines().map(|line| (line, line.to_lowercase())).collect();
    for sign in &SIGNS {
        let says = |lower: &str| sign.needles.iter().all(|needle| lower.contains(needle));
        let Some((line, _)) = lines.iter().rev().find(|(_, lower)| says(lower)) else { continue };
        let place = address(line).unwrap_or_else(|| "its address".into());
        let what = match sign.failure {
            Bind => format!("{}'s rendezvous could not bind {place} (address in use)", sign.framework),
            Connect => format!("{}'s rendezvous got no answer at {place}", sign.framework),
        };
        return Some(RendezvousFault { what, in_use: sign.failure == Bind });
    }
    None
}

/// The last thing in a line that looks like `host:port`, or like the words for a port alone.
fn address(line: &str) -> Option<String> {
    let of_pair = pair(line);
    of_pair.or_else(|| line.split(|c: char| c.is_whitespace() || c == '"').rev().find_map(endpoint)).or_else(|| {
        let (_, rest) = line.split_once("port: ")?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        port(&digits).map(|port| format!("port {port}"))
    })
}

/// `(127.0.0.1, 29500)`, as PyTorch says where it wanted to connect to.
fn pair(line: &str) -> Option<String> {
    let (host, number) = line.rsplit_once('(')?.1.split_once(')')?.0.split_once(", ")?;
    port(number).filter(|_| is_host(host)).map(|port| format!("{host}:{port}"))
}

/// A word that is an address with its port, whatever brackets or points stand around it.
fn endpoint(word: &str) -> Option<String> {
    let word = word.trim_start_matches(['(', '\'', '"', '<']);
    let word = word.trim_end_matches(['.', ',', ';', ')', '\'', '"', '>', ':']);
    let (host, number) = word.rsplit_once(':').or_else(|| word.rsplit_once('<'))?;
    port(number).filter(|_| is_host(host)).map(|port| format!("{host}:{port}"))
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

/// An IP address, in brackets or not, or a name with a letter or digit in it; `file.cc` of `file.cc:83` is none.
fn is_host(text: &str) -> bool {
    if text.is_empty() || text.len() > ADDRESS_BYTES_MAX {
        return false;
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let is_file = [".cc", ".cpp", ".c", ".py", ".h", ".cu"].iter().any(|end| bare.ends_with(end));
    bare.parse::<std::net::IpAddr>().is_ok() || (bare.chars().all(is_name) && !is_file && bare != "errno")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn what(stderr: &str) -> String {
        recognise(stderr).unwrap().what
    }

    #[test]
    fn what_frameworks_say_of_an_address_in_use_is_understood() {
        for (said, expected) in [
            (
                "Traceback (most recent call last):\nRuntimeError: The server socket has failed to listen on any local network \
                 address. The server socket has failed to bind to [::]:41300 (errno: 98 - Address already in use). The server \
                 socket has failed to bind to 0.0.0.0:41300 (errno: 98 - Address already in use).\n",
                "PyTorch's rendezvous could not bind 0.0.0.0:41300 (address in use)",
            ),
            (
                "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. \
                 port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use",
                "PyTorch's rendezvous could not bind port 29500 (address in use)",
            ),
            (
                "E0000 00:00:1795733095.028433    3756 add_port.cc:83] Failed to add port to server: No address added out of \
                 total 1 resolved for '0.0.0.0:41439'\nUnknownError: Could not start gRPC server",
                "TensorFlow's rendezvous could not bind 0.0.0.0:41439 (address in use)",
            ),
            (
                "tensorflow.python.framework.errors_impl.UnknownError: Could not start gRPC server",
                "TensorFlow's rendezvous could not bind its address (address in use)",
            ),
            (
                "[vm:12] bind() failed on error Address already in use (98)",
                "Open MPI's rendezvous could not bind its address (address in use)",
            ),
            (
                "w1: NCCL WARN Call to bind to 10.0.0.7<40123> failed : Address already in use",
                "NCCL's rendezvous could not bind 10.0.0.7:40123 (address in use)",
            ),
        ] {
            let fault = recognise(said).unwrap();
            assert_eq!((fault.what.as_str(), fault.in_use), (expected, true), "{said}");
        }
    }

    #[test]
    fn an_address_without_an_answer_is_told_from_one_in_use() {
        for (said, expected) in [
            (
                "TimeoutError: The client socket has timed out after 1800s while trying to connect to (127.0.0.1, 29500).",
                "PyTorch's rendezvous got no answer at 127.0.0.1:29500",
            ),
            (
                "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:799] Connect timeout [127.0.0.1]:40123",
                "gloo's rendezvous got no answer at [127.0.0.1]:40123",
            ),
            (
                "torch.distributed.DistStoreError: Timed out after 301 seconds waiting for clients. 1/4 clients joined.",
                "PyTorch's rendezvous got no answer at its address",
            ),
            (
                "A process or daemon was unable to complete a TCP connection to another process:",
                "Open MPI's rendezvous got no answer at its address",
            ),
        ] {
            let fault = recognise(said).unwrap();
            assert_eq!((fault.what.as_str(), fault.in_use), (expected, false), "{said}");
        }
        // Where both are said, the cause counts.
        let both = "gloo: Connect timeout [127.0.0.1]:2\nThe server socket has failed to bind to [::]:1 (errno: 98 - Address \
                    already in use).";
        assert_eq!(what(both), "PyTorch's rendezvous could not bind [::]:1 (address in use)");
    }

    #[test]
    fn a_programs_own_faults_are_not_a_rendezvous() {
        for said in [
            "",
            "OSError: [Errno 98] Address already in use",
            "ConnectionRefusedError: [Errno 111] Connection refused",
            "RuntimeError: [gloo/transport/tcp/pair.cc:598] Connection closed by peer [127.0.0.1]:40123",
            "RuntimeError: CUDA out of memory",
            "grpc: connect timed out to 10.0.0.1:443",
        ] {
            assert_eq!(recognise(said), None, "{said}");
        }
    }

    #[test]
    fn nothing_in_a_line_makes_an_address_of_what_is_none() {
        for line in ["", ":", "a:b:c", "x:0", "x:65536", "::::9", "pair.cc:799", "(, 5)", "errno:98", "\u{fffd}:80"] {
            assert_eq!(address(line), None, "{line}");
        }
    }
}
