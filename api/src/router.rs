//! All routes in one table, and how a request finds its own.
//!
//! Patterns are matched against raw segments, which are decoded one by one after the match (see
//! `wire::path`). In a pattern `:account` is one segment that decodes to an account name, `:kind` one
//! of the route's kinds, `:authn` the name of an authenticator, `:service`, `:login`, `:type`,
//! `:name` and `:token` one segment each, and `*id` everything that is left.

use std::fmt;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use conclave_domain::id::Kind;
use futures::future::BoxFuture;
use http::{Method, Request};

use crate::context::{Answer, Call, Params};
use crate::door::Door;
use crate::error::{self, Refusal};
use crate::routes;
use crate::settings::Settings;
use crate::wire::path;

/// Whether a route needs an access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Never looked at.
    Open,
    /// The handler decides; a token that is sent must be valid.
    Optional,
    /// Needed.
    Token,
}

/// What can be switched off; its routes are then not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Host factories and their tokens.
    HostFactories,
    /// Issuers of dynamic secrets.
    DynamicSecrets,
    /// Seeds for followers.
    Seeds,
}

impl Feature {
    /// Whether the settings have it on.
    pub fn is_enabled(self, settings: &Settings) -> bool {
        match self {
            Self::HostFactories => settings.host_factories_enabled,
            Self::DynamicSecrets => settings.dynamic_secrets_enabled,
            Self::Seeds => !settings.seed_accounts.is_empty(),
        }
    }
}

/// What a route does to the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Read,
    /// Changes it, so it is not for a follower.
    Write,
    /// Nothing, but something elsewhere, so it goes on to its end though the client may have gone.
    Outside,
}

pub(crate) type Handler = for<'a> fn(&'a mut Call) -> BoxFuture<'a, Result<Answer, Refusal>>;

/// One row of the table.
pub struct Route {
    /// The method; HEAD goes where GET goes.
    pub method: Method,
    /// The pattern of the path.
    pub pattern: &'static str,
    /// The kinds that `:kind` stands for.
    pub kinds: &'static [Kind],
    /// The query parameter whose presence selects this row.
    pub selector: Option<&'static str>,
    /// Whether it needs a token.
    pub auth: Auth,
    /// Whether it writes.
    pub access: Access,
    /// What it belongs to, where that can be switched off.
    pub feature: Option<Feature>,
    /// The message id of its audit records.
    pub message_id: &'static str,
    /// Its operation in audit records.
    pub operation: &'static str,
    /// Its name in metrics and logs.
    pub name: &'static str,
    pub(crate) handler: Handler,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.pattern)?;
        self.selector.map_or(Ok(()), |key| write!(f, "?{key}"))
    }
}

impl Route {
    /// Whether it is of the v2 API, which has documents of its own for refusals.
    pub(crate) fn is_v2(&self) -> bool {
        self.name.starts_with("v2.")
    }
}

/// The kinds that are roles.
const ROLES: &[Kind] =
    &[Kind::User, Kind::Host, Kind::Layer, Kind::Group, Kind::Policy, Kind::HostFactory];
/// The kinds that are resources.
const RESOURCES: &[Kind] = &Kind::ALL;

macro_rules! route {
    ($method:ident $pattern:literal $(?$selector:literal)? $([$kinds:expr])?, $auth:ident $access:ident,
     $message:literal $operation:literal, $name:literal => $handler:path $(, $feature:ident)?) => {
        Route {
            method: Method::$method,
            pattern: $pattern,
            kinds: route!(@kinds $($kinds)?),
            selector: route!(@selector $($selector)?),
            auth: Auth::$auth,
            access: Access::$access,
            feature: route!(@feature $($feature)?),
            message_id: $message,
            operation: $operation,
            name: $name,
            handler: |call| Box::pin($handler(call)),
        }
    };
    (@feature) => { None };
    (@feature $feature:ident) => { Some(Feature::$feature) };
    (@kinds) => { &[] };
    (@kinds $kinds:expr) => { $kinds };
    (@selector) => { None };
    (@selector $selector:literal) => { Some($selector) };
}

