//! Plaintext to ciphertext and back. The only place where secret bytes are made, opened or wiped.
//!
//! ```text
//! master key (of one node: from a file, a passphrase, an HSM, …)
//!   └─ wraps the root key at rest (`root.key`); seals the node's own blobs, and the key of each backup
//!        root key (one a cluster, in memory of unsealed nodes)
//!          ├─ wraps the keyring, which lies in the replicated state
//!          │    keyring: a data key for each generation
//!          │      └─ a key for each record, derived with 24 random bytes ─ AES-256-GCM
//!          ├─ keys the fingerprints
//!          └─ signs checkpoints of the audit chain
//! ```
//!
//! Every sealed thing is bound to what it is for: the associated data are the format byte and the
//! full id, or a label that no id can equal. Moved to another place it does not open.

mod aead;
mod audit_key;
mod keyring;
mod master;
mod passphrase;
mod secret;
mod stream;
mod vault;

pub use audit_key::{AuditKey, is_signed};
pub use keyring::{Keyring, RootKey};
pub use master::MasterKey;
pub use passphrase::{PASSPHRASE_CHARS_MIN, Stretching};
pub use secret::Secret;
pub(crate) use stream::{CHUNK_BYTES, Chunk, ChunkKey, TAG_BYTES};
pub use vault::{NewerKeyring, RotationBytes, SEALS_PER_GENERATION_MAX, Vault};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

use crate::error::Fault;

/// Fills a buffer from the system's randomness.
pub(crate) fn fill_random(buffer: &mut [u8]) -> Result<(), Fault> {
    SystemRandom::new()
        .fill(buffer)
        .map_err(|_| Fault::Key("the system gives no random bytes; check /dev/urandom".to_owned()))
}
