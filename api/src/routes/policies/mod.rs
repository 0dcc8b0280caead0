//! `/policies…`: policy as code.

mod dry_run;
pub(crate) mod load;
pub(crate) mod records;
pub(crate) mod show;
pub(crate) mod turns;
