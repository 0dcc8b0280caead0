//! The policy in force, as text that would load it again: what loads and the API have made of a
//! policy, whichever text each row came from.
//!
//! Records stand in the body of the nearest policy that exists above them, under an id relative to
//! it; a record that bears its policy's own id has none. Grants stand where their role stands,
//! permissions where their resource does. Public keys, credentials and secrets are left out, and so
//! is what every account has of itself.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use super::scalar::{Guess, guess};
use crate::id::{Id, Kind, ResourceId, RoleId};
use crate::rbac::{admin_role, root_policy};
use crate::state::State;

/// Deepest nesting of policies that is ever rendered.
pub const DEPTH_MAX: usize = 64;
/// Most resources, annotations and permissions that are ever rendered together.
pub const ROWS_MAX: usize = 100_000;

/// How much may be rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Deepest nesting of policies below the one asked for.
    pub depth: usize,
    /// Most resources, annotations and permissions together.
    pub rows: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { depth: DEPTH_MAX, rows: ROWS_MAX }
    }
}

/// The policy is larger than may be rendered. `Display` is the message for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "CONJ00164E Policy max allowed '{parameter}' = {allowed} exceeded. Value for policy is: {found}"
)]
pub struct Exceeded {
    /// `depth` or `limit`.
    pub parameter: &'static str,
    /// What was allowed.
    pub allowed: usize,
    /// What it would take.
    pub found: usize,
}

/// A piece of a rendered policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Text.
    Text(String),
    /// Yes or no.
    Flag(bool),
    /// A list of words, written on one line in YAML.
    Words(Vec<String>),
    /// A list.
    List(Vec<Node>),
    /// Named values, in order.
    Fields(Vec<(Cow<'static, str>, Node)>),
    /// A value with its tag, without `!`. Fields that hold only an `id` may be written as that id.
    Tagged(&'static str, Box<Node>),
}

impl Node {
    fn tagged(tag: &'static str, inner: Self) -> Self {
        Self::Tagged(tag, Box::new(inner))
    }
}

/// Renders a policy that is there: the statements of the root policy, or one `!policy`.
///
/// # Errors
/// [`Exceeded`], when it is larger than `bounds` allow.
pub fn effective(
    state: &State,
    policy: &ResourceId,
    bounds: Bounds,
) -> Result<Vec<Node>, Exceeded> {
    let renderer = Renderer::new(state, policy);
    renderer.check(bounds)?;
    Ok(match renderer.top {
        None => renderer.body(None),
        Some(_) => vec![renderer.record(policy)],
    })
}

/// A record's place: the policy in whose body it stands, none at the top of the root policy, and its
/// id there, empty where it bears the policy's own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Standing<'a> {
    parent: Option<&'a str>,
    local: String,
}

struct Renderer<'a> {
    state: &'a State,
    policy: &'a ResourceId,
    /// The policy that is rendered; none for the root policy.
    top: Option<&'a str>,
    /// Every policy of the account but the root policy.
    policies: BTreeSet<&'a str>,
    /// Policies by the suffix that their users' logins bear.
    suffixes: HashMap<String, Vec<&'a str>>,
    /// What stands in each body, in order of kind and id.
    bodies: BTreeMap<Option<&'a str>, Vec<&'a ResourceId>>,
    /// Whose members and permissions are shown though the record itself is not: what the account
    /// has of itself, or the policy that is rendered.
    silent: Vec<ResourceId>,
}

/// The kinds that are shown, in the order in which they are.
const KINDS: [(Kind, &str); 8] = [
    (Kind::User, "user"),
    (Kind::Policy, "policy"),
    (Kind::Variable, "variable"),
    (Kind::Webservice, "webservice"),
    (Kind::Host, "host"),
    (Kind::Layer, "layer"),
    (Kind::HostFactory, "host-factory"),
    (Kind::Group, "group"),
];

fn tag(kind: Kind) -> Option<&'static str> {
    KINDS.iter().find(|(known, _)| *known == kind).map(|(_, tag)| *tag)
}

impl<'a> Renderer<'a> {
    fn new(state: &'a State, policy: &'a ResourceId) -> Self {
        let account = policy.account();
        let root = root_policy(account);
        let admin = admin_role(account);
        let policies: BTreeSet<&str> = state
            .resources(Some(account), Some(Kind::Policy))
            .map(|(id, _)| id.identifier())
            .filter(|path| *path != root.identifier())
            .collect();
        let mut suffixes: HashMap<String, Vec<&str>> = HashMap::new();
        for path in &policies {
            suffixes.entry(path.replace('/', "-")).or_default().push(path);
        }
        let top = (*policy != root).then(|| policy.identifier());
        let mut renderer = Self {
            state,
            policy,
            top,
            policies,
            suffixes,
            bodies: BTreeMap::new(),
            silent: if top.is_some() { vec![policy.clone()] } else { vec![root, admin] },
        };
        for (kind, _) in KINDS {
            renderer.gather(kind);
        }
        renderer
    }

