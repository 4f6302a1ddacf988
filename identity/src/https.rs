//! What others publish, over HTTPS by the certificate authorities that this machine trusts: never for anything of a cluster's own.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// For one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Bytes of one answer.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Fields that a file adds.
const HEADERS_MAX: usize = 16;
/// Fields that say what a request is.
const OURS: [HeaderName; 4] = [CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING];

/// What is wrong with an address that keys are to come from: only what cannot be changed on its way may say who is let in.
pub fn address_fault(address: &str) -> Option<String> {
    let fault = || Some(format!("{address:?} is no https:// address (http:// on this machine alone)"));
    let Ok(uri) = address.parse::<Uri>() else { return fault() };
    let host = uri.host().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_here = ip.map_or(host == "localhost", |ip| ip.is_loopback());
    match uri.scheme_str() {
        Some("https") if !host.is_empty() => None,
        Some("http") if is_here => None,
        _ => fault(),
    }
}

/// What is at this address: text of at most 256 KiB that comes within 5 s.
pub async fn get(address: &str) -> Result<String, String> {
    if let Some(fault) = address_fault(address) {
        return Err(fault);
    }
    let uri: Uri = address.parse().map_err(|error| format!("{address:?} is no address: {error}"))?;
    let answer = tokio::time::timeout(ANSWER, ask(uri)).await;
    answer
        .map_err(|_| format!("{address} did not answer within {ANSWER:?}"))?
        .map_err(|why| format!("{address}: {why}"))
}

/// No redirects: an address that leads elsewhere is to be written as it is.
async fn ask(uri: Uri) -> Result<String, String> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector().await?);
    let answer = client.get(uri).await.map_err(|error| deepest(&error))?;
    if answer.status() != http::StatusCode::OK {
        return Err(format!("it answers {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
    String::from_utf8(body.to_bytes().into()).map_err(|_| "its answer is no text".to_owned())
}

async fn connector() -> Result<HttpsConnector<HttpConnector>, String> {
    // The machine's certificates are read from its disk.
    let roots = || {
        let provider = rustls::crypto::ring::default_provider();
        HttpsConnectorBuilder::new().with_provider_and_native_roots(provider).map_err(|error| error.to_string())
    };
    let roots = tokio::task::spawn_blocking(roots).await.map_err(|error| error.to_string())??;
    Ok(roots.https_or_http().enable_http1().build())
}

/// Sends a form, and gives what is answered to it, also with a status that says why not: text of at most 256 KiB that comes within 5 s.
///
/// # Errors
/// What keeps the answer away, or that it speaks of a fault of the other side's own.
pub async fn post_form(address: &str, fields: &[(&str, &str)]) -> Result<String, String> {
    if let Some(fault) = address_fault(address) {
        return Err(fault);
    }
    let form = form(fields);
    let kind = "application/x-www-form-urlencoded";
    let request = http::Request::post(address).header(http::header::CONTENT_TYPE, kind);
    let request = request.header(http::header::ACCEPT, "application/json").body(Full::new(form.into()));
    let request: http::Request<Full<Bytes>> = request.map_err(|error| format!("{address:?} is no address: {error}"))?;
    let answer = async {
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector().await?);
        let answer = client.request(request).await.map_err(|error| deepest(&error))?;
        if answer.status().is_server_error() {
            return Err(format!("it answers {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        String::from_utf8(body.into()).map_err(|_| "its answer is no text".to_owned())
    };
    let answer = tokio::time::timeout(ANSWER, answer).await;
    answer
        .map_err(|_| format!("{address} did not answer within {ANSWER:?}"))?
        .map_err(|why| format!("{address}: {why}"))
}

/// Fields as a form or the query of an address has them.
pub fn form(fields: &[(&str, &str)]) -> String {
    let fields = fields.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value)));
    fields.collect::<Vec<_>>().join("&")
}

/// The fields of a form or of the query of an address; nothing where that is not well formed.
pub fn read_form(text: &str) -> Option<Vec<(String, String)>> {
    let fields = text.split('&').filter(|field| !field.is_empty());
    fields
        .map(|field| field.split_once('=').unwrap_or((field, "")))
        .map(|(a, b)| Some((plain(a)?, plain(b)?)))
        .collect()
}

fn plain(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// As a form has it: all but letters, digits and `-._~` by their bytes.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // A text takes all that is written to it.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// What proves to a collector who sends: header fields, each a line `name: value` of a file; empty lines and those that begin with `#` say
/// nothing. At most 16 of them. Values are in no error and in nobody's log.
///
/// # Errors
/// Every line that is no header field, by its number.
pub fn parse_headers(text: &str) -> Result<HeaderMap, Vec<String>> {
    let (mut headers, mut faults) = (HeaderMap::new(), Vec::new());
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parts = line.split_once(':').map(|(name, value)| (name.trim().parse::<HeaderName>(), value.trim()));
        match parts.map(|(name, value)| (name, HeaderValue::from_str(value))) {
            Some((Ok(name), Ok(_))) if OURS.contains(&name) => {
                faults.push(format!("line {number}: {name} is not set by a file"));
            }
            Some((Ok(name), Ok(mut value))) => {
                value.set_sensitive(true);
                headers.append(name, value);
            }
            _ => faults.push(format!("line {number}: no header field; it is `name: value`")),
        }
    }
    if headers.len() > HEADERS_MAX {
        faults.push(format!("{} header fields, more than {HEADERS_MAX}", headers.len()));
    }
    if faults.is_empty() { Ok(headers) } else { Err(faults) }
}

/// Why something that was sent was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostFault {
    /// It never will be.
    Refused(String),
    /// It may be, later.
    Later(String),
}

