//! Where the browser comes back to: a port of 127.0.0.1 that serves one answer of a provider, and then nothing.
//!
//! Browsers open connections that they may not use, and ask for icons: several are served at once, each for a few seconds and bytes, and
//! only a request for the one path counts. What counts is used once, whatever it says.

use anyhow::Context as _;
use identity::https;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Of the address that the provider sends the browser to.
const PATH: &str = "/muster";
/// For one connection.
const REQUEST: Duration = Duration::from_secs(10);
/// Of a request: codes have a few hundred bytes, and browsers say much of themselves.
const REQUEST_BYTES_MAX: usize = 32 << 10;
/// Connections at once; more wait.
const CONNECTIONS_MAX: usize = 16;

/// What a browser came back with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Landed {
    /// To be exchanged for a token.
    Code(String),
    /// In the provider's words.
    Refused {
        /// A short one of the standard's.
        error: String,
        /// For people.
        description: Option<String>,
    },
    /// Not an answer to this log-in; why.
    Strange(&'static str),
}

/// The port, open.
pub(super) struct Landing {
    listener: TcpListener,
    port: u16,
}

impl Landing {
    /// Port 0 is any that is free.
    pub(super) async fn bind(port: u16) -> anyhow::Result<Self> {
        let bound = TcpListener::bind(("127.0.0.1", port)).await;
        let listener = bound.with_context(|| format!("cannot listen on 127.0.0.1:{port} for the browser"))?;
        let port = listener.local_addr().context("cannot listen for the browser")?.port();
        Ok(Self { listener, port })
    }

    /// Where the provider is to send the browser.
    pub(super) fn address(&self) -> String {
        format!("http://127.0.0.1:{}{PATH}", self.port)
    }

    /// The first answer that comes; the port is closed with it.
    pub(super) async fn wait(self, state: &str, issuer: &str) -> anyhow::Result<Landed> {
        let mut serving = JoinSet::new();
        loop {
            let is_free = serving.len() < CONNECTIONS_MAX;
            tokio::select! {
                Some(served) = serving.join_next() => if let Ok(Some(landed)) = served { return Ok(landed) },
                accepted = self.listener.accept(), if is_free => {
                    let (stream, _) = accepted.context("cannot listen for the browser")?;
                    let (state, issuer, host) = (state.to_owned(), issuer.to_owned(), format!("127.0.0.1:{}", self.port));
                    serving.spawn(async move {
                        let served = serve(stream, &host, &state, &issuer);
                        tokio::time::timeout(REQUEST, served).await.ok().flatten()
                    });
                }
            }
        }
    }
}

/// Answers one request; what it brought, if it was for the path that counts.
async fn serve(mut stream: TcpStream, host: &str, state: &str, issuer: &str) -> Option<Landed> {
    let head = head(&mut stream).await?;
    let landed = read(&head, host, state, issuer);
    let (status, text) = match &landed {
        None => ("404 Not Found", "There is nothing here."),
        Some(Landed::Code(_)) => {
            ("200 OK", "Muster has the provider's answer. Close this page, and go back to the terminal.")
        }
        Some(_) => ("400 Bad Request", "This was no log-in: the terminal says why. Close this page."),
    };
    let page = format!("<!doctype html><html lang=\"en\"><title>Muster</title><p>{text}</p></html>\n");
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\
         cache-control: no-store\r\nreferrer-policy: no-referrer\r\nx-content-type-options: nosniff\r\n\
         content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n\r\n{page}",
        page.len()
    );
    // Whoever does not wait for the page has brought the answer all the same.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    landed
}

async fn head(stream: &mut TcpStream) -> Option<String> {
    let (mut text, mut part) = (Vec::new(), [0; 4_096]);
    while !text.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = stream.read(&mut part).await.ok().filter(|length| *length > 0)?;
        text.extend_from_slice(&part[..length]);
        if text.len() > REQUEST_BYTES_MAX {
            return None;
        }
    }
    String::from_utf8(text).ok()
}

/// Nothing where it is not a request for the path that counts.
fn read(head: &str, host: &str, state: &str, issuer: &str) -> Option<Landed> {
    let mut lines = head.lines();
    let target = lines.next()?.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1")?;
    let query = target.strip_prefix(PATH)?;
    let query = if query.is_empty() { query } else { query.strip_prefix('?')? };
    // A name that somebody lets point to this machine is no address of it.
    let mut hosts = lines.filter_map(|line| line.split_once(':')).filter(|(name, _)| name.eq_ignore_ascii_case("host"));
    if hosts.next().is_none_or(|(_, value)| value.trim() != host) {
        return Some(Landed::Strange("it was for another address"));
    }
    let Some(fields) = https::read_form(query) else { return Some(Landed::Strange("it is not well formed")) };
    let field = |name: &str| {
        let mut values = fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str());
        // What is said twice says nothing.
        values.next().filter(|_| values.next().is_none())
    };
    if field("state") != Some(state) {
        return Some(Landed::Strange("its state is not the one that was sent"));
    }
    // RFC 9207: of which provider it is, where providers say so.
    if field("iss").is_some_and(|said| said != issuer) {
        return Some(Landed::Strange("it is of another provider"));
    }
    Some(match (field("code"), field("error")) {
        (_, Some(error)) => {
            Landed::Refused { error: error.to_owned(), description: field("error_description").map(str::to_owned) }
        }
        (Some(code), None) if !code.is_empty() => Landed::Code(code.to_owned()),
        _ => Landed::Strange("it has neither a code nor a reason why there is none"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn landed(target: &str) -> Option<Landed> {
        let head = format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:80\r\nAccept: */*\r\n\r\n");
        read(&head, "127.0.0.1:80", "st", "https://idp.example")
    }

    #[test]
    fn only_an_answer_to_this_log_in_counts() {
        let code = Some(Landed::Code("a/b c".into()));
        assert_eq!(landed("/muster?state=st&code=a%2Fb+c"), code);
        assert_eq!(landed("/muster?code=a%2fb%20c&iss=https%3A%2F%2Fidp.example&state=st"), code);
        let refused = Landed::Refused { error: "access_denied".into(), description: Some("no".into()) };
        assert_eq!(landed("/muster?error=access_denied&error_description=no&state=st&code=x"), Some(refused));
        for (target, why) in [
            ("/muster", "state"),
            ("/muster?state=other&code=x", "state"),
            ("/muster?state=st&state=st&code=x", "state"),
            ("/muster?state=st&code=x&iss=https%3A%2F%2Fevil.example", "another provider"),
            ("/muster?state=st", "neither"),
            ("/muster?state=st&code=", "neither"),
            ("/muster?state=st&code=x&code=y", "neither"),
            ("/muster?state=%zz", "well formed"),
        ] {
            assert!(matches!(landed(target), Some(Landed::Strange(said)) if said.contains(why)), "{target}");
        }
        for none in ["/favicon.ico", "/", "/musters?state=st&code=x", "/muster/?state=st&code=x"] {
            assert_eq!(landed(none), None, "{none}");
        }
        let foreign = "GET /muster?state=st&code=x HTTP/1.1\r\nHost: evil.example:80\r\n\r\n";
        assert!(matches!(read(foreign, "127.0.0.1:80", "st", "i"), Some(Landed::Strange(_))));
        assert_eq!(read("POST /muster?state=st&code=x HTTP/1.1\r\n\r\n", "h", "st", "i"), None);
    }
}
