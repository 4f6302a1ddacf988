//! How an object store is spoken to: over the HTTPS that Muster has for everything outside.

use http_body_util::BodyExt as _;
use identity::https::{Outgoing, SendFault};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use std::time::Duration;
use tonic::async_trait;

/// For the head of one answer. A part of 8 MiB that is sent before it has that long at 150 kB/s.
const HEAD_MAX: Duration = Duration::from_mins(1);

/// The connections of one store.
#[derive(Clone, Debug)]
pub(super) struct Connector(Outgoing<HttpRequestBody>);

impl Connector {
    pub(super) async fn new() -> Result<Self, String> {
        Outgoing::new().await.map(Self)
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        match tokio::time::timeout(HEAD_MAX, self.0.send(request)).await {
            Ok(Ok(answer)) => Ok(answer.map(|body| HttpResponseBody::new(body.map_err(fault)))),
            Ok(Err(why)) => Err(fault(why)),
            Err(late) => Err(HttpError::new(HttpErrorKind::Timeout, late)),
        }
    }
}

fn fault(why: SendFault) -> HttpError {
    let kind = match why {
        SendFault::Address(_) => HttpErrorKind::Unknown,
        SendFault::Connect(_) => HttpErrorKind::Connect,
        SendFault::Broken(_) => HttpErrorKind::Interrupted,
    };
    HttpError::new(kind, why)
}
