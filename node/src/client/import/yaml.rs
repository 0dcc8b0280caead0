//! Small YAML documents as trees whose nodes know their line: manifests and files of values. No
//! aliases, one document; scalars stay the text that they are.

use saphyr_parser::{Event, Parser, ScalarStyle};
use zeroize::Zeroizing;

/// Deepest nesting; the files here need three.
const DEPTH_MAX: usize = 16;

/// One node.
pub(super) struct Node {
    /// Line of its first character, from 1.
    pub(super) line: usize,
    /// What it holds.
    pub(super) body: Body,
}

/// What a node holds.
pub(super) enum Body {
    /// Text.
    Scalar {
        /// The text, escapes undone.
        text: Zeroizing<String>,
        /// Whether it is nothing: empty, `~` or `null` without quotes.
        is_null: bool,
        /// Whether it is tagged `!!binary`.
        is_binary: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// Pairs in the order of the text.
    Map(Vec<(Node, Node)>),
}

/// A text that is no such document: a line and what is wrong there.
pub(super) type Malformed = (usize, String);

impl Node {
    /// The text of a scalar that is not nothing.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.body {
            Body::Scalar { text, is_null: false, .. } => Some(text),
            Body::Scalar { .. } | Body::List(_) | Body::Map(_) => None,
        }
    }
}

/// A list or mapping whose end has not been seen; pairs lie flat in it.
struct Open {
    line: usize,
    is_map: bool,
    inside: Vec<Node>,
}

/// Reads one document; an empty text has none.
pub(super) fn read(text: &str) -> Result<Option<Node>, Malformed> {
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    let mut documents = 0_u32;
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|error| (error.marker().line(), error.info().to_owned()))?;
        let line = span.start.line();
        let done = match event {
            Event::Scalar(value, style, _, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let is_null = plain && matches!(value.as_ref(), "" | "~" | "null");
                let is_binary = tag.is_some_and(|tag| tag.suffix == "binary");
                let text = Zeroizing::new(value.into_owned());
                Node { line, body: Body::Scalar { text, is_null, is_binary } }
            }
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                if open.len() >= DEPTH_MAX {
                    return Err((line, "nested too deep".to_owned()));
                }
                let is_map = matches!(event, Event::MappingStart(..));
                open.push(Open { line, is_map, inside: Vec::new() });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { line, is_map, inside }) = open.pop() else { continue };
                let body = if is_map { Body::Map(pairs(inside)) } else { Body::List(inside) };
                Node { line, body }
            }
            Event::Alias(_) => return Err((line, "aliases have no place here".to_owned())),
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err((line, "a second document".to_owned()));
                }
                continue;
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
        };
        match open.last_mut() {
            Some(parent) => parent.inside.push(done),
            None => root = Some(done),
        }
    }
    Ok(root)
}

fn pairs(flat: Vec<Node>) -> Vec<(Node, Node)> {
    let mut flat = flat.into_iter();
    let mut pairs = Vec::with_capacity(flat.len() / 2);
    while let (Some(key), Some(value)) = (flat.next(), flat.next()) {
        pairs.push((key, value));
    }
    pairs
}
