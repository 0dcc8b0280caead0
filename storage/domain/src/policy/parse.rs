//! Nodes to typed statements: which attributes a type has, what each takes, and what a bare value is
//! taken for. Ids stay as written; [`super::resolve`] makes them whole.

use std::collections::HashSet;

use ipnet::IpNet;

use super::cidr;
use super::dynamic;
use super::error::{ParseRejection, Place, PolicyError};
use super::limits;
use super::scalar::{Guess, guess};
use super::tree::{Body, NodeId, Tree, reject};
use crate::id::Kind;

/// A type that a tag, or the attribute that holds the node, may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Record(Kind),
    Grant,
    Revoke,
    Permit,
    Deny,
    Delete,
    Member,
    Role,
    Resource,
    AutomaticRole,
}

impl Form {
    /// The type that a tag names. `!host-factory`, `!host_factory` and `!HostFactory` are one.
    fn from_tag(tag: &str) -> Option<Self> {
        let mut name = String::with_capacity(tag.len() + 1);
        for c in tag.strip_prefix('!')?.chars() {
            match c {
                '-' => name.push('_'),
                c if c.is_ascii_uppercase() => {
                    if !name.is_empty() && !name.ends_with('_') {
                        name.push('_');
                    }
                    name.push(c.to_ascii_lowercase());
                }
                c => name.push(c),
            }
        }
        Some(match name.as_str() {
            "policy" => Self::Record(Kind::Policy),
            "user" => Self::Record(Kind::User),
            "host" => Self::Record(Kind::Host),
            "group" => Self::Record(Kind::Group),
            "layer" => Self::Record(Kind::Layer),
            "variable" => Self::Record(Kind::Variable),
            "webservice" => Self::Record(Kind::Webservice),
            "host_factory" => Self::Record(Kind::HostFactory),
            "grant" => Self::Grant,
            "revoke" => Self::Revoke,
            "permit" => Self::Permit,
            "deny" => Self::Deny,
            "delete" => Self::Delete,
            "member" => Self::Member,
            "role" => Self::Role,
            "resource" => Self::Resource,
            "automatic_role" | "managed_role" => Self::AutomaticRole,
            _ => return None,
        })
    }

    /// The type's name in error messages.
    const fn name(self) -> &'static str {
        match self {
            Self::Record(kind) => match kind {
                Kind::Configuration => "Configuration",
                Kind::Group => "Group",
                Kind::Host => "Host",
                Kind::HostFactory => "HostFactory",
                Kind::Layer => "Layer",
                Kind::Policy => "Policy",
                Kind::PublicKey => "PublicKey",
                Kind::User => "User",
                Kind::Variable => "Variable",
                Kind::Webservice => "Webservice",
            },
            Self::Grant => "Grant",
            Self::Revoke => "Revoke",
            Self::Permit => "Permit",
            Self::Deny => "Deny",
            Self::Delete => "Delete",
            Self::Member => "Member",
            Self::Role => "Role",
            Self::Resource => "Resource",
            Self::AutomaticRole => "AutomaticRole",
        }
    }
}

/// An id as written, with what tells it apart from another of the same text.
#[derive(Debug, Clone)]
pub(super) struct Name {
    /// The node that it was read from. An alias leads to the same node.
    pub(super) node: NodeId,
    /// Where.
    pub(super) place: Place,
    /// What it names.
    pub(super) kind: Kind,
    /// The id as written; blank means that of the enclosing policy.
    pub(super) id: String,
    /// The account, where one is given.
    pub(super) account: Option<String>,
}

/// A record with everything that the text says of it.
#[derive(Debug)]
pub(super) struct Record {
    /// Its id.
    pub(super) name: Name,
    /// Its owner, where one is given.
    pub(super) owner: Option<Name>,
    /// Its annotations in the order of the text, those that other attributes stand for included.
    pub(super) annotations: Vec<(String, String)>,
    /// Whether its annotation for the life of a dynamic secret is a whole number, and not text.
    pub(super) ttl_is_number: bool,
    /// Addresses that a user or host may come from.
    pub(super) restricted_to: Vec<IpNet>,
    /// SSH public keys of a user: the name that the key ends with, and the whole key.
    pub(super) public_keys: Vec<(String, String)>,
    /// Layers of a host factory.
    pub(super) layers: Vec<Name>,
    /// Statements of a policy.
    pub(super) body: Vec<Statement>,
}

