//! The key that signs checkpoints of the audit chain, derived from the root key: every member that is
//! in possession of that can sign, and nobody else. Its public half never changes while the root key
//! does not, so it can be written down outside the cluster.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use conclave_domain::audit::AuditCheckpoint;
use conclave_domain::records::Digest;
use conclave_domain::time::Timestamp;

use super::RootKey;
use crate::error::Fault;

const PURPOSE: &str = "conclave audit checkpoint key v1";

/// An Ed25519 key pair. No `Debug`.
pub struct AuditKey(Ed25519KeyPair);

impl AuditKey {
    /// The cluster's key.
    ///
    /// # Errors
    /// [`Fault::Key`], which no root key causes.
    pub fn derive(root: &RootKey) -> Result<Self, Fault> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&root.subkey(PURPOSE)[..]);
        pair.map(Self).map_err(|_rejected| Fault::Key("the audit key is none".to_owned()))
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        let mut public = [0; 32];
        // An Ed25519 public key has 32 bytes (RFC 8032 section 5.1.5).
        public.copy_from_slice(self.0.public_key().as_ref());
        public
    }

    /// Vouches for a record's hash.
    pub fn checkpoint(&self, number: u64, hash: Digest, at: Timestamp) -> AuditCheckpoint {
        let mut signature = [0; 64];
        let signed = self.0.sign(&AuditCheckpoint::signed_bytes(number, &hash, at));
        signature.copy_from_slice(signed.as_ref());
        AuditCheckpoint { number, hash, at, key: self.public(), signature }
    }
}

/// Whether a checkpoint's signature is that of the key it names. Whose that is, is for the caller to
/// know.
pub fn is_signed(checkpoint: &AuditCheckpoint) -> bool {
    let AuditCheckpoint { number, hash, at, key, signature } = checkpoint;
    let signed = AuditCheckpoint::signed_bytes(*number, hash, *at);
    UnparsedPublicKey::new(&ED25519, key).verify(&signed, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_signed_by_the_cluster_alone() {
        let root = RootKey::generate().unwrap();
        let key = AuditKey::derive(&root).unwrap();
        assert_eq!(key.public(), AuditKey::derive(&root).unwrap().public());
        let checkpoint = key.checkpoint(7, Digest([1; 32]), Timestamp(5));
        assert!(is_signed(&checkpoint));
        for changed in [
            AuditCheckpoint { number: 8, ..checkpoint.clone() },
            AuditCheckpoint { hash: Digest([2; 32]), ..checkpoint.clone() },
            AuditCheckpoint { at: Timestamp(6), ..checkpoint.clone() },
            AuditCheckpoint { key: [2; 32], ..checkpoint.clone() },
        ] {
            assert!(!is_signed(&changed));
        }
        let other = AuditKey::derive(&RootKey::generate().unwrap()).unwrap();
        assert_ne!(other.public(), key.public());
    }
}