/// Sends to one address, over connections that are kept.
pub struct Poster {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    address: String,
    headers: HeaderMap,
}

impl Poster {
    /// Nothing is sent yet; the address is one that [`address_fault`] finds nothing wrong with. Each request has these fields besides.
    pub async fn new(address: &str, headers: HeaderMap) -> Result<Self, String> {
        match address_fault(address) {
            Some(fault) => Err(fault),
            None => Ok(Self {
                client: Client::builder(TokioExecutor::new()).build(connector().await?),
                address: address.to_owned(),
                headers,
            }),
        }
    }

    /// Sends this, and waits at most 5 s for the answer, of which only the status counts.
    pub async fn post(&self, kind: &'static str, body: Bytes) -> Result<(), PostFault> {
        let request = http::Request::post(&self.address).header(CONTENT_TYPE, kind).body(Full::new(body));
        let mut request = request.map_err(|error| PostFault::Refused(error.to_string()))?;
        request.headers_mut().extend(self.headers.clone());
        let answer = async {
            let answer = self.client.request(request).await.map_err(|error| PostFault::Later(deepest(&error)))?;
            let status = answer.status();
            // Read, so that the connection serves the next one too.
            let _ = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            match status {
                status if status.is_success() => Ok(()),
                http::StatusCode::TOO_MANY_REQUESTS | http::StatusCode::REQUEST_TIMEOUT => {
                    Err(PostFault::Later(format!("it answers {status}")))
                }
                status if status.is_server_error() => Err(PostFault::Later(format!("it answers {status}"))),
                status => Err(PostFault::Refused(format!("it answers {status}"))),
            }
        };
        let late = |_| Err(PostFault::Later(format!("no answer within {ANSWER:?}")));
        tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(late)
    }
}

/// Why a request of [`Outgoing`] has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendFault {
    /// It was not sent: its address is none that may be.
    #[error("{0}")]
    Address(String),
    /// It did not get there.
    #[error("{0}")]
    Connect(String),
    /// It may have got there.
    #[error("{0}")]
    Broken(String),
}

/// What an answer of [`Outgoing`] holds.
pub type Answered = BoxBody<Bytes, SendFault>;

/// Sends requests of any kind, and gives answers as they come, over connections that are kept. Clones share these.
#[derive(Clone, Debug)]
pub struct Outgoing<B> {
    client: Client<HttpsConnector<HttpConnector>, B>,
}

