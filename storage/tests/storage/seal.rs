//! Keys and the cipher.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use conclave_domain::id::Kind;
use conclave_domain::records::{Sealed, Version, WrappedKeyring};
use conclave_storage::Fault;
use conclave_storage::seal::{Keyring, MasterKey, RootKey, Secret, Vault};

use crate::fixtures::{id, variable};

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

fn text_of(fault: Option<Fault>) -> String {
    fault.expect("this must be refused").to_string()
}

#[test]
fn a_value_opens_for_its_resource_only() {
    let root = RootKey::generate().unwrap();
    let vault = Vault::new(&root, &Keyring::generate().unwrap());
    let sealed = vault.seal(&variable(), &secret("s3cret")).unwrap();
    assert!(!sealed.0.windows(6).any(|window| window == b"s3cret"));
    assert!(vault.open(&variable(), &sealed).unwrap().matches(b"s3cret"));
    let other = id(Kind::Variable, "db/other");
    assert!(matches!(vault.open(&other, &sealed), Err(Fault::Unsealable { .. })));
    let label = variable().to_string();
    assert!(matches!(vault.open_labelled(&label, &sealed), Err(Fault::Unsealable { .. })));
    assert_eq!(vault.sealed_count(), 1);
    assert_eq!(Vault::generation_of(&sealed), Some(1));
}

#[test]
fn the_same_value_never_seals_to_the_same_bytes() {
    let vault = Vault::new(&RootKey::generate().unwrap(), &Keyring::generate().unwrap());
    let one = vault.seal(&variable(), &secret("x")).unwrap();
    let two = vault.seal(&variable(), &secret("x")).unwrap();
    assert_ne!(one, two);
}

#[test]
fn a_changed_bit_anywhere_is_noticed() {
    let vault = Vault::new(&RootKey::generate().unwrap(), &Keyring::generate().unwrap());
    let sealed = vault.seal(&variable(), &secret("value")).unwrap();
    for at in 0..sealed.0.len() {
        for bit in 0..8 {
            let mut bytes = sealed.0.clone();
            bytes[at] ^= 1 << bit;
            assert!(vault.open(&variable(), &Sealed(bytes)).is_err(), "byte {at}, bit {bit}");
        }
    }
    for len in 0..sealed.0.len() {
        assert!(vault.open(&variable(), &Sealed(sealed.0[..len].to_vec())).is_err());
    }
}

#[test]
fn rotation_keeps_old_values_open_until_their_key_is_retired() {
    let root = RootKey::generate().unwrap();
    let mut keyring = Keyring::generate().unwrap();
    let old = Vault::new(&root, &keyring).seal(&variable(), &secret("old")).unwrap();
    assert_eq!(keyring.rotate().unwrap(), 2);
    let wrapped = keyring.wrap(&root).unwrap();
    let mut keyring = Keyring::unwrap(&wrapped, &root).unwrap();
    let vault = Vault::new(&root, &keyring);
    assert_eq!(vault.generation(), 2);
    assert!(vault.open(&variable(), &old).unwrap().matches(b"old"));
    let new = vault.seal(&variable(), &secret("new")).unwrap();
    assert_eq!(Vault::generation_of(&new), Some(2));
    keyring.retire_before(2);
    let vault = Vault::new(&root, &keyring);
    let fault = text_of(vault.open(&variable(), &old).err());
    assert!(fault.contains("data key 1, which is not in the keyring"), "{fault}");
    assert!(vault.open(&variable(), &new).unwrap().matches(b"new"));
}

#[test]
fn fingerprints_tell_equal_from_changed_and_depend_on_resource_and_root() {
    let (root, keyring) = (RootKey::generate().unwrap(), Keyring::generate().unwrap());
    let vault = Vault::new(&root, &keyring);
    let of = |text| vault.fingerprint(&variable(), &secret(text));
    assert_eq!(of("a"), of("a"));
    assert_ne!(of("a"), of("b"));
    assert_ne!(of("a"), vault.fingerprint(&id(Kind::Variable, "x"), &secret("a")));
    let other = Vault::new(&RootKey::generate().unwrap(), &keyring);
    assert_ne!(of("a"), other.fingerprint(&variable(), &secret("a")));
    let again = Vault::new(&RootKey::from_secret(&root.to_secret()).unwrap(), &keyring);
    assert_eq!(of("a"), again.fingerprint(&variable(), &secret("a")));
}

#[test]
fn tags_are_those_they_always_were_and_depend_on_purpose_parts_and_root() {
    let root = |byte| RootKey::from_secret(&Secret::new(vec![byte; 32])).unwrap();
    let keyring = Keyring::generate().unwrap();
    let vault = Vault::new(&root(7), &keyring);
    let tag = vault.tag("a purpose", &[b"one", b"two"]);
    let text: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(text, "e5cbb4fd9818d9a265f371608f27134c73a37562d02d2167ab126a788baffe42");
    for other in [
        vault.tag("another", &[b"one", b"two"]),
        vault.tag("a purpose", &[b"onet", b"wo"]),
        vault.tag("a purpose", &[b"one", b"two", b""]),
        vault.tag("a purposeone", &[b"two"]),
        Vault::new(&root(8), &keyring).tag("a purpose", &[b"one", b"two"]),
    ] {
        assert_ne!(tag, other);
    }
}

