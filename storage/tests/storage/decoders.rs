//! No bytes make a decoder panic, and what was encoded is decoded.

use conclave_domain::records::Sealed;
use conclave_domain::records::Version;
use conclave_storage::seal::{Keyring, MasterKey, RootKey, Secret, Vault};
use conclave_storage::snapshot::ManifestFile;
use conclave_storage::{AppliedMark, Manifest, keys};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::fixtures::variable;
use crate::golden::rows;

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(key in vec(any::<u8>(), 0..80), value in vec(any::<u8>(), 0..200)) {
        drop(keys::row(&key, &value));
        drop(Manifest::decode(&value));
        drop(keys::secret_value(&value, Version(2)));
        let sealed = Sealed(value);
        prop_assert!(Vault::generation_of(&sealed).is_none() || sealed.0[0] == 1);
    }

    #[test]
    fn damaged_rows_are_read_or_refused(
        which in 0_usize..14, at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let (row, _) = &rows()[which];
        let (mut key, mut value) = (Vec::new(), Vec::new());
        keys::put_row_key(&mut key, row);
        keys::put_row_value(&mut value, row).unwrap();
        value[0] = 1;
        let mut damaged = value.clone();
        let place = at.index(damaged.len());
        damaged[place] = byte;
        drop(keys::row(&key, &damaged));
        drop(keys::row(&key[..cut.index(key.len())], &value));
        drop(keys::row(&key, &value[..cut.index(value.len())]));
    }

    #[test]
    fn manifests_survive_their_encoding(
        index in any::<u64>(), log_id in vec(any::<u8>(), 0..40), membership in vec(any::<u8>(), 0..40),
        names in prop::collection::btree_set("[a-zA-Z0-9][a-zA-Z0-9_.-]{0,20}", 0..8), len in any::<u64>(),
        flip in any::<prop::sample::Index>(),
    ) {
        let mark = AppliedMark { index, log_id: log_id.into(), membership: membership.into() };
        let files = names.into_iter().map(|name| ManifestFile { name, len, sha256: [3; 32] }).collect();
        let manifest = Manifest { mark, files };
        let mut bytes = manifest.encode();
        prop_assert_eq!(&Manifest::decode(&bytes).unwrap(), &manifest);
        let at = flip.index(bytes.len());
        bytes[at] ^= 1;
        prop_assert!(Manifest::decode(&bytes).is_err());
    }

    #[test]
    fn values_survive_sealing(value in vec(any::<u8>(), 0..500), noise in vec(any::<u8>(), 0..120)) {
        let root = RootKey::from_secret(&Secret::new(vec![1; 32])).unwrap();
        let master = MasterKey::from_secret(&Secret::new(vec![2; 32])).unwrap();
        let vault = Vault::new(&root, &Keyring::generate().unwrap());
        let secret = Secret::new(value.clone());
        let sealed = vault.seal(&variable(), &secret).unwrap();
        prop_assert!(vault.open(&variable(), &sealed).unwrap().matches(&value));
        let labelled = vault.seal_labelled("token key", &secret).unwrap();
        prop_assert!(vault.open_labelled("token key", &labelled).unwrap().matches(&value));
        prop_assert!(vault.open(&variable(), &Sealed(noise.clone())).is_err());
        prop_assert!(RootKey::unwrap(&noise, &master).is_err());
    }
}
