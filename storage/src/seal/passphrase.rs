//! A master key from a passphrase: Argon2id with a salt and costs that lie beside the sealed files. The
//! salt is no secret; it makes the same passphrase another key on every node.

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use super::{MasterKey, Secret, fill_random};
use crate::error::Fault;

/// Shortest passphrase that is taken for a new key: whoever has a copy of the disk may guess for as
/// long as he likes.
pub const PASSPHRASE_CHARS_MIN: usize = 12;
/// What a guess costs: memory, passes over it, lanes. Some tenths of a second on one core.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// A damaged file must not take all memory, nor for ever.
const MEMORY_KIB_MAX: u32 = 4 * 1024 * 1024;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 64;

/// With what a passphrase becomes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretching {
    /// Random, for each key anew.
    pub salt: [u8; 16],
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Stretching {
    /// A fresh salt, with the costs of today.
    ///
    /// # Errors
    /// [`Fault::Key`] when the system has no randomness to give.
    pub fn new() -> Result<Self, Fault> {
        let mut salt = [0; 16];
        fill_random(&mut salt)?;
        Ok(Self { salt, memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES })
    }

    /// The key that a passphrase leads to; another passphrase leads to another key. Takes a while.
    ///
    /// # Errors
    /// [`Fault::Key`] when the costs are none that this program would have chosen, or memory is short.
    pub fn master_key(&self, passphrase: &Secret) -> Result<MasterKey, Fault> {
        let fits = self.memory_kib <= MEMORY_KIB_MAX
            && (1..=PASSES_MAX).contains(&self.passes)
            && (1..=LANES_MAX).contains(&self.lanes);
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32));
        let Some(params) = params.ok().filter(|_| fits) else {
            return Err(Fault::Key(format!(
                "a passphrase cannot cost {} KiB, {} passes and {} lanes: the file that says so is \
                 damaged",
                self.memory_kib, self.passes, self.lanes
            )));
        };
        let mut key = Zeroizing::new(vec![0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.expose_secret(), &self.salt, &mut key)
            .map_err(|error| {
                Fault::Key(format!("the passphrase could not be stretched: {error}"))
            })?;
        MasterKey::from_secret(&Secret::new(std::mem::take(&mut *key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_leads_to_one_key_for_one_salt() {
        // Cheap, since it is the shape that is tried here.
        let cheap = Stretching { memory_kib: 64, passes: 1, ..Stretching::new().unwrap() };
        let key = |stretching: Stretching, text: &str| {
            stretching.master_key(&Secret::new(text.as_bytes().to_vec())).unwrap().id()
        };
        let id = key(cheap, "correct horse battery");
        assert_eq!(key(cheap, "correct horse battery"), id);
        assert_ne!(key(cheap, "correct horse batterz"), id);
        let other = Stretching { salt: Stretching::new().unwrap().salt, ..cheap };
        assert_ne!(key(other, "correct horse battery"), id);
        // The algorithm and its parameters are part of the format: this value never changes.
        let fixed = Stretching { salt: [7; 16], memory_kib: 64, passes: 2, lanes: 1 };
        assert_eq!(key(fixed, "correct horse battery"), "e487c2571dd657a8");
    }

    #[test]
    fn damaged_costs_are_refused_and_not_paid() {
        let sane = Stretching::new().unwrap();
        for damaged in [
            Stretching { memory_kib: u32::MAX, ..sane },
            Stretching { passes: u32::MAX, ..sane },
            Stretching { passes: 0, ..sane },
            Stretching { lanes: 0, ..sane },
            Stretching { memory_kib: 1, ..sane },
        ] {
            assert!(damaged.master_key(&Secret::new(vec![1])).is_err(), "{damaged:?}");
        }
    }
}