/// Every route. The first row that matches is taken, so rows with a selector stand first.
pub static ROUTES: &[Route] = &[
    route!(GET "/", Open Read, "status" "show", "root.show" => routes::status::root::show),
    route!(OPTIONS "/", Open Read, "status" "show", "root.options" => routes::status::root::options),
    route!(GET "/health", Open Read, "status" "show", "health.show" => routes::status::health::show),
    route!(GET "/health/live", Open Read, "status" "show", "health.live" => routes::status::health::live),
    route!(GET "/health/ready", Open Read, "status" "show", "health.ready" => routes::status::health::ready),
    route!(GET "/health/leader", Open Read, "status" "show", "health.leader" => routes::status::health::leader),
    route!(GET "/remote_health/:name", Open Read, "status" "show", "health.remote"
        => routes::status::health::remote),
    route!(GET "/info", Open Read, "status" "show", "info.show" => routes::status::info::show),
    route!(GET "/metrics", Open Read, "status" "show", "metrics.show" => routes::status::metrics::show),
    route!(GET "/openapi.json", Open Read, "status" "show", "openapi.show"
        => routes::status::openapi::show),
    route!(GET "/authenticators", Open Read, "status" "show", "authenticators.list"
        => routes::status::authenticators::list),
    route!(GET "/whoami", Token Read, "identity-check" "check", "whoami.show"
        => routes::status::whoami::show),
    route!(GET "/accounts", Token Read, "account" "list", "accounts.list"
        => routes::accounts::list::show),
    route!(POST "/accounts", Token Write, "account" "add", "accounts.create"
        => routes::accounts::create::create),
    route!(DELETE "/accounts/:account", Token Write, "account" "remove", "accounts.delete"
        => routes::accounts::delete::delete),
    route!(GET "/audit", Token Read, "audit" "list", "audit.list" => routes::audit::list::show),
    route!(GET "/audit/resources/*id", Token Read, "audit" "list", "audit.resources"
        => routes::audit::list::show),
    route!(GET "/audit/roles/*id", Token Read, "audit" "list", "audit.roles"
        => routes::audit::list::show),
    route!(GET "/audit/entities/*id", Token Read, "audit" "list", "audit.entities"
        => routes::audit::list::show),
    route!(POST "/configuration/:account/seed/follower", Token Write, "seed" "issue", "seeds.follower"
        => routes::seeds::follower::create, Seeds),
    route!(GET "/public_keys/:account/:kind/*id" [&[Kind::User, Kind::PublicKey]], Optional Read,
        "public-keys" "fetch", "public_keys.show" => routes::public_keys::show::show),
    route!(GET "/:authn/:account/login", Optional Read, "authn" "login", "authn.login"
        => routes::authn::login::show),
    route!(GET "/:authn/:service/:account/login", Optional Read, "authn" "login", "authn.login_service"
        => routes::authn::login::show),
    route!(POST "/authn-cert/:service/:account/authenticate", Optional Read, "authn" "authenticate",
        "authn.authenticate_cert" => routes::authn::authenticate::create),
    route!(POST "/authn-gcp/:account/authenticate", Optional Read, "authn" "authenticate",
        "authn.authenticate_gcp" => routes::authn::authenticate::create),
    route!(POST "/authn-jwt/:service/:account/authenticate", Optional Read, "authn" "authenticate",
        "authn.authenticate_jwt" => routes::authn::authenticate::create),
    route!(POST "/authn-oidc/:service/:account/authenticate", Optional Read, "authn" "authenticate",
        "authn.authenticate_oidc" => routes::authn::authenticate::create),
    route!(GET "/authn-oidc/:service/:account/authenticate", Optional Read, "authn" "authenticate",
        "authn.authenticate_oidc_code" => routes::authn::authenticate::create),
    route!(POST "/authn-k8s/:service/inject_client_cert", Optional Outside, "authn"
        "k8s-inject-client-cert", "authn.k8s_inject" => routes::authn::inject::create),
    route!(GET "/authn-oidc/:account/providers", Open Read, "status" "show", "authn.oidc_providers"
        => routes::authn::providers::list),
    route!(POST "/:authn/:account/:login/authenticate", Optional Read, "authn" "authenticate",
        "authn.authenticate" => routes::authn::authenticate::create),
    route!(POST "/:authn/:service/:account/:login/authenticate", Optional Read, "authn" "authenticate",
        "authn.authenticate_service" => routes::authn::authenticate::create),
    route!(PUT "/authn/:account/password", Optional Write, "password" "change", "authn.password"
        => routes::authn::password::update),
    route!(PUT "/:authn/:account/api_key", Optional Write, "api-key" "rotate", "authn.rotate"
        => routes::authn::api_key::rotate),
    route!(GET "/:authn/:account/api_key", Optional Read, "api-key" "show", "authn.key_age"
        => routes::authn::api_key::show),
    route!(PATCH "/:authn/:account", Optional Write, "authn" "update-authenticator-configuration",
        "authn.administer" => routes::authn::administer::update),
    route!(PATCH "/:authn/:service/:account", Optional Write, "authn"
        "update-authenticator-configuration", "authn.administer_service"
        => routes::authn::administer::update),
    route!(GET "/:authn/:account/status", Optional Read, "authn" "validate-status", "authn.status"
        => routes::authn::status::show),
    route!(GET "/:authn/:service/:account/status", Optional Read, "authn" "validate-status",
        "authn.status_service" => routes::authn::status::show),
    route!(GET "/secrets", Token Read, "fetch" "fetch", "secrets.batch" => routes::secrets::batch::show),
    route!(GET "/secrets/:account/:kind/*id" [&[Kind::Variable]], Token Read, "fetch" "fetch",
        "secrets.get" => routes::secrets::get::show),
    route!(POST "/secrets/:account/:kind/*id" ?"expirations" [&[Kind::Variable, Kind::PublicKey]],
        Token Write, "update" "update", "secrets.expire" => routes::secrets::expire::create),
    route!(POST "/secrets/:account/:kind/*id" [&[Kind::Variable, Kind::PublicKey]], Token Write,
        "update" "update", "secrets.set" => routes::secrets::set::create),
    route!(GET "/policies/:account/:kind/*id" [&[Kind::Policy]], Token Read, "policy" "read",
        "policies.show" => routes::policies::show::show),
    route!(POST "/policies/:account/:kind/*id" [&[Kind::Policy]], Token Write, "policy" "create",
        "policies.append" => routes::policies::load::append),
    route!(PATCH "/policies/:account/:kind/*id" [&[Kind::Policy]], Token Write, "policy" "update",
        "policies.update" => routes::policies::load::update),
    route!(PUT "/policies/:account/:kind/*id" [&[Kind::Policy]], Token Write, "policy" "replace",
        "policies.replace" => routes::policies::load::replace),
    route!(POST "/host_factory_tokens", Token Write, "host-factory" "create-tokens",
        "host_factories.create_tokens" => routes::host_factories::create_tokens::create, HostFactories),
    route!(DELETE "/host_factory_tokens/:token", Token Write, "host-factory" "revoke-token",
        "host_factories.revoke_token" => routes::host_factories::revoke_token::delete, HostFactories),
    route!(POST "/host_factories/hosts", Optional Write, "host-factory" "create-host",
        "host_factories.enrol" => routes::host_factories::enrol::create, HostFactories),
    route!(GET "/authenticators/:account", Token Read, "authenticators" "list", "v2.authenticators.list"
        => routes::v2::authenticators::list),
    route!(POST "/authenticators/:account", Token Write, "authenticators" "create",
        "v2.authenticators.create" => routes::v2::authenticators::create),
    route!(GET "/authenticators/:account/:type/:name", Token Read, "authenticators" "get",
        "v2.authenticators.show" => routes::v2::authenticators::show),
    route!(PATCH "/authenticators/:account/:type/:name", Token Write, "authenticators" "enable",
        "v2.authenticators.update" => routes::v2::authenticators::update),
    route!(DELETE "/authenticators/:account/:type/:name", Token Write, "authenticators" "delete",
        "v2.authenticators.delete" => routes::v2::authenticators::delete),
    route!(GET "/ldap-sync/policy", Token Read, "ldap-sync" "show", "ldap_sync.policy"
        => routes::ldap_sync::policy),
    route!(GET "/ldap-sync/:account/:name", Token Read, "ldap-sync" "show", "ldap_sync.show"
        => routes::ldap_sync::show),
    route!(POST "/ldap-sync/:account/:name", Token Write, "ldap-sync" "run", "ldap_sync.apply"
        => routes::ldap_sync::apply),
    route!(GET "/ldap-sync/:account/:name/runs", Token Read, "ldap-sync" "list", "ldap_sync.runs"
        => routes::ldap_sync::runs),
    route!(GET "/branches/:account", Token Read, "branch" "list", "v2.branches.list"
        => routes::v2::branches::list),
    route!(POST "/branches/:account", Token Write, "branch" "create", "v2.branches.create"
        => routes::v2::branches::create),
    route!(GET "/branches/:account/*id", Token Read, "branch" "get", "v2.branches.show"
        => routes::v2::branches::show),
    route!(PATCH "/branches/:account/*id", Token Write, "branch" "update", "v2.branches.update"
        => routes::v2::branches::update),
    route!(DELETE "/branches/:account/*id", Token Write, "branch" "delete", "v2.branches.delete"
        => routes::v2::branches::delete),
    route!(POST "/groups/:account/*id", Token Write, "membership" "create", "v2.members.create"
        => routes::v2::members::create),
    route!(DELETE "/groups/:account/*id", Token Write, "membership" "delete", "v2.members.delete"
        => routes::v2::members::delete),
    route!(GET "/issuers/:account", Token Read, "issuer" "list", "issuers.list"
        => routes::issuers::list::show, DynamicSecrets),
    route!(POST "/issuers/:account", Token Write, "issuer" "add", "issuers.create"
        => routes::issuers::create::create, DynamicSecrets),
    route!(GET "/issuers/:account/:name", Token Read, "issuer" "fetch", "issuers.show"
        => routes::issuers::show::show, DynamicSecrets),
    route!(PATCH "/issuers/:account/:name", Token Write, "issuer" "update", "issuers.update"
        => routes::issuers::update::update, DynamicSecrets),
    route!(DELETE "/issuers/:account/:name", Token Write, "issuer" "remove", "issuers.delete"
        => routes::issuers::delete::delete, DynamicSecrets),
    route!(GET "/resources", Token Read, "list" "list", "resources.list" => routes::resources::list::show),
    route!(GET "/resources/:account", Token Read, "list" "list", "resources.list_account"
        => routes::resources::list::show),
    route!(GET "/resources/:account/:kind" [RESOURCES], Token Read, "list" "list",
        "resources.list_kind" => routes::resources::list::show),
    route!(GET "/resources/:account/:kind/*id" ?"check" [RESOURCES], Token Read, "check" "check",
        "resources.check" => routes::resources::check::show),
    route!(GET "/resources/:account/:kind/*id" ?"permitted_roles" [RESOURCES], Token Read, "resource" "get",
        "resources.permitted_roles" => routes::resources::permitted_roles::show),
    route!(GET "/resources/:account/:kind/*id" [RESOURCES], Token Read, "resource" "get",
        "resources.show" => routes::resources::show::show),
    route!(GET "/roles/:account/:kind/*id" ?"graph" [ROLES], Token Read, "role" "graph",
        "roles.graph" => routes::roles::graph::show),
    route!(GET "/roles/:account/:kind/*id" ?"all" [ROLES], Token Read, "memberships" "list",
        "roles.all" => routes::roles::all::show),
    route!(GET "/roles/:account/:kind/*id" ?"memberships" [ROLES], Token Read, "memberships" "list",
        "roles.memberships" => routes::roles::memberships::show),
    route!(GET "/roles/:account/:kind/*id" ?"members" [ROLES], Token Read, "members" "list",
        "roles.members" => routes::roles::members::show),
    route!(GET "/roles/:account/:kind/*id" [ROLES], Token Read, "role" "get",
        "roles.show" => routes::roles::show::show),
    route!(POST "/roles/:account/:kind/*id" ?"members" [ROLES], Token Write, "policy" "add",
        "roles.add_member" => routes::roles::add_member::create),
    route!(DELETE "/roles/:account/:kind/*id" ?"members" [ROLES], Token Write, "policy" "remove",
        "roles.remove_member" => routes::roles::remove_member::delete),
];