impl<B> Outgoing<B>
where
    B: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    /// Nothing is sent yet.
    pub async fn new() -> Result<Self, String> {
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector().await?) })
    }

    /// Sends one, over https; over http only to this machine, and to where clouds tell a machine who it is (169.254.0.0/16). Its caller
    /// bounds the time.
    pub async fn send(&self, request: http::Request<B>) -> Result<http::Response<Answered>, SendFault> {
        if let Some(fault) = destination_fault(request.uri()) {
            return Err(SendFault::Address(fault));
        }
        let answer = self.client.request(request).await.map_err(|error| {
            let fault = if error.is_connect() { SendFault::Connect } else { SendFault::Broken };
            fault(deepest(&error))
        })?;
        Ok(answer.map(|body| body.map_err(|error| SendFault::Broken(error.to_string())).boxed()))
    }
}

fn destination_fault(uri: &Uri) -> Option<String> {
    let host = uri.host().unwrap_or_default();
    let is_of_the_cloud = host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_link_local());
    let here = uri.scheme_str() == Some("http") && is_of_the_cloud;
    // Never the whole address: its query may prove who asks.
    let plain =
        || format!("{}://{}/", uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |a| a.as_str()));
    if here { None } else { address_fault(&plain()) }
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_form_holds_what_was_said() {
        let text = "a-z_0.9~ &=+%é";
        assert_eq!(form(&[("x", text), ("y", "")]), "x=a-z_0.9~%20%26%3D%2B%25%C3%A9&y=");
        let fields =
            |fields: &[(&str, &str)]| fields.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect::<Vec<_>>();
        assert_eq!(read_form(&form(&[("x", text), ("y", "")])), Some(fields(&[("x", text), ("y", "")])));
        assert_eq!(read_form("a=b+c&&d"), Some(fields(&[("a", "b c"), ("d", "")])));
        for bad in ["%", "a=%2", "a=%zz", "a=%ff", "%+1=x"] {
            assert_eq!(read_form(bad), None, "{bad}");
        }
    }

    #[test]
    fn header_fields_are_read_and_faults_show_no_value() {
        let headers = parse_headers("# of the lab\n\nAuthorization: Bearer s3cret\nx-scope: a: b\n").unwrap();
        assert!(headers["authorization"] == "Bearer s3cret" && headers["x-scope"] == "a: b");
        assert!(!format!("{headers:?}").contains("s3cret"));
        let faults = parse_headers("s3cret\nbad name: s3cret\nHost: s3cret\nx: s3\u{7}cret\ny: fine").unwrap_err();
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(faults[3].starts_with("line 4") && !faults.join("").contains("cret"), "{faults:?}");
        let many = "x: y\n".repeat(HEADERS_MAX + 1);
        assert!(parse_headers(&many).unwrap_err()[0].contains("17"));
    }

    #[test]
    fn what_is_sent_goes_over_https_or_stays_here_and_a_fault_shows_no_query() {
        for good in ["https://b.example/x?sig=s3cret", "http://127.0.0.1:9000/b", "http://169.254.169.254/latest"] {
            assert_eq!(destination_fault(&good.parse().unwrap()), None, "{good}");
        }
        for bad in ["http://b.example/x?sig=s3cret", "http://10.0.0.1/x?sig=s3cret", "/x?sig=s3cret"] {
            let fault = destination_fault(&bad.parse().unwrap());
            assert!(fault.is_some_and(|fault| !fault.contains("s3cret")), "{bad}");
        }
    }

    #[test]
    fn keys_come_over_https_or_from_this_machine() {
        for good in ["https://idp.example/keys", "http://127.0.0.1:8/x", "http://[::1]/x", "http://localhost:1/"] {
            assert_eq!(address_fault(good), None, "{good}");
        }
        for bad in
            ["http://idp.example/keys", "http://10.0.0.1/", "file:///etc/passwd", "", "https://", "ftp://x/", "keys"]
        {
            assert!(address_fault(bad).is_some(), "{bad}");
        }
    }
}