/// Who shall hold a role.
#[derive(Debug)]
pub(super) struct Member {
    /// Who.
    pub(super) role: Name,
    /// Whether it may grant the role on.
    pub(super) admin: bool,
}

/// One entry of a policy.
#[derive(Debug)]
pub(super) enum Statement {
    Record(Box<Record>),
    Grant {
        roles: Vec<Name>,
        members: Vec<Member>,
    },
    Revoke {
        roles: Vec<Name>,
        members: Vec<Name>,
    },
    Permit {
        roles: Vec<Name>,
        privileges: Vec<String>,
        resources: Vec<Name>,
    },
    Deny {
        roles: Vec<Name>,
        privileges: Vec<String>,
        resources: Vec<Name>,
    },
    Delete {
        record: Name,
    },
    /// A bare value where a statement should stand; refused when it is resolved.
    Stray(String),
}

impl Statement {
    /// Whether the statement, or one inside it, deletes.
    pub(super) fn deletes(&self) -> bool {
        match self {
            Self::Revoke { .. } | Self::Deny { .. } | Self::Delete { .. } => true,
            Self::Record(record) => record.body.iter().any(Self::deletes),
            Self::Grant { .. } | Self::Permit { .. } | Self::Stray(_) => false,
        }
    }
}

/// Reads all statements of a document.
pub(super) fn statements(tree: &Tree<'_>) -> Result<Vec<Statement>, PolicyError> {
    let mut statements = Vec::new();
    let Some(root) = tree.root() else { return Ok(statements) };
    let node = tree.node(root);
    let mut reader = Reader { tree, visited: 0, visits_max: visits_max(tree) };
    match &node.body {
        Body::Sequence(_) if node.tag.is_none() => reader.entries(root, 1, &mut statements)?,
        Body::Sequence(_) => return Err(reject(ParseRejection::UnexpectedSequence, node.place)),
        Body::Mapping(_) => return Err(reject(ParseRejection::UnexpectedMapping, node.place)),
        Body::Scalar { text, .. } => {
            if !text.is_empty() || node.tag.is_some() {
                return Err(reject(ParseRejection::UnexpectedScalar, node.place));
            }
        }
    }
    Ok(statements)
}

/// Anything that a node may turn out to be, once its type is known.
enum Object {
    Statement(Statement),
    Member(Member),
    /// `!role`, good for roles only.
    Role(Name),
    /// `!resource`, good for resources only.
    Resource(Name),
}

/// What an attribute takes where a name is wanted.
#[derive(Clone, Copy)]
struct Wanted {
    /// The attribute.
    field: &'static str,
    /// The type of an untagged node.
    implied: Option<Form>,
    /// What the error message calls it.
    expected: &'static str,
}

const ROLE: Option<Form> = Some(Form::Role);

struct Reader<'r, 't> {
    tree: &'r Tree<'t>,
    visited: usize,
    visits_max: usize,
}

/// The scalar attributes of a record that end up in annotations, or name it.
#[derive(Default)]
struct Draft {
    id: String,
    account: Option<String>,
    kind: Option<String>,
    owner: Option<Name>,
    annotations: Vec<(String, String)>,
    ttl_is_number: bool,
    implied_annotations: Vec<(&'static str, String)>,
    restricted_to: Vec<IpNet>,
    public_keys: Vec<(String, String)>,
    layers: Vec<Name>,
    body: Vec<Statement>,
    roles: Vec<Name>,
    members: Vec<Member>,
    privileges: Vec<String>,
    resources: Vec<Name>,
    record: Option<Name>,
    member_role: Option<Name>,
    admin: bool,
}

/// How many nodes a tree may be read as; without aliases never fewer than it has.
fn visits_max(tree: &Tree<'_>) -> usize {
    let aliased = limits::ALIASED_NODES + limits::ALIASED_FACTOR * tree.len();
    aliased.min(limits::NODES_MAX)
}

impl<'r, 't> Reader<'r, 't> {
    /// Counts a visit: aliases make a small tree a large walk.
    fn visit(&mut self, node: NodeId, depth: usize) -> Result<(), PolicyError> {
        self.visited += 1;
        if self.visited > self.visits_max {
            return Err(self.reject(node, ParseRejection::AliasesMultiply(self.visits_max)));
        }
        if depth > limits::DEPTH_MAX {
            return Err(self.reject(node, ParseRejection::TooDeep));
        }
        Ok(())
    }