    /// Puts the records of a kind into the bodies where they stand.
    fn gather(&mut self, kind: Kind) {
        let (state, account) = (self.state, self.policy.account());
        let mut found: Vec<&'a ResourceId> = Vec::new();
        match self.top {
            // Logins do not begin with the path, and a body's own namesakes do not either.
            Some(top) if kind != Kind::User => {
                let prefix = format!("{top}/");
                let below = state.resources(Some(account), Some(kind)).map(|(id, _)| id);
                found.extend(below.filter(|id| {
                    id.identifier().starts_with(&prefix)
                        || (kind != Kind::Policy && id.identifier() == top)
                }));
            }
            _ => found.extend(state.resources(Some(account), Some(kind)).map(|(id, _)| id)),
        }
        for id in found {
            if self.silent.contains(id) {
                continue;
            }
            let parent = self.standing(id).parent;
            let is_below = match (self.top, parent) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(top), Some(parent)) => parent
                    .strip_prefix(top)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            };
            if is_below {
                self.bodies.entry(parent).or_default().push(id);
            }
        }
    }

    fn shown(&self) -> impl Iterator<Item = &'a ResourceId> {
        self.bodies.values().flatten().copied()
    }

    fn check(&self, bounds: Bounds) -> Result<(), Exceeded> {
        let depth = self
            .shown()
            .filter(|id| id.kind() == Kind::Policy)
            .map(|id| self.depth(id))
            .max()
            .unwrap_or(0);
        if depth > bounds.depth {
            return Err(Exceeded { parameter: "depth", allowed: bounds.depth, found: depth });
        }
        let top = self.top.map(|_| self.policy);
        let rows = |id| 1 + self.state.annotations(id).count() + self.state.permissions(id).len();
        let found: usize = top.into_iter().chain(self.shown()).map(rows).sum();
        if found > bounds.rows {
            return Err(Exceeded { parameter: "limit", allowed: bounds.rows, found });
        }
        Ok(())
    }

    /// How many policies deep a policy stands below the one that is rendered.
    fn depth(&self, policy: &ResourceId) -> usize {
        let mut depth = 1;
        let mut parent = self.standing(policy).parent;
        while let Some(path) = parent.filter(|path| Some(*path) != self.top) {
            depth += 1;
            parent = self.above(path);
        }
        depth
    }

    /// The nearest policy above a path.
    fn above(&self, path: &str) -> Option<&'a str> {
        path.rmatch_indices('/')
            .filter(|(at, _)| at + 1 < path.len())
            .find_map(|(at, _)| self.policies.get(&path[..at]).copied())
    }

    fn standing(&self, id: &ResourceId) -> Standing<'a> {
        let identifier = id.identifier();
        let owner = self.state.resource(id).map(|resource| &resource.owner);
        let owns = |path: &str| {
            owner.is_some_and(|owner| owner.kind() == Kind::Policy && owner.identifier() == path)
        };
        if id.kind() == Kind::User {
            // More than one policy may give its users the same suffix; any of them leads back here.
            let splits = identifier.rmatch_indices('@').filter(|(at, _)| *at > 0);
            let candidates: Vec<(usize, &'a str)> = splits
                .filter_map(|(at, _)| Some((at, self.suffixes.get(&identifier[at + 1..])?)))
                .flat_map(|(at, paths)| paths.iter().map(move |path| (at, *path)))
                .collect();
            let own = candidates.iter().find(|(_, path)| owns(path));
            if let Some((at, path)) = own.or(candidates.first()) {
                return Standing { parent: Some(path), local: identifier[..*at].to_owned() };
            }
        } else if id.kind() != Kind::Policy && owns(identifier) {
            // A policy that owns it bears the same id.
            if let Some(path) = self.policies.get(identifier) {
                return Standing { parent: Some(path), local: String::new() };
            }
        }
        let parent = if id.kind() == Kind::User { None } else { self.above(identifier) };
        let local = match parent {
            Some(path) => identifier[path.len() + 1..].to_owned(),
            None => identifier.to_owned(),
        };
        Standing { parent, local }
    }

    /// The statements of a body.
    fn body(&self, parent: Option<&'a str>) -> Vec<Node> {
        let records = self.bodies.get(&parent).map_or(&[][..], Vec::as_slice);
        let mut nodes: Vec<Node> = records.iter().map(|id| self.record(id)).collect();
        let silent = self.silent.iter().filter(|_| parent == self.top);
        let mut about: Vec<&ResourceId> = silent.chain(records.iter().copied()).collect();
        about.sort_unstable();
        nodes.extend(about.iter().filter_map(|id| self.grant(id)));
        for id in about {
            self.permits(id, parent, &mut nodes);
        }
        nodes
    }

    fn record(&self, id: &ResourceId) -> Node {
        let Standing { parent, local } = self.standing(id);
        let mut fields: Vec<(Cow<'static, str>, Node)> = Vec::new();
        if !local.is_empty() {
            fields.push(("id".into(), Node::Text(local)));
        }
        if let Some(resource) = self.state.resource(id) {
            let enclosing = parent.unwrap_or("root");
            let by_policy = resource.owner.kind() == Kind::Policy
                && resource.owner.account() == id.account()
                && resource.owner.identifier() == enclosing;
            if !by_policy {
                fields.push(("owner".into(), self.reference(&resource.owner)));
            }
        }
        let mut annotations = Vec::new();
        for (name, annotation) in self.state.annotations(id) {
            let value = Node::Text(annotation.value.clone());
            match (id.kind(), name) {
                (Kind::Variable, "conjur/kind") => fields.push(("kind".into(), value)),
                (Kind::Variable, "conjur/mime_type") => fields.push(("mime_type".into(), value)),
                _ => annotations.push((Cow::Owned(name.to_owned()), value)),
            }
        }
        if !annotations.is_empty() {
            fields.push(("annotations".into(), Node::Fields(annotations)));
        }
        let restricted = self.state.credential(id).map(|credential| &credential.restricted_to);
        if let Some(nets) = restricted.filter(|nets| !nets.is_empty()) {
            let words = nets.iter().map(ToString::to_string).collect();
            fields.push(("restricted_to".into(), Node::Words(words)));
        }
        if id.kind() == Kind::HostFactory {
            let layers = self.layers(id).into_iter();
            let layers = layers.map(|(_, local)| Node::tagged("layer", Node::Text(local)));
            fields.push(("layers".into(), Node::List(layers.collect())));
        }
        if id.kind() == Kind::Policy {
            let path = self.policies.get(id.identifier()).copied();
            fields.push(("body".into(), Node::List(self.body(path))));
        }
        Node::tagged(tag(id.kind()).unwrap_or("resource"), Node::Fields(fields))
    }

    /// The layers that a host factory can name where it stands, with their ids there.
    fn layers(&self, factory: &RoleId) -> Vec<(RoleId, String)> {
        let parent = self.standing(factory).parent;
        let memberships = self.state.memberships(factory).into_iter();
        memberships
            .filter(|(key, row)| {
                key.role.kind() == Kind::Layer
                    && key.role.account() == factory.account()
                    && !key.ownership
                    && !row.admin_option
            })
            .filter_map(|(key, _)| {
                let path = key.role.identifier();
                let local = match parent {
                    None => path,
                    Some(parent) => match path.strip_prefix(parent)? {
                        "" => "",
                        rest => rest.strip_prefix('/')?,
                    },
                };
                let local = local.to_owned();
                Some((key.role, local))
            })
            .collect()
    }

    /// Who holds a role, beside its owner and the host factories that name it themselves.
    fn grant(&self, role: &RoleId) -> Option<Node> {
        if !role.kind().is_role() {
            return None;
        }
        let members: Vec<Node> = self
            .state
            .members(role)
            .into_iter()
            .filter(|(key, row)| {
                let by_layers = key.member.kind() == Kind::HostFactory
                    && !row.admin_option
                    && self.layers(&key.member).iter().any(|(layer, _)| layer == role);
                !key.ownership && !by_layers
            })
            .map(|(key, row)| {
                let member = self.reference(&key.member);
                if !row.admin_option {
                    return member;
                }
                let fields = vec![("role".into(), member), ("admin".into(), Node::Flag(true))];
                Node::tagged("member", Node::Fields(fields))
            })
            .collect();
        if members.is_empty() {
            return None;
        }
        let fields =
            vec![("role".into(), self.here(role)), ("members".into(), Node::List(members))];
        Some(Node::tagged("grant", Node::Fields(fields)))
    }

    /// Who may do what to a resource: one statement a role.
    fn permits(&self, resource: &ResourceId, parent: Option<&'a str>, nodes: &mut Vec<Node>) {
        let mut privileges: BTreeMap<RoleId, Vec<String>> = BTreeMap::new();
        for (key, _) in self.state.permissions(resource) {
            privileges.entry(key.role).or_default().push(key.privilege);
        }
        for (role, mut privileges) in privileges {
            privileges.sort_unstable();
            let is_near = role.account() == self.policy.account()
                && tag(role.kind()).is_some()
                && !self.silent.contains(&role)
                && self.standing(&role).parent == parent;
            let named = if is_near { self.here(&role) } else { self.reference(&role) };
            let fields = vec![
                ("role".into(), named),
                ("privileges".into(), Node::Words(privileges)),
                ("resource".into(), self.here(resource)),
            ];
            nodes.push(Node::tagged("permit", Node::Fields(fields)));
        }
    }

    /// A record of this account, named where it stands. What is rendered itself is named in its own
    /// body, where it needs no id.
    fn here(&self, id: &Id) -> Node {
        let local = if self.top == Some(id.identifier()) && id.kind() == Kind::Policy {
            String::new()
        } else {
            self.standing(id).local
        };
        Node::tagged(tag(id.kind()).unwrap_or("resource"), Node::Text(local))
    }

    /// A role, named so that it is found from anywhere.
    fn reference(&self, role: &RoleId) -> Node {
        let kind = tag(role.kind()).unwrap_or("role");
        if role.account() != self.policy.account() {
            let fields = vec![
                ("account".into(), Node::Text(role.account().to_string())),
                ("id".into(), Node::Text(format!("/{}", role.identifier()))),
            ];
            return Node::tagged(kind, Node::Fields(fields));
        }
        let path = match (role.kind(), self.standing(role)) {
            (Kind::User, Standing { parent: Some(parent), local }) => format!("/{parent}/{local}"),
            _ => format!("/{}", role.identifier()),
        };
        Node::tagged(kind, Node::Text(path))
    }
}

