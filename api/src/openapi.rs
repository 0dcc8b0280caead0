//! The OpenAPI document, made from the table of routes and from the descriptions here.
//!
//! Paths, methods, kinds, selectors, tokens and the answers that every route has come from the table
//! itself; here stands what the table cannot know: what a route is for, its parameters, its body and
//! its own answers. Rows that share a path and a method become one operation, as OpenAPI knows no
//! selection by query. To add a route, add a row to [`operations`]; a test fails until it is there,
//! and another compares the committed `node/docs/openapi.json` with what is made here.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::router::{Access, Auth, ROUTES, Route, route_of};

/// What a body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Nothing at all.
    Empty,
    /// JSON of a schema in `components`.
    Json(&'static str),
    /// A JSON list of it.
    List(&'static str),
    /// JSON of a schema, in the media type of the v2 API.
    V2(&'static str),
    /// The same as a form.
    Form(&'static str),
    /// Plain text.
    Text,
    /// Events, one after the other.
    Events,
    /// A page for people.
    Html,
    /// A compact JWT.
    Jwt,
    /// A policy text.
    Yaml,
    /// Whatever was stored, of whatever type.
    Bytes,
}

impl Shape {
    const fn media(self) -> Option<&'static str> {
        Some(match self {
            Self::Empty => return None,
            Self::Json(_) | Self::List(_) => "application/json",
            Self::Form(_) => "application/x-www-form-urlencoded",
            Self::Text => "text/plain",
            Self::Events => "text/event-stream",
            Self::Html => "text/html",
            Self::Jwt => "application/jwt",
            Self::Yaml => "application/x-yaml",
            Self::Bytes | Self::V2(_) => "*/*",
        })
    }

    fn schema(self) -> Value {
        let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
        match self {
            Self::Json(name) | Self::Form(name) | Self::V2(name) => reference(name),
            Self::List(name) => json!({"type": "array", "items": reference(name)}),
            Self::Empty
            | Self::Text
            | Self::Events
            | Self::Html
            | Self::Jwt
            | Self::Yaml
            | Self::Bytes => {
                json!({"type": "string"})
            }
        }
    }
}

/// The JSON type of a parameter.
#[derive(Debug, Clone, Copy)]
enum Type {
    Text,
    Number,
    /// Its presence counts, not its value.
    Flag,
    Texts,
}

impl Type {
    fn schema(self) -> Value {
        match self {
            Self::Text | Self::Flag => json!({"type": "string"}),
            Self::Number => json!({"type": "integer", "minimum": 0}),
            Self::Texts => json!({"type": "array", "items": {"type": "string"}}),
        }
    }
}

struct Parameter {
    name: &'static str,
    place: &'static str,
    of: Type,
    required: bool,
    about: &'static str,
}

/// One route, as far as the table does not tell.
struct Operation {
    name: &'static str,
    about: &'static str,
    parameters: Vec<Parameter>,
    body: Vec<(Shape, &'static str)>,
    answers: Vec<(u16, Shape, &'static str)>,
}

fn row(name: &'static str, about: &'static str) -> Operation {
    Operation { name, about, parameters: Vec::new(), body: Vec::new(), answers: Vec::new() }
}

impl Operation {
    /// A query parameter that may be left out.
    fn query(mut self, name: &'static str, of: Type, about: &'static str) -> Self {
        self.parameters.push(Parameter { name, place: "query", of, required: false, about });
        self
    }

    /// A query parameter that may not be left out.
    fn needs(mut self, name: &'static str, of: Type, about: &'static str) -> Self {
        self.parameters.push(Parameter { name, place: "query", of, required: true, about });
        self
    }

    /// A header that the route looks at.
    fn header(mut self, name: &'static str, about: &'static str) -> Self {
        let of = Type::Text;
        self.parameters.push(Parameter { name, place: "header", of, required: false, about });
        self
    }

    /// A body.
    fn takes(mut self, shape: Shape, about: &'static str) -> Self {
        self.body.push((shape, about));
        self
    }

    /// An answer.
    fn gives(mut self, status: u16, shape: Shape, about: &'static str) -> Self {
        self.answers.push((status, shape, about));
        self
    }

    /// Refusals with an error document, or with nothing where that says it all.
    fn refuses<const N: usize>(mut self, statuses: [u16; N]) -> Self {
        for status in statuses {
            self.answers.push((status, Shape::Json("Error"), reason(status)));
        }
        self
    }

    /// The answers of a list of which no more than a part may be asked for.
    fn pages(self) -> Self {
        self.query("limit", Type::Number, "Most items in the answer: a positive number").query(
            "offset",
            Type::Number,
            "Items left out at the start; 10 follow without a limit",
        )
    }
}

/// What a status means wherever it is answered.
fn reason(status: u16) -> &'static str {
    match status {
        400 => "The request cannot be read",
        401 => "No credentials, or bad ones",
        403 => "Known to the caller, and not allowed",
        404 => "Not there, or not for the caller to know of",
        405 => "Not for this kind of thing, or not on this node",
        406 => "A value that this form of answer cannot carry",
        408 => "The body did not come in time",
        409 => "There already, or changed by somebody else at the same time",
        413 => "The body is too large",
        414 => "The path and query are too long",
        422 => "A parameter or the body breaks a rule",
        429 => "Too many failed attempts from here; see Retry-After",
        502 => "This node is not ready, or a directory or a cluster of Kubernetes is ill",
        503 => "Not now: sealed, overloaded or without a leader; see X-Conclave-Reason",
        504 => "A directory did not answer in time",
        _ => "",
    }
}

/// Every route of the table, in its order.
#[expect(clippy::too_many_lines, reason = "one table")]
fn operations() -> Vec<Operation> {
    use Shape::{Bytes, Empty, Events, Form, Html, Json, Jwt, List, Text, V2, Yaml};
    use Type::{Flag, Number, Text as Words, Texts};
    const PRIVILEGE: &str = "A privilege, such as read, execute, update or create";
    const ROLE: &str = "A full role id that the caller holds";
    const MEMBER: &str = "The member, as a full or partial role id";
    const COUNT: &str = "Answers the number of items only";
    const BASE64: &str = "With base64 the answer is encoded, and says so in Content-Encoding";
    const DRY_RUN: &str = "With true nothing is changed; the answer says what would be";
    let load = |name, about| {
        row(name, about)
            .query("dryRun", Words, DRY_RUN)
            .takes(Yaml, "A policy text")
            .gives(201, Json("PolicyLoaded"), "Loaded")
            .gives(200, Json("DryRun"), "What the load would change")
            .gives(422, Json("DryRun"), "Why the text would be refused")
            .refuses([403, 404, 409, 422])
    };
    let authenticate = |name, about| {
        row(name, about)
            .header("Accept-Encoding", BASE64)
            .header("Accept", "With application/jwt the answer is a compact JWT")
            .takes(Text, "The API key, or what the authenticator asks for")
            .gives(200, Json("Token"), "An access token")
            .gives(200, Text, "The same in base64")
            .gives(200, Jwt, "The same as a compact JWT")
            .refuses([400, 401, 403, 413, 429])
    };
    let administer = |name, about| {
        row(name, about)
            .takes(Form("Parameters"), "enabled=true or enabled=false")
            .takes(Json("Parameters"), "enabled: true or false")
            .gives(204, Empty, "Switched")
            .refuses([401, 403])
    };
    let status = |name, about| {
        [403, 404, 500].into_iter().fold(
            row(name, about).gives(200, Json("Status"), "It is").refuses([401]),
            |row, status| row.gives(status, Json("Status"), "What is wrong"),
        )
    };
    let v2 = |name, about| {
        [400, 404, 413, 422].into_iter().fold(
            row(name, about).header("Accept", "Must name application/x.secretsmgr.v2beta+json"),
            |row, status| row.gives(status, V2("Error2"), reason(status)),
        )
    };
    let list = |name, about| {
        row(name, about)
            .query("search", Words, "Words that stand in the id, the kind or an annotation")
            .query("owner", Words, "Only what this role or one that it holds owns")
            .query("role", Words, "As this role, which the caller holds, would see it")
            .query("acting_as", Words, "The same as role")
            .query("count", Words, "With true only the number of items")
            .pages()
            .gives(200, List("Resource"), "What the caller may see, sorted by id")
            .gives(200, Json("Count"), "With count=true")
            .refuses([403, 404, 422])
    };
    let audit = |name, about| {
        row(name, about)
            .query("facility", Number, "10, or 4 of identity checks")
            .query("severity", Number, "4 failed, 5 a change of policy, 6 any other")
            .query("procid", Words, "The request's id")
            .query("msgid", Words, "The sort of record, such as fetch")
            .query("subject@43868/resource", Words, "Any part of sdata, as element/parameter")
            .query("before", Number, "Only records whose number in the chain is less")
            .query("limit", Number, "Most records, 1 to 1000")
            .query("offset", Number, "Records to pass over")
            .gives(
                200,
                List("AuditRecord"),
                "The records; the header X-Conclave-Audit-From is the \
                number of the oldest that was looked at",
            )
            .gives(404, Empty, "There are none")
            .refuses([403, 404, 422])
    };
    let health = |name, about, unready: u16| {
        row(name, about).gives(200, Json("Health"), "Yes").gives(unready, Json("Health"), "No")
    };
    vec![
        // What the server is and how it is.
        row("root.show", "The version, as a page or as JSON")
            .header("Accept", "JSON is for those who rank it first")
            .gives(200, Html, "A page")
            .gives(200, Json("Version"), "The version"),
        row("root.options", "A sign of life").gives(200, Empty, "Alive"),
        health("health.show", "How this node is, part by part", 502),
        health("health.live", "Whether this node answers", 503),
        health("health.ready", "Whether this node may serve", 503),
        health("health.leader", "Whether this node leads", 503),
        row("health.remote", "How another member is, as it says itself")
            .gives(200, Json("Health"), "It is ready")
            .gives(404, Json("Health"), "No member has that name")
            .gives(502, Json("Health"), "It is not, or cannot be reached"),
        row("info.show", "Release, part and authenticators of this node").gives(
            200,
            Json("Info"),
            "What this node is",
        ),
        row("metrics.show", "Metrics as Prometheus text").gives(200, Text, "The metrics").gives(
            401,
            Text,
            "Metrics are switched off, and there is no token",
        ),
        row("openapi.show", "This document").gives(200, Json("OpenApi"), "This document"),
        row("authenticators.list", "Which authenticators are built in, configured and enabled")
            .gives(200, Json("Authenticators"), "Three lists of names"),
        row("whoami.show", "Who the caller is, by its token").gives(
            200,
            Json("WhoAmI"),
            "The caller",
        ),
        // Accounts.
        row("accounts.list", "The names of all accounts; needs read on !:webservice:accounts")
            .gives(200, List("Name"), "The names")
            .refuses([403]),
        row("accounts.create", "A new account; needs execute on !:webservice:accounts")
            .query("id", Words, "Its name")
            .takes(Json("NewAccount"), "Its name, as JSON, as a form or in the query")
            .gives(201, Json("Account"), "Created; the API key is shown this once")
            .refuses([400, 403, 409, 422]),
        row(
            "accounts.delete",
            "Deletes an account with all that is in it; needs update on \
             !:webservice:accounts",
        )
        .gives(204, Empty, "Deleted")
        .refuses([403, 404]),
        // The audit trail.
        audit("audit.list", "What was decided, the newest first"),
        audit("audit.resources", "What was decided about a resource"),
        audit("audit.roles", "What was decided about a role"),
        audit("audit.entities", "What was decided about a role or resource, and what a role did"),
        // Credentials.
        row("authn.login", "The API key of a role, for its password or for the key itself")
            .gives(200, Text, "The API key")
            .refuses([401, 403, 429]),
        row("authn.login_service", "The same by an authenticator of its own")
            .gives(200, Text, "The API key")
            .refuses([401, 403, 429, 502, 504]),
        authenticate("authn.authenticate", "An access token for an API key").refuses([502, 504]),
        authenticate("authn.authenticate_service", "An access token by an authenticator's service")
            .refuses([422, 502, 504]),
        authenticate("authn.authenticate_cert", "An access token for a client certificate"),
        authenticate("authn.authenticate_gcp", "An access token for Google's token of a machine"),
        authenticate("authn.authenticate_jwt", "An access token for a token of another issuer")
            .refuses([502, 504]),
        authenticate("authn.authenticate_oidc", "An access token for an ID token of a provider"),
        row("authn.authenticate_oidc_code", "An access token for a code of a provider")
            .needs("code", Words, "What the provider sent the browser back with")
            .needs("nonce", Words, "From the list of providers")
            .needs("code_verifier", Words, "From the list of providers")
            .query("state", Words, "What the browser brought back; compared where it is there")
            .header("Accept-Encoding", BASE64)
            .header("Accept", "With application/jwt the answer is a compact JWT")
            .gives(200, Json("Token"), "An access token")
            .gives(200, Text, "The same in base64")
            .gives(200, Jwt, "The same as a compact JWT")
            .refuses([400, 401, 403, 429]),
        row("authn.k8s_inject", "A certificate for the client in a pod of Kubernetes, put there")
            .header("Host-Id-Prefix", "The first part of the host's id, with dots for slashes")
            .takes(Text, "A certificate request as PEM, with the pod's SPIFFE id")
            .gives(202, Empty, "The certificate is in the pod")
            .refuses([401, 403, 422, 429, 502, 504]),
        row("authn.oidc_providers", "Where people may log in").gives(
            200,
            List("Provider"),
            "The providers that can be used, with what a client needs to send somebody there",
        ),
        row("authn.password", "Changes the caller's password; needs HTTP Basic")
            .query("role", Words, "Nobody but the caller")
            .takes(Text, "The new password")
            .gives(204, Empty, "Changed")
            .refuses([401, 403, 422, 429]),
        row("authn.rotate", "Gives a role a new API key")
            .query("role", Words, "Whose key; the caller's without, which needs HTTP Basic")
            .gives(200, Text, "The new key")
            .refuses([401, 403, 404, 405, 422, 429]),
        row("authn.key_age", "When a role's API key was made")
            .query("role", Words, "Whose key; the caller's without, which needs HTTP Basic")
            .gives(200, Json("KeyAge"), "When")
            .refuses([401, 403, 404, 405, 422, 429]),
        // Authenticators.
        administer("authn.administer", "Switches an authenticator on or off"),
        administer("authn.administer_service", "Switches an authenticator's service on or off"),
        status("authn.status", "Whether an authenticator is fit to be used"),
        status("authn.status_service", "Whether an authenticator's service is fit to be used"),
        // Secrets.
        row("secrets.batch", "Many values in one answer")
            .needs("variable_ids", Words, "Full ids, separated by commas")
            .header("Accept-Encoding", BASE64)
            .gives(200, Json("Values"), "The values by id")
            .refuses([403, 404, 406, 422]),
        row("secrets.get", "A value, as it was stored")
            .query("version", Number, "The number of a version; the newest without")
            .gives(200, Bytes, "The value, of the type in its annotation conjur/mime_type")
            .refuses([403, 404, 422]),
        row("secrets.expire", "Makes a value due for rotation")
            .query("expirations", Flag, "Makes the value due for rotation, in place of setting it")
            .gives(201, Empty, "Due")
            .refuses([403, 404, 422]),
        row("secrets.set", "Sets a value")
            .takes(Bytes, "The value, as it is to be given back")
            .gives(201, Empty, "Set")
            .refuses([403, 404, 405, 422]),
        // Policies.
        load("policies.append", "Adds what a policy text declares"),
        load("policies.update", "Adds and changes what a policy text declares"),
        load(
            "policies.replace",
            "Makes a policy what the text declares, and removes what it does not",
        ),
        row("policies.show", "The policy in force, for whoever owns it")
            .query("depth", Number, "Deepest nesting of policies to show, up to 64")
            .query("limit", Number, "Most resources, annotations and permissions, up to 100000")
            .header("Content-Type", "With application/json the answer is JSON")
            .gives(200, Yaml, "The policy, as text that loads it again")
            .gives(200, List("Statement"), "The same as JSON")
            .refuses([400, 403, 404, 422]),
        row("public_keys.show", "The SSH public keys of a user").gives(
            200,
            Text,
            "A key a line; one empty line when there are none",
        ),
        // Host factories.
        row("host_factories.create_tokens", "Makes tokens with which hosts enrol themselves")
            .query("host_factory", Words, "The full id of the factory, here or in the body")
            .query("expiration", Words, "When they become void, as an ISO 8601 time")
            .query("count", Words, "How many, 1 without, at most 1,000")
            .query("cidr", Texts, "Addresses from which they may be used; any without")
            .query("max_uses", Words, "How often each may be used; any number of times without")
            .takes(Form("Parameters"), "The same parameters")
            .takes(Json("Parameters"), "The same parameters")
            .gives(200, List("HostFactoryToken"), "The tokens")
            .refuses([403, 404, 422, 503]),
        row("host_factories.revoke_token", "Makes a host factory token void")
            .gives(204, Empty, "Void")
            .refuses([403, 404]),
        row("host_factories.enrol", "Creates a host, or gives the factory's host a new API key")
            .header("Authorization", "Token token=\"<host factory token>\", not in base64")
            .query("id", Words, "The identifier of the host, here or in the body")
            .takes(Form("Parameters"), "The same, and annotations as annotations[name]=value")
            .takes(Json("Parameters"), "The same, and annotations as an object")
            .gives(201, Json("Resource"), "The host, with its api_key")
            .refuses([401, 403, 422]),
        row("seeds.follower", "Issues a seed, good once, with which a follower joins")
            .query("follower_hostname", Words, "Its group's load balancer, or its own name")
            .query("name", Words, "What the node is called; the first label of that without")
            .query("names", Texts, "More names under which clients reach it")
            .query("cidr", Texts, "Addresses from which the follower may join; any without")
            .query("minutes", Number, "How long the seed is good; an hour without")
            .takes(Form("Parameters"), "The same parameters")
            .takes(Json("Parameters"), "The same parameters")
            .gives(200, Json("Seed"), "The seed file: secret, and to be deleted after use")
            .refuses([403, 404, 409, 422]),
        // The v2 API.
        v2("v2.authenticators.list", "Authenticators with what they are configured with")
            .query("type", Words, "Only of this type")
            .pages()
            .gives(200, V2("Authenticators2"), "Those that the caller sees, and how many"),
        v2("v2.authenticators.create", "Creates an authenticator with all that belongs to it")
            .takes(Json("Parameters"), "type, name, enabled, owner, data, annotations")
            .gives(201, V2("Authenticator"), "The authenticator")
            .gives(409, V2("Error2"), "There already"),
        v2("v2.authenticators.show", "One authenticator").gives(
            200,
            V2("Authenticator"),
            "The authenticator",
        ),
        v2("v2.authenticators.update", "Switches an authenticator on or off")
            .takes(Json("Parameters"), "enabled")
            .gives(200, V2("Authenticator"), "The authenticator")
            .gives(409, V2("Error2"), "The account was changed at the same time"),
        v2("v2.authenticators.delete", "Removes an authenticator and all that belongs to it")
            .gives(204, Empty, "Removed")
            .gives(409, V2("Error2"), "The account was changed at the same time"),
        // LDAP Sync.
        row("ldap_sync.policy", "The policy that a profile of LDAP Sync generates, as events")
            .needs("config_name", Words, "The profile")
            .header("Accept", "Has to allow text/event-stream")
            .gives(200, Events, "What is told on the way; last the policy or the error")
            .refuses([403, 406, 422]),
        row("ldap_sync.show", "What a profile of LDAP Sync would change now")
            .gives(200, Json("LdapSyncDraft"), "The policy, and what of it is not so yet")
            .refuses([403, 404, 422, 502, 504]),
        row("ldap_sync.apply", "Runs a profile of LDAP Sync")
            .query("force", Words, "With true it takes away more than its guard allows, too")
            .gives(200, Json("LdapSyncRun"), "What it changed")
            .refuses([403, 404, 405, 409, 422, 502, 504]),
        row("ldap_sync.runs", "The last runs of a profile of LDAP Sync")
            .gives(200, List("LdapSyncRun"), "The last one first")
            .refuses([403, 404, 422]),
        v2("v2.branches.list", "Branches, which are policies seen as a tree").pages().gives(
            200,
            V2("Branches"),
            "Those that the caller sees, and how many",
        ),
        v2("v2.branches.create", "Creates a branch")
            .takes(Json("Parameters"), "name, branch, owner, annotations")
            .gives(201, V2("Branch"), "The branch")
            .gives(409, V2("Error2"), "There already"),
        v2("v2.branches.show", "One branch").gives(200, V2("Branch"), "The branch"),
        v2("v2.branches.update", "Changes a branch's owner, adds to its annotations")
            .takes(Json("Parameters"), "owner, annotations")
            .gives(200, V2("Branch"), "The branch")
            .gives(409, V2("Error2"), "The account was changed at the same time"),
        v2("v2.branches.delete", "Removes a branch and all below it")
            .gives(204, Empty, "Removed")
            .gives(409, V2("Error2"), "The account was changed at the same time"),
        v2("v2.members.create", "Makes a user, host or group a member: the id ends with /members")
            .takes(Json("Parameters"), "kind, id")
            .gives(201, V2("Member"), "The member")
            .gives(409, V2("Error2"), "A member already"),
        v2("v2.members.delete", "Removes a member: the id ends with /members/{kind}/{id}")
            .gives(204, Empty, "Removed")
            .gives(409, V2("Error2"), "The account was changed at the same time"),
        // Issuers.
        row("issuers.list", "Issuers of dynamic secrets, where those are switched on")
            .query("sort", Words, "The field to sort by")
            .gives(200, Json("Issuers"), "The issuers, their secrets masked")
            .refuses([400, 403]),
        row("issuers.create", "Creates an issuer")
            .takes(Json("Parameters"), "id, type, max_ttl, data")
            .gives(201, Json("Issuer"), "The issuer, its secret masked")
            .refuses([400, 403, 409, 422]),
        row("issuers.show", "One issuer")
            .query("projection", Words, "With minimal its max_ttl only")
            .gives(200, Json("Issuer"), "The issuer, its secret masked")
            .gives(200, Json("MaxTtl"), "With projection=minimal")
            .refuses([403, 404, 422]),
        row("issuers.update", "Gives an issuer other credentials or a longer max_ttl")
            .takes(Json("Parameters"), "max_ttl, data")
            .gives(200, Json("Issuer"), "The issuer, its secret masked")
            .refuses([400, 403, 404, 409, 422]),
        row("issuers.delete", "Removes an issuer and its dynamic secrets")
            .query("keep_secrets", Words, "With true the variables stay")
            .gives(204, Empty, "Removed")
            .refuses([403, 404, 409]),
        // Resources.
        list("resources.list", "Resources of all accounts").query(
            "kind",
            Words,
            "Only of this kind",
        ),
        list("resources.list_account", "Resources of an account").query(
            "kind",
            Words,
            "Only of this kind",
        ),
        list("resources.list_kind", "Resources of one kind"),
        row("resources.check", "Whether a role may")
            .query("check", Flag, "Asks whether a role may, in place of the resource")
            .query("privilege", Words, PRIVILEGE)
            .query("role", Words, ROLE)
            .gives(204, Empty, "It may")
            .refuses([403, 404, 422]),
        row("resources.permitted_roles", "Which roles may")
            .query("permitted_roles", Flag, "Asks which roles may, in place of the resource")
            .query("privilege", Words, PRIVILEGE)
            .query("permission", Words, "The same as privilege")
            .gives(200, List("Id"), "Full role ids")
            .refuses([403, 404, 422]),
        row("resources.show", "One resource")
            .gives(200, Json("Resource"), "The resource")
            .refuses([403, 404]),
        // Roles.
        row("roles.graph", "Every grant above and below a role")
            .query("graph", Flag, "Asks for every grant above and below")
            .gives(200, List("Edge"), "The grants")
            .refuses([403, 404]),
        row("roles.all", "Every role that a role holds")
            .query("all", Flag, "Asks for every role that this one holds")
            .query("filter", Texts, "Only these roles")
            .query("count", Flag, COUNT)
            .gives(200, List("Id"), "Full role ids")
            .gives(200, Json("Count"), "With count")
            .refuses([403, 404]),
        row("roles.memberships", "The roles granted to a role directly")
            .query("memberships", Flag, "Asks for the roles granted to this one")
            .query("count", Flag, COUNT)
            .gives(200, List("Membership"), "The memberships")
            .gives(200, Json("Count"), "With count")
            .refuses([403, 404]),
        row("roles.members", "Who a role is granted to directly")
            .query("members", Flag, "Asks for those that this role is granted to")
            .query("search", Words, "Part of the member's identifier")
            .query("kind", Texts, "Only members of these kinds")
            .query("count", Flag, COUNT)
            .pages()
            .gives(200, List("Membership"), "The memberships")
            .gives(200, Json("Count"), "With count")
            .refuses([403, 404, 422]),
        row("roles.show", "One role with its members")
            .gives(200, Json("Role"), "The role")
            .refuses([403, 404]),
        row("roles.add_member", "Grants a role outside any policy")
            .needs("members", Flag, "Says that the members are meant")
            .query("member", Words, MEMBER)
            .gives(204, Empty, "Granted")
            .refuses([403, 404, 422]),
        row("roles.remove_member", "Takes a role away outside any policy")
            .needs("members", Flag, "Says that the members are meant")
            .query("member", Words, MEMBER)
            .gives(204, Empty, "Taken")
            .refuses([403, 404, 422]),
    ]
}

/// The answers that the door itself gives on the way to a route.
fn common(route: &Route, has_body: bool) -> Vec<(u16, Shape, &'static str)> {
    let mut answers: Vec<_> =
        [400, 404, 414, 503].map(|status| (status, Shape::Empty, reason(status))).into();
    if route.auth != Auth::Open {
        // The token, and where it may be used from.
        answers.extend([401, 403].map(|status| (status, Shape::Text, reason(status))));
        answers.push((403, Shape::Empty, reason(403)));
    }
    if route.access == Access::Write {
        answers.push((413, Shape::Empty, reason(413)));
        let refusal = if route.is_v2() { Shape::V2("Error2") } else { Shape::Json("Error") };
        answers.push((405, refusal, reason(405)));
    }
    if has_body {
        answers.extend([408, 413].map(|status| (status, Shape::Empty, reason(status))));
    }
    answers
}

/// The document as a value.
pub fn document() -> Value {
    let operations = operations();
    let mut paths: BTreeMap<String, BTreeMap<String, Map<String, Value>>> = BTreeMap::new();
    for route in ROUTES {
        let Some(operation) = operations.iter().find(|known| known.name == route.name) else {
            continue;
        };
        let method = route.method.as_str().to_ascii_lowercase();
        let entry = paths.entry(template(route.pattern)).or_default().entry(method).or_default();
        add(entry, route, operation);
    }
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Conclave",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Secrets, roles and policies. Every path may also be asked for below \
                /api. GET answers HEAD too. A refusal that is not told in JSON has an empty body, \
                or plain text where it is about the access token.",
            "license": {"name": "See the file LICENSE of the distribution"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "Token token=\"<base64 of the access token's JSON>\"",
                },
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "basic": {"type": "http", "scheme": "basic"},
            },
            "schemas": all_schemas(),
        },
    })
}

