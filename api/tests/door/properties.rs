//! Garbage: whatever is sent, the door neither panics nor answers 500, and every answer is complete.

use http::{HeaderName, HeaderValue, Method, Request};
use proptest::prelude::*;
use tokio::runtime::Runtime;
use tower::ServiceExt;

use super::harness::House;

const METHODS: [Method; 7] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::HEAD,
    Method::OPTIONS,
];

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::sample::select(vec![
            "secrets", "policies", "policy", "resources", "roles", "authn", "demo", "variable", "user",
            "root", "x", "admin", "login", "authenticate", "api_key", "api", "", ".", "..", "%2F",
            "%252F", "%00", "%ff", "%", "%zz", ";", "+", "a%20b", "authn-jwt", "whoami", "health",
        ]).prop_map(str::to_owned),
        1 => "[!-~&&[^#?\"<>\\\\^`{}|]]{0,12}",
    ]
}

fn query() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "\\?(check|graph|all|members|memberships|limit|offset|version|role|kind|variable_ids|count|\
         privilege|expirations|dryRun)(=[a-z0-9:%,;&\\[\\]-]{0,20})?",
        "\\?[a-z&;=%+\\[\\]0-9]{0,30}",
    ]
}

fn header() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
    let name = prop::sample::select(vec![
        "authorization",
        "accept",
        "accept-encoding",
        "content-type",
        "x-forwarded-for",
        "x-request-id",
        "x-conclave-index",
        "x-conclave-consistency",
        "idempotency-key",
    ]);
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        "(Token token=\"|Basic |Bearer )[A-Za-z0-9+/=.\" -]{0,60}".prop_map(String::into_bytes),
    ];
    (name, value).prop_filter_map("no header value", |(name, value)| {
        Some((HeaderName::from_static(name), HeaderValue::from_bytes(&value).ok()?))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn garbage_is_answered(
        requests in prop::collection::vec(
            (
                prop::sample::select(METHODS.to_vec()),
                prop::collection::vec(segment(), 0..7),
                query(),
                prop::collection::vec(header(), 0..4),
                prop::collection::vec(any::<u8>(), 0..200),
                any::<bool>(),
            ),
            20,
        )
    ) {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let house = House::new();
            let token = house.token("demo/admin").await;
            for (method, segments, query, headers, body, with_token) in requests {
                let uri = format!("/{}{query}", segments.join("/"));
                let mut request = Request::builder().method(method).uri(&uri);
                for (name, value) in headers {
                    request = request.header(name, value);
                }
                let Ok(mut request) = request.body(axum::body::Body::from(body)) else { continue };
                if with_token {
                    let value = HeaderValue::from_str(&token).unwrap();
                    request.headers_mut().insert("authorization", value);
                }
                let response = house.router.clone().oneshot(request).await.unwrap();
                assert_ne!(response.status().as_u16(), 500, "{uri}");
                assert!(response.headers().contains_key("x-request-id"), "{uri}");
                assert!(response.headers().contains_key("x-conclave-index"), "{uri}");
            }
        });
    }
}