    fn reject(&self, node: NodeId, rejection: ParseRejection) -> PolicyError {
        reject(rejection, self.tree.node(node).place)
    }

    /// Reads the entries of a sequence; sequences in it are flattened.
    fn entries(
        &mut self,
        sequence: NodeId,
        depth: usize,
        statements: &mut Vec<Statement>,
    ) -> Result<(), PolicyError> {
        let tree = self.tree;
        self.visit(sequence, depth)?;
        let Body::Sequence(items) = &tree.node(sequence).body else {
            return Err(self.reject(sequence, ParseRejection::UnexpectedScalar));
        };
        for &item in items {
            let node = tree.node(item);
            match &node.body {
                Body::Sequence(_) => {
                    if node.tag.is_some() {
                        return Err(self.reject(item, ParseRejection::UnexpectedSequence));
                    }
                    self.entries(item, depth + 1, statements)?;
                }
                Body::Scalar { text, plain, .. } if node.tag.is_none() => {
                    self.visit(item, depth)?;
                    let kind = if *plain { guess(text).type_name() } else { "String" };
                    statements.push(Statement::Stray(format!("{text:?}:{kind}")));
                }
                Body::Scalar { .. } | Body::Mapping(_) => {
                    let statement = match self.object(item, None, depth + 1)? {
                        Object::Statement(statement) => statement,
                        Object::Member(_) => {
                            return Err(self.reject(item, ParseRejection::NotAStatement("Member")));
                        }
                        Object::Role(_) => {
                            return Err(self.reject(item, ParseRejection::NotAStatement("Role")));
                        }
                        Object::Resource(_) => {
                            return Err(
                                self.reject(item, ParseRejection::NotAStatement("Resource"))
                            );
                        }
                    };
                    statements.push(statement);
                }
            }
        }
        Ok(())
    }

    /// The type of a node: its tag's, or the one implied by where it stands.
    fn form(&self, node: NodeId, implied: Option<Form>) -> Result<Option<Form>, PolicyError> {
        match &self.tree.node(node).tag {
            None => Ok(implied),
            Some(tag) => match Form::from_tag(tag) {
                Some(form) => Ok(Some(form)),
                None => Err(self.reject(node, ParseRejection::UnknownTag(tag.clone()))),
            },
        }
    }

    /// Reads a scalar or mapping whose type is known by tag or place.
    fn object(
        &mut self,
        node: NodeId,
        implied: Option<Form>,
        depth: usize,
    ) -> Result<Object, PolicyError> {
        let tree = self.tree;
        self.visit(node, depth)?;
        let Some(form) = self.form(node, implied)? else {
            return Err(self.reject(node, ParseRejection::NoType));
        };
        let mut draft = Draft::default();
        match &tree.node(node).body {
            Body::Scalar { text, broken, .. } => {
                if *broken {
                    return Err(self.reject(node, ParseRejection::BrokenLine(text.to_string())));
                }
                match form {
                    Form::Record(_) | Form::Role | Form::Resource => draft.id = text.to_string(),
                    // `!grant` with nothing after it says nothing.
                    Form::Grant
                    | Form::Revoke
                    | Form::Permit
                    | Form::Deny
                    | Form::Delete
                    | Form::Member
                    | Form::AutomaticRole => {
                        if !text.is_empty() {
                            return Err(self.reject(node, ParseRejection::UnexpectedScalar));
                        }
                    }
                }
            }
            Body::Sequence(_) => {
                return Err(self.reject(node, ParseRejection::UnexpectedSequence));
            }
            Body::Mapping(pairs) => {
                let mut seen = HashSet::with_capacity(pairs.len());
                for &(key, value) in pairs {
                    let name = self.key(key)?;
                    if !seen.insert(name) {
                        let rejection = ParseRejection::DuplicateAttribute(name.to_owned());
                        return Err(self.reject(key, rejection));
                    }
                    self.visit(value, depth + 1)?;
                    self.attribute(form, &mut draft, key, name, value, depth + 1)?;
                }
            }
        }
        self.finish(node, form, draft)
    }

    fn key(&self, key: NodeId) -> Result<&'r str, PolicyError> {
        let tree: &'r Tree<'t> = self.tree;
        match &tree.node(key).body {
            Body::Scalar { text, .. } => Ok(text),
            Body::Sequence(_) => Err(self.reject(key, ParseRejection::UnexpectedSequence)),
            Body::Mapping(_) => Err(self.reject(key, ParseRejection::UnexpectedMapping)),
        }
    }

