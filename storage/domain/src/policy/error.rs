//! Why a policy text is refused: what to say, where, and under which code.

use crate::id::Id;
use crate::policy::limits;

/// A place in a policy text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Line, the first is 1.
    pub line: u32,
    /// Column in characters, the first is 1.
    pub column: u32,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The code that an API answer carries for a refused text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The request as a whole is not one that can be loaded.
    ValidationFailed,
    /// The text is wrong.
    PolicyInvalid,
}

impl Code {
    /// The code as it stands in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ValidationFailed => "validation_failed",
            Self::PolicyInvalid => "policy_invalid",
        }
    }
}

/// Why a policy text was refused. `Display` is the message for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The text is blank.
    #[error("policy_text is not present")]
    EmptyText,
    /// A text that deletes was sent where only additions are allowed.
    #[error("policy_text may not contain deletion statements")]
    DeletionInAppend,
    /// The text is not YAML.
    #[error("{message}")]
    Syntax {
        /// What is wrong.
        message: String,
        /// Where it was noticed.
        place: Place,
    },
    /// The text is YAML, but no policy.
    #[error("{rejection}")]
    Parse {
        /// What is wrong.
        rejection: ParseRejection,
        /// Where it stands.
        place: Place,
    },
    /// The statements do not fit together.
    #[error("{rejection}")]
    Resolve {
        /// What is wrong.
        rejection: ResolveRejection,
        /// Where it stands, where that is one place.
        place: Option<Place>,
    },
    /// A role or resource is referred to that neither exists nor is declared by the text.
    #[error("{} '{}' not found in account '{}'", capitalised(.id), .id.identifier(), .id.account())]
    NotFound {
        /// What is referred to.
        id: Id,
        /// Where.
        place: Option<Place>,
    },
    /// A record that may not be made like that.
    #[error("{object}")]
    Invalid {
        /// What is wrong.
        object: InvalidObject,
        /// Where it stands.
        place: Option<Place>,
    },
}

