//! What goes over the wire to clients: JSON text, timestamps and the documents of the Conjur API.

pub(crate) mod base64;
pub(crate) mod collation;
pub(crate) mod documents;
pub(crate) mod json;
pub(crate) mod params;
pub(crate) mod path;
pub(crate) mod query;
pub(crate) mod time;
