//! Every method by every kind of caller, over real connections: served or refused as `docs/security.md` says.

use crate::support::{Member, cluster, within};
use identity::{Authorized, Bearer, Dialer, Secret};
use proto::needs::{METHODS, Method};
use proto::v1;
use proto::v1::access_client::AccessClient;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use types::{CoordinatorId, Grant, Principal, Role, WorkerId};

/// Calls the method with a stream that has no message: whoever is let through is told that the message is missing, or nothing,
/// and nothing is changed.
async fn call(channel: &Authorized, method: &Method) -> Code {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    let called = async {
        grpc.ready().await.map_err(|error| Status::internal(error.to_string()))?;
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let nothing = Request::new(futures::stream::empty());
        grpc.streaming(nothing, PathAndQuery::from_static(method.path), codec).await
    };
    within(called).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

async fn callers(member: &Member) -> Vec<(Principal, Vec<Grant>, Authorized)> {
    let credentials = &member.access().credentials;
    let bare = Dialer::pinned(&[credentials.authority()]).unwrap().lazy(&member.endpoint());
    let mut all = vec![
        (Principal::Stranger, vec![], Authorized::new(bare.clone(), Bearer::none())),
        (
            Principal::Worker(WorkerId::new("w").unwrap()),
            vec![],
            Authorized::new(member.as_worker("w"), Bearer::none()),
        ),
        (Principal::Coordinator(CoordinatorId(7)), vec![], member.as_coordinator(7).await),
    ];
    let mut access = AccessClient::new(member.channel());
    for role in Role::ALL {
        let name = format!("user-{role}");
        let wanted =
            v1::SetUserRequest { name: name.clone(), roles: vec![role.to_string()], create: true, waiting_max: None };
        access.set_user(wanted).await.unwrap();
        let wanted = v1::CreateTokenRequest { user: name.clone(), ..Default::default() };
        let made = access.create_token(wanted).await.unwrap().into_inner();
        let bearer = Bearer::new(&Secret::parse(&made.secret).unwrap()).unwrap();
        let principal = Principal::User { name, token: made.token.unwrap().id };
        all.push((principal, vec![Grant::from(*role)], Authorized::new(bare.clone(), bearer)));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_serves_whom_it_may_and_nobody_else() {
    let members = cluster(1).await;
    let mut faults = Vec::new();
    for (principal, roles, channel) in callers(&members[0]).await {
        for method in METHODS {
            let code = call(&channel, method).await;
            let refused = matches!(code, Code::PermissionDenied | Code::Unauthenticated);
            if refused == method.allows(&principal, &roles) {
                faults.push(format!("{} by {principal}: {code:?}", method.path));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