    /// Reads one attribute into the draft. This match is the table of what each type has.
    fn attribute(
        &mut self,
        form: Form,
        draft: &mut Draft,
        key: NodeId,
        name: &'r str,
        value: NodeId,
        depth: usize,
    ) -> Result<(), PolicyError> {
        use Kind::{Group, Host, HostFactory, Policy, User, Variable};
        match (form, name) {
            (Form::Record(_) | Form::Role | Form::Resource, "id") => {
                draft.id = self.string("id", value)?;
            }
            (Form::Record(_) | Form::Role | Form::Resource, "account") => {
                draft.account = Some(self.string("account", value)?);
            }
            (Form::Role | Form::Resource, "kind") => {
                draft.kind = Some(self.string("kind", value)?);
            }
            (Form::Record(_) | Form::Resource, "owner") => {
                let wanted = Wanted { field: "owner", implied: None, expected: "Role" };
                draft.owner = Some(self.name(wanted, value, depth)?);
            }
            (Form::Record(_) | Form::Resource, "annotations") => {
                (draft.annotations, draft.ttl_is_number) = self.annotations(value)?;
            }
            (Form::Record(Policy), "body") => self.body(value, depth, &mut draft.body)?,
            (Form::Record(User), "uidnumber") => {
                let number = self.integer("uidnumber", value)?;
                draft.implied_annotations.push(("conjur/uidnumber", number));
            }
            (Form::Record(Group), "gidnumber") => {
                let number = self.integer("gidnumber", value)?;
                draft.implied_annotations.push(("conjur/gidnumber", number));
            }
            (Form::Record(Variable), "kind") => {
                let text = self.string("kind", value)?;
                draft.implied_annotations.push(("conjur/kind", text));
            }
            (Form::Record(Variable), "mime_type") => {
                let text = self.string("mime_type", value)?;
                draft.implied_annotations.push(("conjur/mime_type", text));
            }
            (Form::Record(User), "public_key" | "public_keys") => {
                for leaf in self.leaves(value, depth)? {
                    let key = self.text("public_key", leaf)?;
                    let words: Vec<&str> = key.split_whitespace().collect();
                    let [_, _, name] = words[..] else {
                        return Err(self.reject(leaf, ParseRejection::PublicKey));
                    };
                    draft.public_keys.push((name.to_owned(), key.clone()));
                }
            }
            (Form::Record(User | Host), "restricted_to") => {
                for leaf in self.leaves(value, depth)? {
                    let net = cidr::parse(self.bare("restricted_to", "CIDR", leaf)?)
                        .map_err(|rejection| self.reject(leaf, rejection))?;
                    if !draft.restricted_to.contains(&net) {
                        draft.restricted_to.push(net);
                    }
                }
            }
            (Form::Record(HostFactory), "role") => {
                // Accepted as Conjur does, and without effect as there.
                let wanted = Wanted { field: "role", implied: ROLE, expected: "Role" };
                self.name(wanted, value, depth)?;
            }
            (Form::Record(HostFactory), "layer" | "layers") => {
                let implied = Some(Form::Record(Kind::Layer));
                let wanted = Wanted { field: "layer", implied, expected: "Layer" };
                draft.layers.extend(self.names(wanted, value, depth)?);
            }
            (Form::Grant | Form::Revoke | Form::Permit | Form::Deny, "role" | "roles") => {
                let wanted = Wanted { field: "role", implied: ROLE, expected: "Role" };
                draft.roles.extend(self.names(wanted, value, depth)?);
            }
            (Form::Grant | Form::Revoke, "member" | "members") => {
                for leaf in self.leaves(value, depth)? {
                    draft.members.push(self.member(leaf, depth + 1)?);
                }
            }
            (Form::Permit | Form::Deny, "privilege" | "privileges") => {
                for leaf in self.leaves(value, depth)? {
                    draft.privileges.push(self.string("privilege", leaf)?);
                }
            }
            (Form::Permit | Form::Deny, "resource" | "resources") => {
                let implied = Some(Form::Resource);
                let wanted = Wanted { field: "resource", implied, expected: "Resource" };
                draft.resources.extend(self.names(wanted, value, depth)?);
            }
            (Form::Delete, "record") => {
                let wanted = Wanted { field: "record", implied: None, expected: "Record" };
                draft.record = Some(self.name(wanted, value, depth)?);
            }
            (Form::Member, "role") => {
                let wanted = Wanted { field: "role", implied: ROLE, expected: "Role" };
                draft.member_role = Some(self.name(wanted, value, depth)?);
            }
            (Form::Member, "admin") => draft.admin = self.boolean("admin", value)?,
            (Form::AutomaticRole, "record" | "role_name" | "id" | "account") => {}
            _ => {
                let name = name.to_owned();
                let rejection = ParseRejection::NoSuchAttribute { name, form: form.name() };
                return Err(self.reject(key, rejection));
            }
        }
        Ok(())
    }