/// The document as it is served and committed.
pub fn text() -> Bytes {
    static TEXT: OnceLock<Bytes> = OnceLock::new();
    TEXT.get_or_init(|| {
        let mut text = format!("{:#}", document());
        text.push('\n');
        text.into()
    })
    .clone()
}

/// Routes without a description and descriptions without a route: none, if all is well.
pub fn undescribed() -> Vec<&'static str> {
    let described: Vec<_> = operations().iter().map(|operation| operation.name).collect();
    let routed: Vec<_> = ROUTES.iter().map(|route| route.name).collect();
    let missing = routed.iter().filter(|name| !described.contains(name));
    missing.chain(described.iter().filter(|name| !routed.contains(name))).copied().collect()
}

/// Says what is wrong with an answer by the document: nothing when it is documented, when no route
/// is asked for, or when the route has no description yet.
pub fn undocumented(
    method: &Method,
    path: &str,
    query: &str,
    status: StatusCode,
    media: Option<&str>,
) -> Option<String> {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    let route = route_of(method, path, query)?;
    let document = DOCUMENT.get_or_init(document);
    let key = route.method.as_str().to_ascii_lowercase();
    let operation = &document["paths"][template(route.pattern)][key];
    if operation.is_null() {
        return None;
    }
    // A path that is read as an open one, but not written as one, wants a token: see `PathClass`.
    if status == StatusCode::UNAUTHORIZED && route.auth == Auth::Open && path != route.pattern {
        return None;
    }
    let answer = &operation["responses"][status.as_str()];
    if answer.is_null() {
        return Some(format!("{route:?} answers {status}, which is not documented"));
    }
    let media = media?.split(';').next()?.trim();
    let content = &answer["content"];
    let known = !content[media].is_null() || !content["*/*"].is_null();
    (!known).then(|| format!("{route:?} answers {status} with {media}, which is not documented"))
}

