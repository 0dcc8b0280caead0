//! YAML text to a tree of nodes with tags and places. Knows no policy; resolves no scalars.
//!
//! An alias is the very node that its anchor names, not a copy: the tree is as large as the text,
//! whatever the aliases would expand to. Whoever walks it counts what it visits.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, Tag};

use super::error::{ParseRejection, Place, PolicyError};
use super::limits;

/// Names a node of one [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct NodeId(u32);

/// One node.
#[derive(Debug)]
pub(super) struct Node<'t> {
    /// Where it starts, its tag and anchor included.
    pub(super) place: Place,
    /// Its tag as written, `!` included; standard tags (`!!str`) are left out.
    pub(super) tag: Option<String>,
    /// What it holds.
    pub(super) body: Body<'t>,
}

/// What a node holds.
#[derive(Debug)]
pub(super) enum Body<'t> {
    /// Text.
    Scalar {
        /// The text, escapes and folding undone.
        text: Cow<'t, str>,
        /// Whether it was written without quotes, so that its type may be guessed.
        plain: bool,
        /// Whether it is plain and spans lines.
        broken: bool,
    },
    /// A list.
    Sequence(Vec<NodeId>),
    /// Pairs in the order of the text.
    Mapping(Vec<(NodeId, NodeId)>),
}

/// A document.
#[derive(Debug)]
pub(super) struct Tree<'t> {
    nodes: Vec<Node<'t>>,
    root: Option<NodeId>,
    has_aliases: bool,
}

impl<'t> Tree<'t> {
    /// Reads a document. An empty one has no root.
    pub(super) fn read(text: &'t str) -> Result<Self, PolicyError> {
        if text.len() > limits::TEXT_BYTES_MAX {
            return Err(reject(ParseRejection::TooLong, Place { line: 1, column: 1 }));
        }
        Builder::new(text).run()
    }

    /// The root node, unless the document is empty.
    pub(super) fn root(&self) -> Option<NodeId> {
        self.root
    }

    /// Whether any node can be reached in more than one way.
    pub(super) fn has_aliases(&self) -> bool {
        self.has_aliases
    }

    /// How many nodes there are; an alias is none.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A node.
    pub(super) fn node(&self, id: NodeId) -> &Node<'t> {
        &self.nodes[id.0 as usize]
    }
}

/// A sequence or mapping whose end has not been seen.
struct Open {
    node: NodeId,
    /// The key that waits for its value, in a mapping.
    key: Option<NodeId>,
}

struct Builder<'t> {
    text: &'t str,
    tree: Tree<'t>,
    open: Vec<Open>,
    anchors: HashMap<usize, NodeId>,
    anchor_names: HashSet<&'t str>,
    /// A character index and the byte index of the same place; moves forward only.
    cursor: (usize, usize),
    documents: usize,
}