    /// Makes the object that a draft describes.
    fn finish(&self, node: NodeId, form: Form, draft: Draft) -> Result<Object, PolicyError> {
        let place = self.tree.node(node).place;
        let nothing = |expected, field: &str| {
            let (field, got) = (field.to_owned(), "NilClass".to_owned());
            reject(ParseRejection::WrongType { expected, field, got }, place)
        };
        let (roles, privileges, resources) = (draft.roles, draft.privileges, draft.resources);
        Ok(match form {
            Form::Record(kind) => {
                let mut annotations = draft.annotations;
                for (name, value) in draft.implied_annotations {
                    if !annotations.iter().any(|(explicit, _)| explicit == name) {
                        annotations.push((name.to_owned(), value));
                    }
                }
                Object::Statement(Statement::Record(Box::new(Record {
                    name: Name { node, place, kind, id: draft.id, account: draft.account },
                    owner: draft.owner,
                    annotations,
                    ttl_is_number: draft.ttl_is_number,
                    restricted_to: draft.restricted_to,
                    public_keys: draft.public_keys,
                    layers: draft.layers,
                    body: draft.body,
                })))
            }
            Form::Role | Form::Resource => {
                let text = draft
                    .kind
                    .ok_or_else(|| self.reject(node, ParseRejection::NoKind(form.name())))?;
                let kind: Kind = text
                    .replace('-', "_")
                    .parse()
                    .map_err(|_| self.reject(node, ParseRejection::UnknownKind(text)))?;
                let name = Name { node, place, kind, id: draft.id, account: draft.account };
                if form == Form::Role { Object::Role(name) } else { Object::Resource(name) }
            }
            Form::Member => Object::Member(Member {
                role: draft.member_role.ok_or_else(|| nothing("Role", "role"))?,
                admin: draft.admin,
            }),
            Form::Grant => Object::Statement(Statement::Grant { roles, members: draft.members }),
            Form::Revoke => {
                let members = draft.members.into_iter().map(|member| member.role).collect();
                Object::Statement(Statement::Revoke { roles, members })
            }
            Form::Permit => Object::Statement(Statement::Permit { roles, privileges, resources }),
            Form::Deny => Object::Statement(Statement::Deny { roles, privileges, resources }),
            Form::Delete => Object::Statement(Statement::Delete {
                record: draft.record.ok_or_else(|| nothing("Record", "record"))?,
            }),
            Form::AutomaticRole => {
                return Err(self.reject(node, ParseRejection::AutomaticRole));
            }
        })
    }

    fn body(
        &mut self,
        value: NodeId,
        depth: usize,
        statements: &mut Vec<Statement>,
    ) -> Result<(), PolicyError> {
        let tree = self.tree;
        let node = tree.node(value);
        match &node.body {
            Body::Sequence(_) if node.tag.is_none() => self.entries(value, depth, statements),
            Body::Scalar { .. } if self.is_null(value) => Ok(()),
            Body::Scalar { .. } => Err(self.reject(value, ParseRejection::UnexpectedScalar)),
            Body::Sequence(_) => Err(self.reject(value, ParseRejection::UnexpectedSequence)),
            Body::Mapping(_) => {
                Err(self.reject(value, ParseRejection::AttributeIsMapping("body".to_owned())))
            }
        }
    }

