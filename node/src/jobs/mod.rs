//! What a node does by itself, in the background: opens the vault when the keyring arrives
//! ([`unseal`]), watches the members ([`autopilot`]), keeps certificates in force (`certificates`), ships its audit records to the cluster's
//! chain ([`ship`]) and copies them from there to collectors ([`outputs`]); and as leader makes Raft's
//! members those of the log ([`membership`]), forgets what has expired ([`sweep`]), rotates values that
//! are due (`rotation`), brings in people and groups of directories (`ldap_sync`), vouches for the audit chain ([`tend`]) and seals anew what lies under older
//! data keys ([`reseal`]).

mod audit;
mod autopilot;
mod certificates;
mod keys;
mod ldap_sync;
mod membership;
mod outputs;
mod rotation;
mod sweep;
mod unseal;

pub use audit::{ship, tend};
pub use autopilot::{Seen, Watch, autopilot};
pub use certificates::{
    REPORT_LIFE, install as install_certificates, load as load_certificates,
    renew as renew_certificates,
};
pub use keys::{Resealing, ResealingStatus, reseal, rotate_keyring};
pub(crate) use ldap_sync::ldap_sync;
pub use membership::membership;
pub use outputs::{check_output, outputs};
pub(crate) use rotation::rotation;
pub use rotation::{RotationStatus, Rotations};
pub use sweep::sweep;
pub use unseal::unseal;
