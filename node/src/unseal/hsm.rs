//! PKCS#11: an AES key that never leaves the HSM seals and opens the master key. The module is loaded
//! when it is needed and let go of at once: a node that runs needs no HSM.

use conclave_storage::seal::Secret;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::RawAuthPin;

use crate::config::Pkcs11Config;
use crate::exit::{Exit, Failure};

const NONCE_BYTES: usize = 12;
const TAG_BITS: u64 = 128;
const PURPOSE: &[u8] = b"conclave master key v1";

/// Why the HSM did not do it.
#[derive(Debug)]
pub(super) enum HsmError {
    /// It may do so later.
    Away(String),
    /// It will not, before somebody has put something right.
    Wrong(String),
}

impl From<HsmError> for Failure {
    fn from(error: HsmError) -> Self {
        match error {
            HsmError::Away(why) => Self::new(Exit::Unavailable, why),
            HsmError::Wrong(why) => Self::new(Exit::Configuration, why),
        }
    }
}

/// Seals a master key; makes the key that does it where the token has none of that label.
// sealed = nonce (12) | ciphertext | tag (16)
pub(super) fn seal(
    config: &Pkcs11Config,
    pin: &Secret,
    plain: &Secret,
) -> Result<Vec<u8>, HsmError> {
    with_session(config, pin, true, |session| {
        let key = match find(session, config)? {
            Some(key) => key,
            None => generate(session, config)?,
        };
        let random = session.generate_random_vec(u32::try_from(NONCE_BYTES).unwrap_or(12));
        // Some HSMs put a nonce of their own in place of this one.
        let mut nonce = random.map_err(|error| away(config, "gives no random bytes", &error))?;
        let params = GcmParams::new(&mut nonce, PURPOSE, TAG_BITS.into());
        let params = params.map_err(|error| away(config, "takes no parameters", &error))?;
        let mechanism = Mechanism::AesGcm(params);
        let sealed = session.encrypt(&mechanism, key, plain.expose_secret());
        let sealed = sealed.map_err(|error| wrong(config, "does not seal by AES-GCM", &error))?;
        Ok([nonce, sealed].concat())
    })
}

/// Opens a sealed master key.
pub(super) fn open(config: &Pkcs11Config, pin: &Secret, sealed: &[u8]) -> Result<Secret, HsmError> {
    with_session(config, pin, false, |session| {
        let Pkcs11Config { token, key: label, .. } = config;
        let key = find(session, config)?.ok_or_else(|| {
            HsmError::Wrong(format!(
                "the token {token:?} has no key labelled {label:?}, which sealed this node's master \
                 key: check unseal.token and unseal.key, or restore the key in the HSM"
            ))
        })?;
        let Some((nonce, body)) = sealed.split_at_checked(NONCE_BYTES) else {
            return Err(HsmError::Wrong("unseal.json is damaged: wrapped is too short".to_owned()));
        };
        let mut nonce = nonce.to_vec();
        let params = GcmParams::new(&mut nonce, PURPOSE, TAG_BITS.into());
        let params = params.map_err(|error| away(config, "takes no parameters", &error))?;
        session.decrypt(&Mechanism::AesGcm(params), key, body).map(Secret::new).map_err(|error| {
            let what = "does not open the master key: it may hold another key under that label";
            if is_of(&error, &[RvError::EncryptedDataInvalid, RvError::EncryptedDataLenRange]) {
                wrong(config, what, &error)
            } else {
                away(config, what, &error)
            }
        })
    })
}

fn with_session<T>(
    config: &Pkcs11Config,
    pin: &Secret,
    writes: bool,
    work: impl FnOnce(&Session) -> Result<T, HsmError>,
) -> Result<T, HsmError> {
    let module = config.module.display();
    let library = Pkcs11::new(&config.module).map_err(|error| {
        HsmError::Wrong(format!(
            "unseal.module = \"{module}\" cannot be loaded: {error}; name the PKCS#11 module of the HSM"
        ))
    })?;
    let result = in_session(&library, config, pin, writes, work);
    if let Err(error) = library.finalize() {
        tracing::debug!(%error, "hsm.finalize");
    }
    result
}

