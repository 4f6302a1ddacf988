//! What a sender is told, in the form of the protocol by which it asked: OTLP over HTTP, or gRPC.

use super::server::{Faulty, Protocol};
use crate::shim::protobuf::{bytes_field, varint_field};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// One piece, and for gRPC what comes after it.
#[derive(Debug, Default)]
pub(super) struct Answer {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = match self.data.take() {
            Some(data) => Some(Frame::data(data)),
            None => self.trailers.take().map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }
}

/// All was taken but `rejected` of it; `why` says what became of these.
pub(super) fn taken(protocol: Protocol, rejected: u64, why: &str) -> Response<Answer> {
    // `partial_success` is field 1 of each answer.
    let partial = [varint_field(1, rejected), bytes_field(2, why.as_bytes())].concat();
    let message = if rejected > 0 { bytes_field(1, &partial) } else { Vec::new() };
    match protocol {
        Protocol::Http => response(StatusCode::OK, PROTOBUF, Answer { data: Some(message.into()), trailers: None }),
        Protocol::Grpc => {
            let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
            let frame = [&[0][..], &length.to_be_bytes(), &message].concat();
            let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
            response(StatusCode::OK, GRPC, Answer { data: Some(frame.into()), trailers: Some(trailers) })
        }
    }
}

/// Nothing was taken.
pub(super) fn refused(protocol: Protocol, faulty: Faulty) -> Response<Answer> {
    let (status, code, why) = faulty.told();
    match protocol {
        Protocol::Http => {
            // A `google.rpc.Status`.
            let message = [varint_field(1, code), bytes_field(2, why.as_bytes())].concat();
            let mut refused = response(status, PROTOBUF, Answer { data: Some(message.into()), trailers: None });
            if status == StatusCode::SERVICE_UNAVAILABLE {
                refused.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            refused
        }
        Protocol::Grpc => {
            let mut refused = response(StatusCode::OK, GRPC, Answer::default());
            refused.headers_mut().insert(GRPC_STATUS, HeaderValue::from(code));
            refused.headers_mut().insert(GRPC_MESSAGE, HeaderValue::from_static(why));
            refused
        }
    }
}

fn response(status: StatusCode, kind: HeaderValue, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