/// Writes statements as a policy text in YAML.
pub fn to_yaml(statements: &[Node]) -> String {
    let mut text = String::new();
    if statements.is_empty() {
        text.push_str("--- []\n");
    } else {
        list(&mut text, statements, 0);
    }
    text
}

fn list(text: &mut String, items: &[Node], indent: usize) {
    for item in items {
        pad(text, indent);
        text.push('-');
        value(text, item, indent + 2);
    }
}

fn fields(text: &mut String, fields: &[(Cow<'static, str>, Node)], indent: usize) {
    for (name, field) in fields {
        pad(text, indent);
        scalar(text, name);
        text.push(':');
        // A list stands under its name, all else further in.
        let indent = if matches!(field, Node::List(_)) { indent } else { indent + 2 };
        value(text, field, indent);
    }
}

/// Writes a value behind a `-`, a `:` or a tag, and ends the line.
fn value(text: &mut String, node: &Node, indent: usize) {
    match node {
        Node::Text(word) => {
            text.push(' ');
            scalar(text, word);
            text.push('\n');
        }
        Node::Flag(flag) => text.push_str(if *flag { " true\n" } else { " false\n" }),
        Node::Words(words) => {
            text.push_str(" [");
            for (at, word) in words.iter().enumerate() {
                text.push_str(if at == 0 { "" } else { ", " });
                scalar(text, word);
            }
            text.push_str("]\n");
        }
        Node::List(items) if items.is_empty() => text.push_str(" []\n"),
        Node::List(items) => {
            text.push('\n');
            list(text, items, indent);
        }
        Node::Fields(named) if named.is_empty() => text.push('\n'),
        Node::Fields(named) => {
            text.push('\n');
            fields(text, named, indent);
        }
        Node::Tagged(tag, inner) => {
            text.push_str(" !");
            text.push_str(tag);
            let mut inner: &Node = inner;
            if let Node::Fields(named) = inner
                && let [(name, only @ Node::Text(_))] = named.as_slice()
                && name == "id"
            {
                inner = only;
            }
            if matches!(inner, Node::Text(word) if word.is_empty()) {
                // A tag alone: the id is that of the policy around it.
                text.push('\n');
            } else {
                value(text, inner, indent);
            }
        }
    }
}

fn pad(text: &mut String, indent: usize) {
    text.extend(std::iter::repeat_n(' ', indent));
}

/// Writes text so that it is read back as that text: in quotes unless it is plain beyond doubt.
fn scalar(text: &mut String, word: &str) {
    let plain = word.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_'))
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "/_.@-+".contains(c))
        && guess(word) == Guess::Text;
    if plain {
        text.push_str(word);
        return;
    }
    text.push('"');
    for c in word.chars() {
        match c {
            '"' | '\\' => {
                text.push('\\');
                text.push(c);
            }
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            // Neither control characters nor what YAML takes for the end of a line or of the text.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                // Writing to a string cannot fail.
                let _infallible = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}
