//! `postgresql/password`: the password of a PostgreSQL role, changed by the role itself.
//!
//! Beside the variable lie `url` (`db.example.com:5432/app`, or a `postgresql://` URL without
//! credentials), `username`, and for a private authority `ca-cert` (PEM). The connection is encrypted
//! and the server's certificate is checked, unless the URL says `sslmode=disable`. The server is sent a
//! SCRAM verifier, so that the new password is in none of its logs.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use conclave_storage::seal::RotationBytes;
use futures::future::BoxFuture;
use postgres_protocol::password::scram_sha_256;
use rustls::CertificateError;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config, NoTls};
use zeroize::Zeroizing;

use super::{RotationError, Rotator, Target};

/// The annotation with the number of characters.
const LENGTH: &str = "rotation/postgresql/password/length";
/// Number of characters without it.
const LENGTH_DEFAULT: usize = 20;
/// Fewer could be guessed, more are taken by nobody.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=256;
/// Characters that need no quoting anywhere.
const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// How long a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(8);
/// Characters of a code of SQL.
const CODE_LEN: usize = 5;
/// Debian's bundle of public authorities.
const SYSTEM_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The rotator.
pub(super) struct Password;

impl Rotator for Password {
    fn name(&self) -> &'static str {
        "postgresql/password"
    }

    fn siblings(&self) -> (&'static [&'static str], &'static [&'static str]) {
        (&["url", "username"], &["ca-cert"])
    }

    fn next(
        &self,
        annotations: &BTreeMap<String, String>,
        mut random: RotationBytes<'_>,
    ) -> Result<Zeroizing<String>, RotationError> {
        let length = match annotations.get(LENGTH) {
            None => LENGTH_DEFAULT,
            Some(text) => {
                text.parse().ok().filter(|length| LENGTHS.contains(length)).ok_or_else(|| {
                    let (least, most) = (LENGTHS.start(), LENGTHS.end());
                    RotationError::new(format!("{LENGTH} = {text:?}: write {least} to {most}"))
                })?
            }
        };
        let mut password = Zeroizing::new(String::with_capacity(length));
        while password.len() < length {
            // The largest multiple of 62 below 256: all letters are equally likely.
            let byte = usize::from(random.next_byte());
            if byte < 248 {
                password.push(char::from(LETTERS[byte % LETTERS.len()]));
            }
        }
        Ok(password)
    }

    fn rotate<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<(), RotationError>> {
        Box::pin(async move {
            let config = config(target)?;
            match connect(&config, target, &target.current).await {
                Ok(client) => set(&client, &target.siblings["username"], &target.next).await?,
                // An earlier try may have come this far and been cut off.
                Err(Refused::Credentials(_)) => {}
                Err(Refused::Otherwise(error)) => return Err(error),
            }
            // Only what opens the database becomes the value.
            match connect(&config, target, &target.next).await {
                Ok(_client) => Ok(()),
                Err(Refused::Credentials(error)) => Err(RotationError::new(format!(
                    "it takes neither the value in force nor the next one: {error}"
                ))),
                Err(Refused::Otherwise(error)) => Err(error),
            }
        })
    }
}

/// Why there is no connection.
enum Refused {
    /// The server does not take the password.
    Credentials(RotationError),
    /// Anything else.
    Otherwise(RotationError),
}

fn config(target: &Target) -> Result<Config, RotationError> {
    let url = target.siblings["url"].trim();
    let has_scheme = url.starts_with("postgresql://") || url.starts_with("postgres://");
    let full = if has_scheme { url.to_owned() } else { format!("postgresql://{url}") };
    let mut config: Config =
        full.parse().map_err(|_| RotationError::new("the variable url is no PostgreSQL URL"))?;
    if config.get_password().is_some() || config.get_user().is_some() {
        return Err(RotationError::new(
            "the variable url holds credentials; they belong in others",
        ));
    }
    if config.get_hosts().iter().any(|host| matches!(host, Host::Unix(_))) {
        // Whoever may write a variable would be the node's own user there.
        return Err(RotationError::new("the variable url names a socket of the leader's machine"));
    }
    if config.get_ssl_mode() != SslMode::Disable {
        // Encrypting where the server happens to offer it protects from nobody.
        config.ssl_mode(SslMode::Require);
    }
    config
        .user(target.siblings["username"].trim())
        .application_name("conclave")
        .connect_timeout(CONNECT_DEADLINE);
    Ok(config)
}