/// How the token middleware looks at a path, by its raw text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathClass {
    /// Not inspected: a token is ignored.
    Open,
    /// A token may be absent, not invalid.
    Optional,
    /// A valid token is needed, whether the path exists or not.
    Required,
}

impl PathClass {
    /// The class of a path as it came, before any normalisation. Metrics that are switched off are a
    /// path like any that is not there.
    pub(crate) fn of(method: &Method, path: &str, has_metrics: bool) -> Self {
        let path = match path.strip_prefix("/api") {
            Some(rest) if rest.starts_with('/') => rest,
            _ => path,
        };
        let is_authn = path.starts_with("/authn/") || path.starts_with("/authn-");
        let open = matches!(
            path,
            "/" | "/authenticators"
                | "/host_factories/hosts"
                | "/health"
                | "/health/live"
                | "/health/ready"
                | "/health/leader"
                | "/info"
                | "/openapi.json"
        ) || has_metrics && path == "/metrics"
            || path.starts_with("/assets/")
            || path.starts_with("/remote_health/")
            || is_authn && path.ends_with("/authenticate")
            || path.starts_with("/authn-k8s/") && path.ends_with("/inject_client_cert")
            || path.starts_with("/authn-oidc/") && path.ends_with("/providers");
        if open || *method == Method::OPTIONS && path == "*" {
            Self::Open
        } else if is_authn || path.starts_with("/public_keys/") {
            Self::Optional
        } else {
            Self::Required
        }
    }
}

