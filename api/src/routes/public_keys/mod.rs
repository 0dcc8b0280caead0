//! `/public_keys…`: what anybody may know of a user.

pub(crate) mod show;
