//! The cluster's certificates: what goes into one ([`template`]), the authority that signs it
//! ([`authority`]), and the check of what came out ([`check`]). Where keys rest is in
//! [`crate::folder`].

pub mod authority;
pub mod check;
pub mod template;

pub use authority::{Authority, Issued};

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
}