async fn connect(config: &Config, target: &Target, password: &str) -> Result<Client, Refused> {
    let mut config = config.clone();
    config.password(password);
    let connected = if config.get_ssl_mode() == SslMode::Disable {
        config.connect(NoTls).await.map(|(client, connection)| {
            tokio::spawn(async move { drop(connection.await) });
            client
        })
    } else {
        let tls = Tls::new(target).map_err(Refused::Otherwise)?;
        config.connect(tls).await.map(|(client, connection)| {
            tokio::spawn(async move { drop(connection.await) });
            client
        })
    };
    connected.map_err(|error| {
        let text = RotationError::new(words(&error));
        match error.code() {
            Some(code)
                if *code == SqlState::INVALID_PASSWORD
                    || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION =>
            {
                Refused::Credentials(text)
            }
            _ => Refused::Otherwise(text),
        }
    })
}

async fn set(client: &Client, user: &str, password: &str) -> Result<(), RotationError> {
    let verifier = Zeroizing::new(scram_sha_256(password.as_bytes()));
    let user = user.trim().replace('"', "\"\"");
    // Neither can be a parameter of ALTER ROLE; the verifier has no quotes in it.
    let statement =
        Zeroizing::new(format!("ALTER ROLE \"{user}\" WITH PASSWORD '{}'", verifier.as_str()));
    let changed = client.batch_execute(&statement).await;
    changed.map_err(|error| RotationError::new(words(&error)))
}

/// What went wrong, in words of ours: the server's would name the role and the database, which are
/// values of variables, and could name anything.
fn words(error: &tokio_postgres::Error) -> String {
    let Some(code) = error.code() else { return crate::exit::chain(error) };
    let what = match *code {
        SqlState::INVALID_PASSWORD => "it refuses the password",
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "it refuses the role or where it comes from"
        }
        SqlState::INVALID_CATALOG_NAME => "it has no such database",
        SqlState::INSUFFICIENT_PRIVILEGE => "the role may not do that",
        SqlState::TOO_MANY_CONNECTIONS => "it has too many connections",
        SqlState::CANNOT_CONNECT_NOW => "it is starting or stopping",
        SqlState::READ_ONLY_SQL_TRANSACTION => "it only reads",
        _ => "an error of its own",
    };
    let code: String =
        code.code().chars().filter(char::is_ascii_alphanumeric).take(CODE_LEN).collect();
    format!("the database says: {what} ({code})")
}

/// TLS towards a database.
#[derive(Clone)]
struct Tls(Arc<rustls::ClientConfig>);

impl Tls {
    fn new(target: &Target) -> Result<Self, RotationError> {
        let mut roots = rustls::RootCertStore::empty();
        let system;
        let pem = if let Some(pem) = target.siblings.get("ca-cert") {
            pem.as_bytes()
        } else {
            system = std::fs::read(SYSTEM_BUNDLE).map_err(|error| {
                RotationError::new(format!("{SYSTEM_BUNDLE}: {error}; set ca-cert beside it"))
            })?;
            &system
        };
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate =
                certificate.map_err(|_| RotationError::new("ca-cert holds no certificate"))?;
            // Bundles hold some that are not understood; one that is missing shows at the handshake.
            drop(roots.add(certificate));
        }
        if roots.is_empty() {
            return Err(RotationError::new("ca-cert holds no certificate"));
        }
        let config =
            rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }
}

impl<S> MakeTlsConnect<S> for Tls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Encrypted<S>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Handshake> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no name of a server"))?;
        Ok(Handshake { config: self.0.clone(), name })
    }
}

/// An error of a handshake, without the name that was asked for: it is the value of a variable.
fn without_names(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let other_name = matches!(
        inner,
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        ))
    );
    if other_name {
        io::Error::other("the server's certificate is for another name")
    } else {
        error
    }
}

/// One handshake to be made.
struct Handshake {
    config: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
}

impl<S> TlsConnect<S> for Handshake
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let connector = tokio_rustls::TlsConnector::from(self.config);
            let connected = connector.connect(self.name, stream).await;
            Ok(Encrypted(Box::new(connected.map_err(without_names)?)))
        })
    }
}

/// An encrypted connection.
struct Encrypted<S>(Box<tokio_rustls::client::TlsStream<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}