    /// Annotations by name, and whether the life of a dynamic secret among them is a number.
    fn annotations(&mut self, value: NodeId) -> Result<(Vec<(String, String)>, bool), PolicyError> {
        let tree = self.tree;
        let node = tree.node(value);
        let pairs = match &node.body {
            Body::Mapping(pairs) if node.tag.is_none() => pairs,
            Body::Sequence(items) if items.is_empty() => return Ok((Vec::new(), false)),
            Body::Scalar { .. } if self.is_null(value) => return Ok((Vec::new(), false)),
            Body::Mapping(_) | Body::Sequence(_) | Body::Scalar { .. } => {
                return Err(self.wrong_type("hash", "annotations", value));
            }
        };
        let mut seen = HashSet::with_capacity(pairs.len());
        let mut annotations = Vec::with_capacity(pairs.len());
        let mut ttl_is_number = false;
        for &(key, value) in pairs {
            let name = self.key(key)?;
            if !seen.insert(name) {
                let rejection = ParseRejection::DuplicateAttribute(name.to_owned());
                return Err(self.reject(key, rejection));
            }
            self.visit(value, 0)?;
            let node = tree.node(value);
            let text = match &node.body {
                Body::Scalar { .. } if node.tag.is_some() => {
                    return Err(self.wrong_type("string", name, value));
                }
                Body::Scalar { text, plain: true, .. } => guess(text).into_text(text),
                Body::Scalar { text, .. } => text.to_string(),
                Body::Sequence(_) => {
                    let rejection = ParseRejection::AttributeIsSequence(name.to_owned());
                    return Err(self.reject(value, rejection));
                }
                Body::Mapping(_) => {
                    let rejection = ParseRejection::AttributeIsMapping(name.to_owned());
                    return Err(self.reject(value, rejection));
                }
            };
            ttl_is_number |=
                name == dynamic::TTL && matches!(self.guessed(value), Guess::Integer(_));
            annotations.push((name.to_owned(), text));
        }
        Ok((annotations, ttl_is_number))
    }

    /// The values of an attribute that takes one or a list; lists in lists are flattened.
    fn leaves(&mut self, value: NodeId, depth: usize) -> Result<Vec<NodeId>, PolicyError> {
        let tree = self.tree;
        self.visit(value, depth)?;
        if self.is_null(value) {
            return Ok(Vec::new());
        }
        let node = tree.node(value);
        let Body::Sequence(items) = &node.body else { return Ok(vec![value]) };
        if node.tag.is_some() {
            return Err(self.reject(value, ParseRejection::UnexpectedSequence));
        }
        let mut leaves = Vec::with_capacity(items.len());
        for &item in items {
            match &tree.node(item).body {
                Body::Sequence(_) => leaves.extend(self.leaves(item, depth + 1)?),
                Body::Scalar { .. } | Body::Mapping(_) => {
                    self.visit(item, depth)?;
                    leaves.push(item);
                }
            }
        }
        Ok(leaves)
    }

    fn names(
        &mut self,
        wanted: Wanted,
        value: NodeId,
        depth: usize,
    ) -> Result<Vec<Name>, PolicyError> {
        let leaves = self.leaves(value, depth)?;
        leaves.into_iter().map(|leaf| self.name(wanted, leaf, depth + 1)).collect()
    }

    /// A reference to one role, resource, record or layer.
    fn name(&mut self, wanted: Wanted, value: NodeId, depth: usize) -> Result<Name, PolicyError> {
        let wrong = |reader: &Self| reader.wrong_type(wanted.expected, wanted.field, value);
        let node = self.tree.node(value);
        let named_by_tag = node.tag.is_some();
        let bare_layer = wanted.implied == Some(Form::Record(Kind::Layer));
        match &node.body {
            Body::Sequence(_) => return Err(wrong(self)),
            Body::Scalar { .. } if !named_by_tag && (!bare_layer || self.is_null(value)) => {
                return Err(wrong(self));
            }
            Body::Mapping(_) if !named_by_tag && wanted.implied.is_none() => {
                let rejection = ParseRejection::AttributeIsMapping(wanted.field.to_owned());
                return Err(self.reject(value, rejection));
            }
            Body::Scalar { .. } | Body::Mapping(_) => {}
        }
        let name = match self.object(value, wanted.implied, depth)? {
            Object::Statement(Statement::Record(record)) => record.name,
            Object::Role(name) if wanted.expected != "Resource" => name,
            Object::Resource(name) if wanted.expected != "Role" => name,
            Object::Statement(_) | Object::Role(_) | Object::Resource(_) | Object::Member(_) => {
                return Err(wrong(self));
            }
        };
        let fits = match wanted.expected {
            "Role" => name.kind.is_role(),
            "Layer" => name.kind == Kind::Layer,
            _ => true,
        };
        if fits { Ok(name) } else { Err(wrong(self)) }
    }