/// One segment of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Segment {
    Literal(&'static str),
    Account,
    Kind,
    Authenticator,
    Service,
    Login,
    Type,
    Name,
    Token,
    Tail,
}

/// The path as it may stand in a log: some hold a secret.
pub(crate) fn loggable(path: &str) -> &str {
    if path::split(path).first() == Some(&"host_factory_tokens") {
        "/host_factory_tokens/…"
    } else {
        path
    }
}

/// The table with its patterns taken apart.
pub(crate) struct RouteTable {
    rows: Vec<(Vec<Segment>, &'static Route)>,
}

impl RouteTable {
    pub(crate) fn new() -> Self {
        Self { rows: ROUTES.iter().map(|route| (segments(route.pattern), route)).collect() }
    }

    /// The row for a request and its place, with what stood in the open places.
    pub(crate) fn find(
        &self,
        method: &Method,
        path: &str,
        query: &str,
    ) -> Option<(usize, &'static Route, Params)> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let raw = path::split(path);
        let mut selectors: Option<crate::wire::query::Query> = None;
        self.rows.iter().enumerate().find_map(|(place, (pattern, route))| {
            if route.method != *method {
                return None;
            }
            let params = match_path(pattern, route, &raw)?;
            if let Some(selector) = route.selector {
                let query =
                    selectors.get_or_insert_with(|| crate::wire::query::Query::parse(query));
                if !query.has(selector) {
                    return None;
                }
            }
            Some((place, *route, params))
        })
    }
}

fn segments(pattern: &'static str) -> Vec<Segment> {
    let parts = pattern.split('/').filter(|part| !part.is_empty());
    parts
        .map(|part| match part {
            ":account" => Segment::Account,
            ":kind" => Segment::Kind,
            ":authn" => Segment::Authenticator,
            ":service" => Segment::Service,
            ":login" => Segment::Login,
            ":type" => Segment::Type,
            ":name" => Segment::Name,
            ":token" => Segment::Token,
            "*id" => Segment::Tail,
            literal => Segment::Literal(literal),
        })
        .collect()
}

fn match_path(pattern: &[Segment], route: &Route, raw: &[&str]) -> Option<Params> {
    let greedy = pattern.last() == Some(&Segment::Tail);
    let fits = if greedy { raw.len() >= pattern.len() } else { raw.len() == pattern.len() };
    if !fits {
        return None;
    }
    let mut params = Params::default();
    for (at, (segment, text)) in pattern.iter().zip(raw).enumerate() {
        match segment {
            Segment::Literal(literal) => {
                if literal != text {
                    return None;
                }
                if at == 0 && literal.starts_with("authn-") {
                    params.authenticator = Some((*literal).to_owned());
                }
            }
            Segment::Account => {
                params.account = Some(error::account(&path::decode(text)?).ok()?);
            }
            Segment::Kind => {
                let kind: Kind = text.parse().ok()?;
                if !route.kinds.contains(&kind) {
                    return None;
                }
                params.kind = Some(kind);
            }
            Segment::Authenticator => {
                if *text != "authn" && !text.starts_with("authn-") {
                    return None;
                }
                params.authenticator = Some(path::decode(text)?.into_owned());
            }
            Segment::Service => params.service = Some(path::decode(text)?.into_owned()),
            Segment::Login => params.login = Some(path::decode(text)?.into_owned()),
            Segment::Type => params.r#type = Some(path::decode(text)?.into_owned()),
            Segment::Name => params.name = Some(path::decode(text)?.into_owned()),
            Segment::Token => params.token = Some(path::decode(text)?.into_owned().into()),
            Segment::Tail => params.identifier = Some(path::decode_tail(&raw[at..])?),
        }
    }
    Some(params)
}

/// The route that a request finds, for those who describe routes; nothing when there is none.
pub(crate) fn route_of(method: &Method, path: &str, query: &str) -> Option<&'static Route> {
    static TABLE: OnceLock<RouteTable> = OnceLock::new();
    TABLE.get_or_init(RouteTable::new).find(method, path, query).map(|(_, route, _)| route)
}