/// Why a YAML document is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseRejection {
    /// A second document follows.
    #[error("Multiple YAML documents encountered. Only a single document is permitted per policy.")]
    SecondDocument,
    /// A mapping where none may stand.
    #[error("Unexpected mapping")]
    UnexpectedMapping,
    /// A sequence where none may stand.
    #[error("Unexpected sequence")]
    UnexpectedSequence,
    /// A scalar where none may stand.
    #[error("Unexpected scalar")]
    UnexpectedScalar,
    /// An anchor is defined twice.
    #[error("Duplicate anchor {0}")]
    DuplicateAnchor(String),
    /// An alias stands inside what it names.
    #[error("Unexpected alias {0}")]
    RecursiveAlias(String),
    /// A mapping without tag whose type cannot be told.
    #[error("No type given or inferred for sequence entry")]
    NoType,
    /// A tag that names no type.
    #[error("Unrecognized data type '{0}'")]
    UnknownTag(String),
    /// A key that the type does not have.
    #[error("No such attribute '{name}' on type {form}")]
    NoSuchAttribute {
        /// The key.
        name: String,
        /// The type.
        form: &'static str,
    },
    /// The same key twice in a mapping.
    #[error("Duplicate attribute: {0}")]
    DuplicateAttribute(String),
    /// A mapping as the value of a scalar attribute.
    #[error("Attribute '{0}' can't be a mapping")]
    AttributeIsMapping(String),
    /// A sequence as the value of an annotation.
    #[error("Attribute '{0}' can't be a sequence")]
    AttributeIsSequence(String),
    /// A value of another type than the attribute takes.
    #[error("Expected a {expected} for field '{field}', got {got}")]
    WrongType {
        /// What the attribute takes.
        expected: &'static str,
        /// The attribute.
        field: String,
        /// What was found.
        got: String,
    },
    /// No address and no range.
    #[error("Invalid IP address or CIDR range '{0}'")]
    Cidr(String),
    /// A range that is not in canonical form.
    #[error(
        "Invalid IP address or CIDR range '{text}': \
         Value has bits set to right of mask. Did you mean '{canonical}'?"
    )]
    CidrNotCanonical {
        /// As written.
        text: String,
        /// As it should be written.
        canonical: String,
    },
    /// An SSH public key without its three words.
    #[error("Invalid public key format")]
    PublicKey,
    /// A plain scalar used as a name spans lines; most often two entries that ran into one.
    #[error("Unexpected line break in '{0}'")]
    BrokenLine(String),
    /// A reference form of no known kind.
    #[error("Unknown kind '{0}'")]
    UnknownKind(String),
    /// A reference form without `kind`.
    #[error("No kind given for {0}")]
    NoKind(&'static str),
    /// A legacy form that is not supported.
    #[error("Automatic roles are not supported")]
    AutomaticRole,
    /// A form that can be referred to but not declared.
    #[error("{0} can be referred to, but not declared")]
    NotAStatement(&'static str),
    /// The text is too long.
    #[error("Policy text is longer than {} bytes", limits::TEXT_BYTES_MAX)]
    TooLong,
    /// The text holds too much once aliases are followed.
    #[error("Policy has more than {} nodes", limits::NODES_MAX)]
    TooManyNodes,
    /// The text multiplies itself by aliases.
    #[error("Policy is read as more than {0} nodes once its aliases are followed")]
    AliasesMultiply(usize),
    /// The text is nested too deeply.
    #[error("Policy is nested more than {} levels deep", limits::DEPTH_MAX)]
    TooDeep,
    /// One value is too long.
    #[error("Value is longer than {} bytes", limits::SCALAR_BYTES_MAX)]
    ScalarTooLong,
    /// The text asks for too many rows.
    #[error("Policy declares more than {} records, grants and permits", limits::ROWS_MAX)]
    TooManyRows,
}

/// Why statements do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveRejection {
    /// No id, and no enclosing policy to take it from.
    #[error("{0} has a blank id")]
    BlankId(&'static str),
    /// `..` past the top, or where relative ids are not allowed.
    #[error("Invalid relative reference: {0}")]
    InvalidRelative(String),
    /// A leading `/` where absolute ids are not allowed.
    #[error("Illegal absolute id: {0}")]
    IllegalAbsolute(String),
    /// Another account, where a policy has no say.
    #[error("Illegal account '{account}' for {thing}")]
    IllegalAccount {
        /// The account named.
        account: String,
        /// For what.
        thing: String,
    },
    /// Two records own or need each other.
    #[error("Dependency cycle encountered between {0} and {1}")]
    Cycle(String, String),
    /// The same record twice.
    #[error("{0} is declared more than once")]
    Duplicate(String),
    /// An entry that is no statement. The wording is what client suites look for.
    #[error("undefined method 'referenced_records' for {0}")]
    NotARecord(String),
    /// An id that breaks the rules for ids.
    #[error("{thing}: {why}")]
    BadId {
        /// What was to be named so.
        thing: String,
        /// Why that cannot be.
        why: String,
    },
}

/// Why a record may not be made like that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidObject {
    /// A host factory must name at least one layer.
    #[error("Host factory '{0}' does not include any layers")]
    HostFactoryWithoutLayers(String),
    /// The load would delete the very policy that it is loaded into.
    #[error("Policy '{0}' cannot be deleted by a load into it")]
    DeletesItself(String),
    /// The policy to load into is not there.
    #[error("Policy '{0}' does not exist")]
    NoSuchPolicy(String),
    /// Users may come to be in the root policy only.
    #[error("User creation is disabled.")]
    UserOutsideRoot,
    /// Hosts must ask for their API key.
    #[error("Host '{0}' cannot be created without the annotation 'authn/api-key: true'")]
    HostWithoutApiKey(String),
    /// A dynamic secret names an issuer that is not there, or that whoever loads may not use.
    #[error("Issuer '{issuer}' not found in account '{account}'")]
    NoSuchIssuer {
        /// Its name.
        issuer: String,
        /// The account.
        account: String,
    },
    /// A dynamic secret must say where its value comes from.
    #[error("Dynamic variable '{0}' must have the annotation 'dynamic/issuer'")]
    DynamicWithoutIssuer(String),
    /// Only dynamic secrets have an issuer.
    #[error(
        "Variable '{0}' cannot have the annotation 'dynamic/issuer': \
         dynamic variables are below 'data/dynamic/'"
    )]
    IssuerOfStatic(String),
    /// A dynamic secret is made in one of two ways.
    #[error(
        "The annotation 'dynamic/method' of variable '{0}' must be 'assume-role' or \
         'federation-token'"
    )]
    DynamicMethod(String),
    /// How long a dynamic secret lives is bounded.
    #[error(
        "The annotation 'dynamic/ttl' of variable '{variable}' must be an integer between {least} and {most}"
    )]
    DynamicTtl {
        /// The variable.
        variable: String,
        /// Shortest life in seconds.
        least: u32,
        /// Longest life in seconds.
        most: u32,
    },
}