    fn member(&mut self, value: NodeId, depth: usize) -> Result<Member, PolicyError> {
        let untagged_scalar = matches!(
            self.tree.node(value),
            super::tree::Node { tag: None, body: Body::Scalar { .. }, .. }
        );
        if untagged_scalar {
            return Err(self.wrong_type("Member", "member", value));
        }
        match self.object(value, Some(Form::Member), depth)? {
            Object::Member(member) => Ok(member),
            Object::Statement(Statement::Record(record)) if record.name.kind.is_role() => {
                Ok(Member { role: record.name, admin: false })
            }
            Object::Role(role) if role.kind.is_role() => Ok(Member { role, admin: false }),
            Object::Statement(_) | Object::Role(_) | Object::Resource(_) => {
                Err(self.wrong_type("Member", "member", value))
            }
        }
    }

    /// A scalar attribute's text, whatever type it would be taken for.
    fn bare(
        &self,
        field: &str,
        expected: &'static str,
        value: NodeId,
    ) -> Result<&'r str, PolicyError> {
        let tree: &'r Tree<'t> = self.tree;
        let node = tree.node(value);
        match &node.body {
            Body::Scalar { text, .. } if node.tag.is_none() => Ok(text),
            Body::Mapping(_) if node.tag.is_none() => {
                Err(self.reject(value, ParseRejection::AttributeIsMapping(field.to_owned())))
            }
            Body::Scalar { .. } | Body::Sequence(_) | Body::Mapping(_) => {
                Err(self.wrong_type(expected, field, value))
            }
        }
    }

    /// What the scalar is taken for; quoted ones are text.
    fn guessed(&self, value: NodeId) -> Guess {
        match &self.tree.node(value).body {
            Body::Scalar { text, plain: true, .. } => guess(text),
            Body::Scalar { .. } | Body::Sequence(_) | Body::Mapping(_) => Guess::Text,
        }
    }

    fn is_null(&self, value: NodeId) -> bool {
        let node = self.tree.node(value);
        node.tag.is_none() && self.guessed(value) == Guess::Null
    }

    /// Text, over as many lines as it likes.
    fn text(&self, field: &str, value: NodeId) -> Result<String, PolicyError> {
        let text = self.bare(field, "string", value)?;
        match self.guessed(value) {
            Guess::Text => Ok(text.to_owned()),
            Guess::Integer(_) | Guess::Float(_) | Guess::Boolean(_) | Guess::Null | Guess::Date => {
                Err(self.wrong_type("string", field, value))
            }
        }
    }

    /// Text that names something.
    fn string(&self, field: &str, value: NodeId) -> Result<String, PolicyError> {
        let text = self.text(field, value)?;
        match &self.tree.node(value).body {
            Body::Scalar { broken: true, .. } => {
                Err(self.reject(value, ParseRejection::BrokenLine(text)))
            }
            Body::Scalar { .. } | Body::Sequence(_) | Body::Mapping(_) => Ok(text),
        }
    }

    fn integer(&self, field: &str, value: NodeId) -> Result<String, PolicyError> {
        self.bare(field, "integer", value)?;
        match self.guessed(value) {
            Guess::Integer(number) => Ok(number),
            Guess::Text | Guess::Float(_) | Guess::Boolean(_) | Guess::Null | Guess::Date => {
                Err(self.wrong_type("integer", field, value))
            }
        }
    }

    fn boolean(&self, field: &str, value: NodeId) -> Result<bool, PolicyError> {
        let text = self.bare(field, "boolean", value)?;
        match self.guessed(value) {
            Guess::Boolean(answer) => Ok(answer),
            Guess::Text if text == "true" => Ok(true),
            Guess::Text if text == "false" => Ok(false),
            Guess::Text | Guess::Integer(_) | Guess::Float(_) | Guess::Null | Guess::Date => {
                Err(self.wrong_type("boolean", field, value))
            }
        }
    }

    fn wrong_type(&self, expected: &'static str, field: &str, value: NodeId) -> PolicyError {
        let got = match self.form(value, None) {
            Err(unknown_tag) => return unknown_tag,
            Ok(Some(form)) => form.name(),
            Ok(None) => match &self.tree.node(value).body {
                Body::Scalar { .. } => self.guessed(value).type_name(),
                Body::Sequence(_) => "Array",
                Body::Mapping(_) => "Hash",
            },
        };
        let (field, got) = (field.to_owned(), got.to_owned());
        self.reject(value, ParseRejection::WrongType { expected, field, got })
    }
}
