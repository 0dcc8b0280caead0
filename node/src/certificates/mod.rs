//! The cluster's certificates: what goes into one ([`template`]), the authority that signs
//! ([`authority`]), the check of what came out ([`check`]) and of what is brought from outside
//! ([`import`]), how they rest in the state ([`store`]), which are due ([`plan`]) and what is known of
//! them ([`inventory`], [`telling`]). A node's own copies are in [`crate::folder`]; [`crate::jobs`] loads and renews.

pub mod authority;
pub mod check;
pub mod import;
pub mod inventory;
pub mod plan;
pub mod store;
pub mod telling;
pub mod template;

pub use authority::{Issued, throwaway};

/// Why a certificate was not made or not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A key or certificate could not be built.
    #[error("cannot build the certificate: {0}")]
    Build(#[from] rcgen::Error),
    /// A certificate or key cannot be read.
    #[error("cannot read the certificate: {0}")]
    Malformed(String),
    /// A certificate was made or handed over that does not do its job.
    #[error("the certificate is refused: {0}")]
    Refused(String),
    /// A key cannot be sealed or opened.
    #[error("cannot open the key of the certificate: {0}")]
    Key(#[from] conclave_storage::Fault),
}