/// `/secrets/:account/:kind/*id` as `/secrets/{account}/{kind}/{identifier}`.
fn template(pattern: &str) -> String {
    let parts = pattern.split('/').map(|part| match placeholder(part) {
        Some(name) => format!("{{{name}}}"),
        None => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("/")
}

/// The name of an open place in a pattern.
fn placeholder(part: &str) -> Option<&str> {
    match part {
        ":authn" => Some("authenticator"),
        "*id" => Some("identifier"),
        _ => part.strip_prefix(':').or_else(|| part.strip_prefix('*')),
    }
}

/// Adds a row to the operation of its path and method.
fn add(entry: &mut Map<String, Value>, route: &Route, operation: &Operation) {
    // The row without a selector gives the name; rows with one stand before it.
    entry.insert("operationId".to_owned(), operation.name.into());
    let summary = match entry.get("summary").and_then(Value::as_str) {
        Some(before) => format!("{}; {before}", operation.about),
        None => operation.about.to_owned(),
    };
    entry.insert("summary".to_owned(), summary.into());
    let tag = operation.name.split('.').next().unwrap_or_default();
    entry.insert("tags".to_owned(), json!([tag]));
    let security = match route.auth {
        Auth::Open => json!([]),
        Auth::Optional => json!([{}, {"token": []}, {"bearer": []}, {"basic": []}]),
        Auth::Token => json!([{"token": []}, {"bearer": []}]),
    };
    entry.insert("security".to_owned(), security);
    add_parameters(entry, route, operation);
    if !operation.body.is_empty() {
        let mut content = Map::new();
        for (shape, _) in &operation.body {
            if let Some(media) = shape.media() {
                content.insert(media.to_owned(), json!({"schema": shape.schema()}));
            }
        }
        let about: Vec<_> = operation.body.iter().map(|(_, about)| *about).collect();
        let body = json!({"description": about.join(", or "), "content": content});
        entry.insert("requestBody".to_owned(), body);
    }
    let answers = entry.entry("responses").or_insert_with(|| json!({}));
    let has_body = !operation.body.is_empty();
    for (status, shape, about) in operation.answers.iter().copied().chain(common(route, has_body)) {
        add_answer(answers, status, shape, about);
    }
}

fn add_parameters(entry: &mut Map<String, Value>, route: &Route, operation: &Operation) {
    let mut parameters = match entry.remove("parameters") {
        Some(Value::Array(parameters)) => parameters,
        _ => Vec::new(),
    };
    let mut push = |parameter: Value| {
        let is_same =
            |known: &Value| known["name"] == parameter["name"] && known["in"] == parameter["in"];
        if !parameters.iter().any(is_same) {
            parameters.push(parameter);
        }
    };
    for name in route.pattern.split('/').filter_map(placeholder) {
        let kinds: Vec<&str> = route.kinds.iter().map(|kind| kind.as_str()).collect();
        let schema = match name {
            "kind" if !kinds.is_empty() => json!({"type": "string", "enum": kinds}),
            "authenticator" => json!({"type": "string", "pattern": "^authn(-[a-z0-9]+)?$"}),
            "account" => json!({"type": "string", "pattern": "^[^ :/]+$"}),
            _ => json!({"type": "string", "minLength": 1}),
        };
        push(json!({"name": name, "in": "path", "required": true, "schema": schema}));
    }
    for parameter in &operation.parameters {
        push(json!({
            "name": parameter.name,
            "in": parameter.place,
            "required": parameter.required,
            "schema": parameter.of.schema(),
            "description": parameter.about,
        }));
    }
    entry.insert("parameters".to_owned(), Value::Array(parameters));
}

/// Adds an answer to those that an operation has of that status.
fn add_answer(answers: &mut Value, status: u16, shape: Shape, about: &str) {
    let answer = &mut answers[status.to_string()];
    if answer.is_null() {
        *answer = json!({"description": about});
    } else if !answer["description"].as_str().is_some_and(|known| known.contains(about)) {
        let known = answer["description"].as_str().unwrap_or_default();
        answer["description"] = format!("{known}; {about}").into();
    }
    let Some(media) = shape.media() else { return };
    let schema = &mut answer["content"][media]["schema"];
    let wanted = shape.schema();
    if schema.is_null() {
        *schema = wanted;
    } else if let Some(Value::Array(known)) = schema.get_mut("anyOf") {
        if !known.contains(&wanted) {
            known.push(wanted);
        }
    } else if *schema != wanted {
        *schema = json!({"anyOf": [schema.clone(), wanted]});
    }
}

/// An object whose members are all there.
fn object(members: &Value) -> Value {
    let required: Vec<&String> = members.as_object().into_iter().flat_map(Map::keys).collect();
    json!({"type": "object", "required": required, "properties": members})
}

/// Every document that stands in a body.
fn all_schemas() -> Value {
    let mut all = schemas();
    if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more_schemas()) {
        all.extend(more);
    }
    all
}

/// Those of host factories, of the v2 API and of issuers.
fn more_schemas() -> Value {
    let text = json!({"type": "string"});
    let number = json!({"type": "integer"});
    let any = json!({});
    let flag = json!({"type": "boolean"});
    let texts = json!({"type": "array", "items": text});
    let list = |name: &str| json!({"type": "array", "items": {"$ref": format!("#/components/schemas/{name}")}});
    json!({
        "Parameters": {"type": "object"},
        "MaxTtl": object(&json!({"max_ttl": number})),
        "Issuer": object(&json!({
            "id": text, "account": text, "max_ttl": number, "type": text, "data": any,
            "created_at": text, "modified_at": text,
        })),
        "Issuers": object(&json!({"issuers": list("Issuer")})),
        "Error2": object(&json!({"code": text, "message": text})),
        "Branch": object(&json!({"name": text, "branch": text, "owner": any, "annotations": any})),
        "Branches": object(&json!({"branches": list("Branch"), "count": number})),
        "Member": object(&json!({"kind": text, "id": text})),
        "Authenticator": {
            "type": "object",
            "required": ["type", "branch", "name", "enabled"],
            "properties": {
                "type": text, "branch": text, "name": text, "enabled": flag, "owner": any,
                "data": {"type": "object"}, "annotations": {"type": "object"},
            },
        },
        "Authenticators2":
            object(&json!({"authenticators": list("Authenticator"), "count": number})),
        "Status": {
            "type": "object",
            "required": ["status"],
            "properties": {"status": text, "error": text},
        },
        "Seed": object(&json!({
            "version": number, "cluster_id": text, "name": text, "role": text, "token": text,
            "peers": texts, "root_pem": text, "certificate_pem": text, "key_pem": text,
        })),
        "HostFactoryToken": {
            "type": "object",
            "required": ["expiration", "cidr", "token"],
            "properties": {
                "expiration": text, "cidr": texts, "token": text, "uses_left": number,
            },
        },
    })
}

/// The documents that stand in bodies.
fn schemas() -> Value {
    let text = json!({"type": "string"});
    let number = json!({"type": "integer"});
    let any = json!({});
    let flag = json!({"type": "boolean"});
    let texts = json!({"type": "array", "items": text});
    let list = |name: &str| json!({"type": "array", "items": {"$ref": format!("#/components/schemas/{name}")}});
    let items = json!({"type": "object", "properties": {"items": {"type": "array"}}});
    json!({
        "Error": object(&json!({"error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"description": "A word; the number 405 on a node that takes no writes"},
                "message": text,
                "target": {},
                "details": {},
                "innererror": {"type": "object"},
            },
        }})),
        "Version": object(&json!({"version": text})),
        "Health": {"type": "object"},
        "Info": object(&json!({"release": text, "version": text, "services": any, "role": text})),
        "OpenApi": object(&json!({"openapi": text, "info": any, "paths": any, "components": any})),
        "Authenticators":
            object(&json!({"installed": texts, "configured": texts, "enabled": texts})),
        "WhoAmI": object(&json!({
            "client_ip": text, "user_agent": any, "account": text, "username": text,
            "token_issued_at": text,
        })),
        "Token": object(&json!({"protected": text, "payload": text, "signature": text})),
        "Provider": object(&json!({
            "service_id": text, "type": text, "name": text, "nonce": text, "code_verifier": text,
            "state": text, "redirect_uri": text,
        })),
        "KeyAge": object(&json!({"role": text, "timestamp": text})),
        "Values": {"type": "object", "additionalProperties": text},
        "Count": object(&json!({"count": number})),
        "Name": text,
        "NewAccount": {"type": "object", "properties": {"id": text}},
        "Account": object(&json!({"id": text, "api_key": text})),
        "AuditRecord": object(&json!({
            "facility": number, "severity": number, "timestamp": text, "appname": text,
            "procid": text, "msgid": text, "sdata": {"type": "object"}, "message": text,
        })),
        "Statement": {
            "type": "object",
            "description": "One tag with its fields, such as {\"variable\": {\"id\": \"x\"}}",
        },
        "Id": {"type": "string", "description": "account:kind:identifier"},
        "LdapSyncDraft": {
            "type": "object",
            "required": ["ok", "policy", "changes", "created", "updated", "deleted", "removed",
                "revoked", "people", "groups", "skipped", "unknown_members"],
            "properties": {
                "ok": flag,
                "policy": text,
                "changes": text,
                "created": texts,
                "updated": texts,
                "deleted": texts,
                "removed": texts,
                "revoked": number,
                "people": number,
                "groups": number,
                "skipped":
                    {"type": "array", "items": object(&json!({"what": text, "reason": text}))},
                "unknown_members": number,
                "guard": text,
            },
        },
        "LdapSyncRun": {
            "type": "object",
            "required": ["at", "by", "outcome", "people", "groups", "skipped", "created", "updated",
                "removed"],
            "properties": {
                "at": text,
                "by": text,
                "outcome":
                    {"type": "string", "enum": ["applied", "unchanged", "stopped", "failed"]},
                "reason": text,
                "people": number,
                "groups": number,
                "skipped": number,
                "created": number,
                "updated": number,
                "removed": number,
                "policy_version": number,
            },
        },
        "PolicyLoaded": {
            "type": "object",
            "required": ["created_roles", "version"],
            "properties": {
                "created_roles": {
                    "type": "object",
                    "additionalProperties": object(&json!({"id": text, "api_key": text})),
                },
                "version": number,
                "warnings": texts,
            },
        },
        "DryRun": {
            "type": "object",
            "required": ["status"],
            "properties": {
                "status": text,
                "created": items,
                "updated":
                    {"type": "object", "properties": {"before": items, "after": items}},
                "deleted": items,
                "errors": {"type": "array", "items": {"type": "object"}},
            },
        },
        "Permission": {
            "type": "object",
            "required": ["privilege", "role"],
            "properties": {"privilege": text, "role": text, "policy": text},
        },
        "Annotation": {
            "type": "object",
            "required": ["name", "value"],
            "properties": {"name": text, "value": text, "policy": text},
        },
        "Resource": {
            "type": "object",
            "required": ["created_at", "id", "owner", "permissions", "annotations"],
            "properties": {
                "created_at": text,
                "id": text,
                "owner": text,
                "policy": text,
                "permissions": list("Permission"),
                "annotations": list("Annotation"),
                "secrets": {"type": "array"},
                "policy_versions": {"type": "array"},
                "tokens": {"type": "array"},
                "layers": texts,
                "restricted_to": texts,
            },
        },
        "Membership": {
            "type": "object",
            "required": ["admin_option", "ownership", "role", "member"],
            "properties": {
                "admin_option": flag, "ownership": flag, "role": text, "member": text,
                "policy": text,
            },
        },
        "Role": {
            "type": "object",
            "required": ["created_at", "id", "members"],
            "properties": {
                "created_at": text, "id": text, "policy": text, "members": list("Membership"),
            },
        },
        "Edge": object(&json!({"parent": text, "child": text})),
    })
}
