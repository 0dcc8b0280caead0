//! Audit: one record for every decision, the refused too, written before the answer leaves.
//!
//! A [`Record`] has two texts: an RFC 5424 line with Conjur's structured data, for collectors, and
//! JSON, which is what the [`Spool`] keeps until it is in the cluster's audit chain
//! (`conclave_domain::audit`). Audit is not logging: see `tracing` for that.

mod kept;
mod reader;
mod record;
mod spool;

pub use kept::{syslog_gap_line, syslog_line};
pub use reader::{SpoolBatch, SpoolReader};
pub use record::{Outcome, Record, Severity};
pub use spool::{Durability, Spool, SpoolError, SpoolStatus};

pub(crate) use kept::Kept;
pub(crate) use record::Deed;
