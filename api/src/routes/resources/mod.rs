//! `/resources…`: what there is, and who may do what to it.

pub(crate) mod check;
pub(crate) mod list;
pub(crate) mod permitted_roles;
pub(crate) mod show;
mod stem;