fn capitalised(id: &Id) -> String {
    let kind = id.kind().as_str();
    let mut text = kind[..1].to_ascii_uppercase();
    text.push_str(&kind[1..]);
    text
}

impl PolicyError {
    /// The code of the API answer.
    pub const fn code(&self) -> Code {
        match self {
            Self::EmptyText | Self::DeletionInAppend => Code::ValidationFailed,
            Self::Syntax { .. }
            | Self::Parse { .. }
            | Self::Resolve { .. }
            | Self::NotFound { .. }
            | Self::Invalid { .. } => Code::PolicyInvalid,
        }
    }

    /// The place, where one is known. A dry run shows it.
    pub const fn place(&self) -> Option<Place> {
        match self {
            Self::EmptyText | Self::DeletionInAppend => None,
            Self::Syntax { place, .. } | Self::Parse { place, .. } => Some(*place),
            Self::Resolve { place, .. }
            | Self::NotFound { place, .. }
            | Self::Invalid { place, .. } => *place,
        }
    }

    /// The place that a real load answers in `innererror`: only what the parser refuses has one.
    pub const fn parser_place(&self) -> Option<Place> {
        match self {
            Self::Syntax { place, .. } | Self::Parse { place, .. } => Some(*place),
            Self::EmptyText
            | Self::DeletionInAppend
            | Self::Resolve { .. }
            | Self::NotFound { .. }
            | Self::Invalid { .. } => None,
        }
    }

    /// A hint on how to mend it, for the second line of a dry run's message; may be empty.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Syntax { message, .. } => syntax_advice(message),
            Self::Parse { rejection, .. } => rejection.advice(),
            Self::Resolve { rejection, .. } => match rejection {
                ResolveRejection::BlankId(_) => {
                    "Each resource must be identified using the 'id' field"
                }
                ResolveRejection::Cycle(..) => "Try redefining one or both.",
                ResolveRejection::InvalidRelative(_)
                | ResolveRejection::IllegalAbsolute(_)
                | ResolveRejection::IllegalAccount { .. }
                | ResolveRejection::Duplicate(_)
                | ResolveRejection::NotARecord(_)
                | ResolveRejection::BadId { .. } => "",
            },
            Self::EmptyText
            | Self::DeletionInAppend
            | Self::NotFound { .. }
            | Self::Invalid { .. } => "",
        }
    }
}

impl ParseRejection {
    #[expect(clippy::wildcard_enum_match_arm, reason = "most rejections need no hint")]
    const fn advice(&self) -> &'static str {
        match self {
            Self::UnexpectedScalar => "Please check the syntax for defining a new node.",
            Self::UnknownTag(_) => {
                "The tag must be one of the following: !delete, !deny, !grant, !group, !host, \
                 !host-factory, !layer, !permit, !policy, !revoke, !user, !variable, \
                 !webservice"
            }
            Self::Cidr(_) => {
                "Make sure your address or range is in the correct format \
                 (e.g. 192.168.1.0 or 192.168.1.0/16)"
            }
            Self::BrokenLine(_) => "Only one node can be defined per line.",
            _ => "",
        }
    }
}

fn syntax_advice(message: &str) -> &'static str {
    match message {
        "could not find expected ':' while scanning a simple key" => {
            "This error can occur when you have a missing ':' or missing space after ':'"
        }
        "did not find expected whitespace or line break while scanning a tag" => {
            "Only one node can be defined per line."
        }
        "did not find expected '-' indicator while parsing a block collection" => {
            "This error can occur when you have an indentation problem"
        }
        "block sequence entries are not allowed in this context" => {
            "This error can occur when you have an unnecessary '-' at the beginning of a line"
        }
        "did not find expected ',' or ']' while parsing a flow sequence" => {
            "A list that starts with '[' must end with ']', with ',' between its elements"
        }
        "did not find expected ',' or '}' while parsing a flow mapping" => {
            "A mapping that starts with '{' must end with '}', with ',' between its entries"
        }
        "mapping values are not allowed in this context" => {
            "Check the indentation, and put text that contains ': ' in quotes"
        }
        _ => "",
    }
}
