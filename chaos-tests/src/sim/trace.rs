//! A running digest of everything that happens in a simulation: two runs of a seed must end with
//! the same one.

use std::sync::{Arc, Mutex, PoisonError};

/// FNV-1a, 64 bits: fast, and good enough to tell two runs apart.
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// The digest. Clones share it.
#[derive(Debug, Clone)]
pub struct Trace(Arc<Mutex<u64>>);

impl Default for Trace {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(OFFSET)))
    }
}

impl Trace {
    /// Takes in one event: when it happened, what, and its bytes.
    pub fn event(&self, at_ms: u64, what: &str, numbers: &[u64], bytes: &[u8]) {
        let mut hash = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mix = |byte: u8| *hash = (*hash ^ u64::from(byte)).wrapping_mul(PRIME);
        at_ms.to_le_bytes().into_iter().for_each(&mut mix);
        what.bytes().for_each(&mut mix);
        numbers.iter().flat_map(|number| number.to_le_bytes()).for_each(&mut mix);
        bytes.iter().copied().for_each(&mut mix);
    }

    /// The digest so far.
    pub fn hash(&self) -> u64 {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
