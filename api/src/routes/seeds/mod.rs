//! `/configuration/{account}/seed/…`: seeds, with which automation lets followers join.

pub(crate) mod follower;
