//! `/audit…`: what has been decided, read from the audit chain.

pub(crate) mod list;