/// The name of the route that a request finds; nothing when there is none.
pub fn named(method: &Method, path: &str, query: &str) -> Option<&'static str> {
    route_of(method, path, query).map(|route| route.name)
}

/// The router of a listener without TLS, for load balancers: the door, for the checks and nothing
/// else.
pub fn health_router(door: &Arc<Door>) -> Router {
    let checks = ["/health", "/health/live", "/health/ready", "/health/leader"];
    checks.into_iter().fold(Router::new(), |router, path| {
        let door = door.clone();
        router.route(path, get(move |request: Request<Body>| door.clone().answer(request)))
    })
}

/// The router that a listener serves. Everything goes to the door: axum's own matching decodes
/// before it splits, which would let `%2F` in an id change the route.
pub fn router(door: Arc<Door>) -> Router {
    Router::new().fallback(move |request: Request<Body>| door.clone().answer(request))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &Method, path: &str, query: &str) -> Option<(&'static str, Params)> {
        RouteTable::new().find(method, path, query).map(|(_, route, params)| (route.name, params))
    }

    #[test]
    fn requests_find_their_routes() {
        let get = |path, query| found(&Method::GET, path, query).map(|(name, _)| name);
        assert_eq!(get("/", ""), Some("root.show"));
        assert_eq!(get("/api/whoami/", ""), Some("whoami.show"));
        assert_eq!(get("//resources//a/variable/x/", "check"), Some("resources.check"));
        assert_eq!(get("/roles/a/user/x", "memberships&all&graph"), Some("roles.graph"));
        assert_eq!(get("/roles/a/variable/x", ""), None);
        assert_eq!(get("/secrets/a/public_key/x", ""), None);
        assert_eq!(get("/secrets/a%2Fb/variable/x", ""), None);
        assert_eq!(get("/secrets/a/variable", ""), None);
        assert_eq!(get("/authn/a/u/authenticate", ""), None);
        let (_, params) = found(&Method::HEAD, "/secrets/a/variable/x%2Fy/z%20+", "").unwrap();
        assert_eq!(params.identifier.as_deref(), Some("x/y/z +"));
        let (_, params) = found(&Method::POST, "/authn/a/host%2Fapp/authenticate", "").unwrap();
        assert_eq!(params.login.as_deref(), Some("host/app"));
    }

    #[test]
    fn paths_are_classed_as_they_came() {
        let class = |path| PathClass::of(&Method::GET, path, true);
        assert_eq!(class("/authenticators"), PathClass::Open);
        assert_eq!(class("/authenticators/"), PathClass::Required);
        assert_eq!(class("/authn/a/x/authenticate"), PathClass::Open);
        assert_eq!(class("/api/authn/a/x/authenticate"), PathClass::Open);
        assert_eq!(class("/authn/a/login"), PathClass::Optional);
        assert_eq!(class("/public_keys/a/user/x"), PathClass::Optional);
        assert_eq!(class("/x"), PathClass::Required);
        assert_eq!(class("/metrics"), PathClass::Open);
        assert_eq!(PathClass::of(&Method::GET, "/metrics", false), PathClass::Required);
    }

    #[test]
    fn tokens_in_paths_stay_out_of_logs() {
        for path in ["/host_factory_tokens/s3cret", "//api//host_factory_tokens/s3cret/"] {
            assert_eq!(loggable(path), "/host_factory_tokens/…");
        }
        assert_eq!(loggable("/secrets/a/variable/x"), "/secrets/a/variable/x");
    }

    #[test]
    fn names_are_unique_and_every_pattern_is_reached() {
        let mut names: Vec<_> = ROUTES.iter().map(|route| route.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ROUTES.len());
    }
}