impl<'t> Builder<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            text,
            tree: Tree { nodes: Vec::new(), root: None, has_aliases: false },
            open: Vec::new(),
            anchors: HashMap::new(),
            anchor_names: HashSet::new(),
            cursor: (0, 0),
            documents: 0,
        }
    }

    fn run(mut self) -> Result<Tree<'t>, PolicyError> {
        let mut parser = Parser::new_from_str(self.text);
        while let Some(next) = parser.next_event() {
            let (event, span) = next.map_err(|error| syntax(&error))?;
            self.take(event, span)?;
        }
        Ok(self.tree)
    }

    fn take(&mut self, event: Event<'t>, span: Span) -> Result<(), PolicyError> {
        let place = place(&span.start);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(reject(ParseRejection::SecondDocument, place));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                if text.len() > limits::SCALAR_BYTES_MAX {
                    return Err(reject(ParseRejection::ScalarTooLong, place));
                }
                let (tag, forced) = tag_text(tag.as_deref());
                let plain = style == ScalarStyle::Plain && !forced;
                // A plain scalar on one line stands in the source as it is; only folding changes it.
                let broken = plain
                    && span.start.line() != span.end.line()
                    && !self.source(&span).ends_with(text.as_ref());
                let node = self.add(place, tag, Body::Scalar { text, plain, broken })?;
                self.anchor(anchor, node, &span)?;
                self.attach(node);
                Ok(())
            }
            Event::SequenceStart(anchor, tag) => {
                let (tag, _) = tag_text(tag.as_deref());
                self.open(place, tag, Body::Sequence(Vec::new()), anchor, &span)
            }
            Event::MappingStart(anchor, tag) => {
                let (tag, _) = tag_text(tag.as_deref());
                self.open(place, tag, Body::Mapping(Vec::new()), anchor, &span)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.open.pop();
                Ok(())
            }
            Event::Alias(anchor) => {
                let Some(&node) = self.anchors.get(&anchor) else {
                    // The parser has refused unknown anchors already.
                    return Err(reject(ParseRejection::RecursiveAlias(String::new()), place));
                };
                if self.open.iter().any(|open| open.node == node) {
                    let name = self.name_at(&span, '*').to_owned();
                    return Err(reject(ParseRejection::RecursiveAlias(name), place));
                }
                self.tree.has_aliases = true;
                self.attach(node);
                Ok(())
            }
        }
    }

    fn open(
        &mut self,
        place: Place,
        tag: Option<String>,
        body: Body<'t>,
        anchor: usize,
        span: &Span,
    ) -> Result<(), PolicyError> {
        if self.open.len() >= limits::DEPTH_MAX {
            return Err(reject(ParseRejection::TooDeep, place));
        }
        let node = self.add(place, tag, body)?;
        self.anchor(anchor, node, span)?;
        self.attach(node);
        self.open.push(Open { node, key: None });
        Ok(())
    }

    fn add(
        &mut self,
        place: Place,
        tag: Option<String>,
        body: Body<'t>,
    ) -> Result<NodeId, PolicyError> {
        if tag.as_ref().is_some_and(|tag| tag.len() > limits::SCALAR_BYTES_MAX) {
            return Err(reject(ParseRejection::ScalarTooLong, place));
        }
        match u32::try_from(self.tree.nodes.len()) {
            Ok(index) if self.tree.nodes.len() < limits::NODES_MAX => {
                self.tree.nodes.push(Node { place, tag, body });
                Ok(NodeId(index))
            }
            _ => Err(reject(ParseRejection::TooManyNodes, place)),
        }
    }

    fn anchor(&mut self, anchor: usize, node: NodeId, span: &Span) -> Result<(), PolicyError> {
        if anchor == 0 {
            return Ok(());
        }
        let name = self.name_at(span, '&');
        if !name.is_empty() && !self.anchor_names.insert(name) {
            let rejection = ParseRejection::DuplicateAnchor(name.to_owned());
            return Err(reject(rejection, place(&span.start)));
        }
        self.anchors.insert(anchor, node);
        Ok(())
    }

    /// Puts a finished or opened node into the innermost open one, or makes it the root.
    fn attach(&mut self, node: NodeId) {
        let Some(open) = self.open.last_mut() else {
            self.tree.root = Some(node);
            return;
        };
        match &mut self.tree.nodes[open.node.0 as usize].body {
            Body::Sequence(items) => items.push(node),
            Body::Mapping(pairs) => match open.key.take() {
                None => open.key = Some(node),
                Some(key) => pairs.push((key, node)),
            },
            Body::Scalar { .. } => {}
        }
    }

    /// The text of a span. Spans must be asked for in the order of the text.
    fn source(&mut self, span: &Span) -> &'t str {
        let start = self.byte_index(self.cursor, span.start.index());
        self.cursor = start;
        let end = self.byte_index(start, span.end.index());
        &self.text[start.1..end.1]
    }

    /// Walks from a character index and its byte index to a later character index.
    fn byte_index(&self, from: (usize, usize), to_chars: usize) -> (usize, usize) {
        let steps = to_chars.saturating_sub(from.0);
        let bytes = self.text[from.1..].chars().take(steps).map(char::len_utf8).sum::<usize>();
        (from.0 + steps, from.1 + bytes)
    }

    /// The name after `sigil` among the properties that start at `span`. The parser's events carry
    /// numbers only, so the name is read from the text.
    fn name_at(&mut self, span: &Span, sigil: char) -> &'t str {
        let mut rest = self.source(span);
        if rest.starts_with('!') {
            let tag_end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            rest = rest[tag_end..].trim_start();
        }
        rest.strip_prefix(sigil).map_or("", |name| {
            let end = name
                .find(|c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']' | '{' | '}'))
                .unwrap_or(name.len());
            &name[..end]
        })
    }
}

/// The tag to keep, and whether it makes a plain scalar text.
fn tag_text(tag: Option<&Tag>) -> (Option<String>, bool) {
    match tag {
        None => (None, false),
        Some(tag) if tag.is_yaml_core_schema() => (None, tag.suffix == "str"),
        // The tag `!` alone: a scalar so marked is text.
        Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => (None, true),
        Some(tag) if tag.handle == "!" => (Some(format!("!{}", tag.suffix)), false),
        Some(tag) => (Some(format!("{}{}", tag.handle, tag.suffix)), false),
    }
}

fn place(marker: &Marker) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Place { line: number(marker.line()), column: number(marker.col()).saturating_add(1) }
}

pub(super) fn reject(rejection: ParseRejection, place: Place) -> PolicyError {
    PolicyError::Parse { rejection, place }
}

/// The parser's refusal in the words that libyaml has for it, which people search for.
fn syntax(error: &ScanError) -> PolicyError {
    let info = error.info();
    let message = match info {
        // The second where the colon is missing in the last line.
        "simple key expect ':'" | "simple key expected" => {
            "could not find expected ':' while scanning a simple key".into()
        }
        "while parsing a flow sequence, expected ',' or ']'" => {
            "did not find expected ',' or ']' while parsing a flow sequence".into()
        }
        "the handle wasn't declared" => "found undefined tag handle while parsing a node".into(),
        "recursion limit exceeded" => {
            return reject(ParseRejection::TooDeep, place(error.marker()));
        }
        _ => match info.strip_prefix("while ").and_then(|rest| rest.split_once(", ")) {
            Some((context, problem)) => format!("{problem} while {context}"),
            None => info.to_owned(),
        },
    };
    PolicyError::Syntax { message, place: place(error.marker()) }
}