fn in_session<T>(
    library: &Pkcs11,
    config: &Pkcs11Config,
    pin: &Secret,
    writes: bool,
    work: impl FnOnce(&Session) -> Result<T, HsmError>,
) -> Result<T, HsmError> {
    match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Err(error) if !is_of(&error, &[RvError::CryptokiAlreadyInitialized]) => {
            return Err(away(config, "cannot be initialised", &error));
        }
        Ok(()) | Err(_) => {}
    }
    let slots = library.get_slots_with_token();
    let slots = slots.map_err(|error| away(config, "lists no slots", &error))?;
    let is_ours = |slot: &cryptoki::slot::Slot| {
        library.get_token_info(*slot).is_ok_and(|info| info.label().trim_end() == config.token)
    };
    let slot = slots.into_iter().find(is_ours).ok_or_else(|| {
        HsmError::Away(format!(
            "the HSM has no token labelled {:?} now; is it connected? unseal.token names it",
            config.token
        ))
    })?;
    let session =
        if writes { library.open_rw_session(slot) } else { library.open_ro_session(slot) };
    let session = session.map_err(|error| away(config, "opens no session", &error))?;
    let pin = RawAuthPin::new(Box::new(pin.expose_secret().to_vec()));
    match session.login_with_raw(UserType::User, &pin) {
        Ok(()) => {}
        Err(error) if is_of(&error, &[RvError::UserAlreadyLoggedIn]) => {}
        Err(error)
            if is_of(
                &error,
                &[
                    RvError::PinIncorrect,
                    RvError::PinInvalid,
                    RvError::PinLenRange,
                    RvError::PinExpired,
                    RvError::PinLocked,
                ],
            ) =>
        {
            return Err(HsmError::Wrong(format!(
                "the token {:?} refuses the PIN ({}): put the right one into {}; it is not tried \
                 again, since tokens lock themselves",
                config.token,
                told(&error),
                config.pin
            )));
        }
        Err(error) => return Err(away(config, "lets nobody in", &error)),
    }
    work(&session)
}

fn find(session: &Session, config: &Pkcs11Config) -> Result<Option<ObjectHandle>, HsmError> {
    let wanted = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Label(config.key.clone().into_bytes()),
    ];
    let found = session.find_objects(&wanted);
    let found = found.map_err(|error| away(config, "finds no keys", &error))?;
    if found.len() > 1 {
        return Err(HsmError::Wrong(format!(
            "the token {:?} has {} AES keys labelled {:?}: give one of them another label",
            config.token,
            found.len(),
            config.key
        )));
    }
    Ok(found.first().copied())
}

/// Makes the key that seals: for this alone, and never to leave the token.
fn generate(session: &Session, config: &Pkcs11Config) -> Result<ObjectHandle, HsmError> {
    let template = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::ValueLen(32_u64.into()),
        Attribute::Label(config.key.clone().into_bytes()),
    ];
    let made = session.generate_key(&Mechanism::AesKeyGen, &template);
    let made = made.map_err(|error| wrong(config, "makes no AES-256 key", &error))?;
    tracing::info!(token = config.token, key = config.key, "hsm.key made");
    Ok(made)
}

fn is_of(error: &Error, these: &[RvError]) -> bool {
    matches!(error, Error::Pkcs11(code, _) if these.contains(code))
}

/// The code alone: the library's own text is a paragraph of the standard.
fn told(error: &Error) -> String {
    if let Error::Pkcs11(code, function) = error {
        format!("{function:?}: {code:?}")
    } else {
        error.to_string()
    }
}

fn away(config: &Pkcs11Config, what: &str, error: &Error) -> HsmError {
    HsmError::Away(format!("the HSM token {:?} {what} ({})", config.token, told(error)))
}

fn wrong(config: &Pkcs11Config, what: &str, error: &Error) -> HsmError {
    HsmError::Wrong(format!("the HSM token {:?} {what} ({})", config.token, told(error)))
}