#[test]
fn the_wrong_master_key_is_named_and_the_text_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mine = MasterKey::create(&folder.path().join("mine")).unwrap();
    let other = MasterKey::create(&folder.path().join("other")).unwrap();
    let root = RootKey::generate().unwrap();
    let wrapped = root.wrap(&mine).unwrap();
    let fault = text_of(RootKey::unwrap(&wrapped, &other).err());
    assert!(fault.contains(&mine.id()) && fault.contains(&other.id()), "{fault}");
    assert!(fault.contains("point the node at the master key file"), "{fault}");
    let mine = MasterKey::load(&folder.path().join("mine")).unwrap();
    assert!(
        RootKey::unwrap(&wrapped, &mine)
            .unwrap()
            .to_secret()
            .matches(root.to_secret().expose_secret())
    );
    let blob = mine.seal("node key", &secret("k")).unwrap();
    assert!(mine.open("node key", &blob).unwrap().matches(b"k"));
    assert!(matches!(mine.open("root key", &blob), Err(Fault::Unsealable { .. })));
}

#[test]
fn a_master_key_open_to_others_or_malformed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("master.key");
    let created = MasterKey::create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(MasterKey::create(&path).is_err(), "an existing key was overwritten");
    assert_eq!(MasterKey::load(&path).unwrap().id(), created.id());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let fault = text_of(MasterKey::load(&path).err());
    assert!(fault.contains("chmod 600"), "{fault}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    for text in ["", "00", &"0".repeat(63), &"g".repeat(64), &"0".repeat(2000)] {
        fs::write(&path, text).unwrap();
        assert!(MasterKey::load(&path).is_err(), "{text:?}");
    }
}

/// What a first version of the program sealed: these must open for ever.
#[test]
fn what_was_sealed_once_still_opens() {
    let root = RootKey::from_secret(&Secret::new(vec![1; 32])).unwrap();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sealed_v1.txt");
    let unhex = |text: &str| -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    };
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let Ok(text) = fs::read_to_string(&path) else {
        let keyring = Keyring::generate().unwrap();
        let vault = Vault::new(&root, &keyring);
        let lines = [
            hex(&keyring.wrap(&root).unwrap().wrapped.0),
            hex(&vault.seal(&variable(), &secret("value")).unwrap().0),
            hex(&vault.seal_labelled("token key", &secret("key")).unwrap().0),
        ];
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        panic!("sealed_v1.txt was missing and has been written: look at it and commit it");
    };
    let mut lines = text.lines().map(unhex);
    let wrapped = WrappedKeyring { generation: 1, wrapped: Sealed(lines.next().unwrap()) };
    let vault = Vault::new(&root, &Keyring::unwrap(&wrapped, &root).unwrap());
    let (value, key) = (Sealed(lines.next().unwrap()), Sealed(lines.next().unwrap()));
    assert!(vault.open(&variable(), &value).unwrap().matches(b"value"));
    assert!(vault.open_labelled("token key", &key).unwrap().matches(b"key"));
    let fingerprint = vault.fingerprint(&variable(), &secret("value"));
    assert_eq!(hex(&fingerprint.0), "4745cfc1917d4e3b21a4b76360750600");
}

#[test]
fn bytes_for_a_rotation_are_the_same_everywhere_and_nowhere_else() {
    let root = RootKey::generate().unwrap();
    let mut keyring = Keyring::generate().unwrap();
    let bytes = |vault: &Vault, name: &str, version: u32, seed: &[u8]| {
        let resource = id(Kind::Variable, name);
        let mut random = vault.rotation_bytes(&resource, Version(version), seed);
        (0..100).map(|_| random.next_byte()).collect::<Vec<u8>>()
    };
    let vault = Vault::new(&root, &keyring);
    let first = bytes(&vault, "db/password", 1, b"seed");
    // Another node, or the same one after its data keys have changed, makes the same.
    keyring.rotate().unwrap();
    assert_eq!(bytes(&Vault::new(&root, &keyring), "db/password", 1, b"seed"), first);
    let other = Vault::new(&RootKey::generate().unwrap(), &keyring);
    let different = [
        bytes(&vault, "db/password", 2, b"seed"),
        bytes(&vault, "db/passwor", 1, b"dseed"),
        bytes(&vault, "db/password", 1, b"other"),
        bytes(&other, "db/password", 1, b"seed"),
    ];
    assert!(different.iter().all(|one| *one != first));
    // Blocks do not repeat.
    assert_ne!(first[..32], first[32..64]);
}
