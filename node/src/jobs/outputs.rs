//! Copies this node's audit records out of the chain to collectors outside: syslog over TLS (RFC
//! 5425), a file, standard output.
//!
//! Each output has a place in the chain, kept in a file, and reads on from there: so nothing waits for
//! a collector, nothing is held in memory for it, and one that was away for days gets what it has
//! missed. What the chain has forgotten meanwhile is named by a line of its own. Checkpoints are
//! copied, too.
//!
//! Syslog answers nothing. A record counts as delivered once it was sent [`SETTLE`] ago over a
//! connection that still stands: the kernel ends one whose peer has not acknowledged in
//! [`UNACKNOWLEDGED_MAX`]. After a break the rest is sent again, so a collector may see a record
//! twice, and never not at all.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conclave_api::audit::{syslog_gap_line, syslog_line};
use conclave_storage::{Fault, StateStore};
use futures::future::join_all;
use metrics::gauge;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::compose::Node;
use crate::config::{AuditOutput, SyslogConfig};
use crate::metrics::AUDIT_OUTPUT_LAG;

/// How often it is looked for more.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Records, and bytes of them, taken at once.
const RECORDS_MAX: usize = 512;
const BYTES_MAX: usize = 1 << 20;
/// How long a connection, or one write, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what was sent may stay unacknowledged by the peer's kernel.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);
/// How long ago a record must have been sent for its delivery to be believed.
const SETTLE: Duration = Duration::from_secs(15);
/// How often the place in the chain is written down at most.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// Pauses after a failure: the first, and the longest.
const AFTER_FAILURE: Duration = Duration::from_millis(200);
const AFTER_FAILURE_MAX: Duration = Duration::from_secs(10);

/// Where the records come from, and whose they are.
struct Source {
    state: StateStore,
    node: u64,
    host: String,
    /// Where the places in the chain are kept.
    folder: PathBuf,
}

/// Serves all outputs for as long as the node runs.
pub async fn outputs(node: Arc<Node>) {
    let source = Source {
        state: node.core.state.clone(),
        node: node.identity.node_id,
        host: node.identity.name.clone(),
        folder: node.audit_folder.clone(),
    };
    let mut changes = node.config_changes();
    loop {
        let outputs = changes.borrow_and_update().audit.outputs.clone();
        let served = async {
            // Each ends only when it has no place in the chain.
            join_all(outputs.iter().map(|output| serve(&source, output))).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = served => {}
            told = changes.wait_for(|config| config.audit.outputs != outputs) => {
                if told.is_err() {
                    return;
                }
            }
        }
    }
}

/// Whether an output has what it needs on this machine. Nobody is called.
///
/// # Errors
/// Which file is missing or unfit.
pub fn check_output(output: &AuditOutput) -> io::Result<()> {
    match output {
        AuditOutput::Stdout | AuditOutput::File(_) => Ok(()),
        AuditOutput::Syslog(syslog) => client_config(syslog).map(drop),
    }
}

async fn serve(source: &Source, output: &AuditOutput) {
    let name = name_of(output);
    let file = source.folder.join(format!("output-{name}.place"));
    // An output that is new begins with what happens from now on.
    let begin = source.state.read(|view| view.state.audit_head().last) + 1;
    let mut place = match Place::open(file, begin, matches!(output, AuditOutput::Syslog(_))).await {
        Ok(place) => place,
        Err(error) => {
            tracing::error!(%error, output = name, "audit.output has no place in the chain");
            return;
        }
    };
    let mut pause = AFTER_FAILURE;
    loop {
        let delivered = place.delivered;
        let Err(error) = copy(source, output, &name, &mut place).await;
        if place.delivered > delivered {
            pause = AFTER_FAILURE;
        }
        tracing::warn!(%error, output = name, "audit.output broke off; it will be tried again");
        place.sent.clear();
        sleep(pause).await;
        pause = AFTER_FAILURE_MAX.min(pause * 2);
    }
}

/// A name that fits a file.
fn name_of(output: &AuditOutput) -> String {
    let text = match output {
        AuditOutput::Stdout => return "stdout".to_owned(),
        AuditOutput::File(path) => format!("file-{}", path.display()),
        AuditOutput::Syslog(syslog) => format!("syslog-{}", syslog.address),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    text.chars().map(|c| if fits(c) { c } else { '_' }).collect()
}

/// Copies records until something fails.
async fn copy(
    source: &Source,
    output: &AuditOutput,
    name: &str,
    place: &mut Place,
) -> Result<std::convert::Infallible, io::Error> {
    let mut sink = Sink::open(output).await?;
    let lag = gauge!(AUDIT_OUTPUT_LAG, "output" => name.to_owned());
    let mut next = place.delivered;
    loop {
        let head = source.state.read(|view| view.state.audit_head());
        #[expect(clippy::cast_precision_loss, reason = "gauges are floats; far below 2^53")]
        lag.set((head.last + 1).saturating_sub(place.delivered) as f64);
        let mut lines = Vec::new();
        if next < head.first {
            lines.push(syslog_gap_line(&source.host, next, head.first - 1));
            next = head.first;
        }
        if next <= head.last {
            let (state, host) = (source.state.clone(), source.host.clone());
            let own = source.node;
            let read = tokio::task::spawn_blocking(move || lines_from(&state, own, &host, next));
            let (after, more) = read.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
            lines.extend(more);
            next = after;
        }
        if !lines.is_empty() {
            sink.write(&lines).await?;
        }
        place.sent(next, Instant::now()).await?;
        if next > head.last {
            sink.wait(LOOK_EVERY).await?;
        }
    }
}

/// Lines of the records from a number on that are this node's or the cluster's own, and the number to
/// go on from.
fn lines_from(
    state: &StateStore,
    own: u64,
    host: &str,
    from: u64,
) -> Result<(u64, Vec<String>), Fault> {
    let records = state.audit_records(from, RECORDS_MAX, BYTES_MAX)?;
    let next = records.last().map_or(from, |(number, _)| number + 1);
    let is_ours = |node: u64| node == own || node == 0;
    let ours = records.iter().filter(|(_, record)| is_ours(record.node));
    Ok((next, ours.map(|(number, record)| syslog_line(host, *number, record)).collect()))
}

fn late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} took longer than {PATIENCE:?}"))
}

/// How far an output has come.
struct Place {
    file: PathBuf,
    /// The number to begin with after a break or a restart.
    delivered: u64,
    kept: u64,
    kept_at: Instant,
    /// Numbers to go on from, and when everything before them had been sent.
    sent: VecDeque<(Instant, u64)>,
    settle: Duration,
}

impl Place {
    /// The place that the file knows; `begin` where there is no file.
    async fn open(file: PathBuf, begin: u64, is_remote: bool) -> io::Result<Self> {
        let kept = match tokio::fs::read_to_string(&file).await {
            Ok(text) => text.trim().parse().map_err(|_no_number| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", file.display()))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => begin,
            Err(error) => return Err(error),
        };
        let settle = if is_remote { SETTLE } else { Duration::ZERO };
        let sent = VecDeque::new();
        let mut place = Self { file, delivered: kept, kept, kept_at: Instant::now(), sent, settle };
        place.keep().await?;
        Ok(place)
    }

    /// Hears that everything before `next` has been sent, and what time it is.
    async fn sent(&mut self, next: u64, now: Instant) -> io::Result<()> {
        if self.sent.back().is_none_or(|(_, last)| *last < next) && next > self.delivered {
            self.sent.push_back((now, next));
        }
        while let Some((_, next)) =
            self.sent.pop_front_if(|(at, _)| now.duration_since(*at) >= self.settle)
        {
            self.delivered = next;
        }
        if self.delivered != self.kept && now.duration_since(self.kept_at) >= KEEP_EVERY {
            self.keep().await?;
        }
        Ok(())
    }

    async fn keep(&mut self) -> io::Result<()> {
        let fresh = self.file.with_extension("new");
        tokio::fs::write(&fresh, format!("{}\n", self.delivered)).await?;
        tokio::fs::rename(&fresh, &self.file).await?;
        (self.kept, self.kept_at) = (self.delivered, Instant::now());
        Ok(())
    }
}

/// What lines are written to.
enum Sink {
    Stdout,
    /// Opened for each write, so that it can be moved away from outside.
    File(PathBuf),
    Syslog(Box<TlsStream<TcpStream>>),
}

impl Sink {
    async fn open(output: &AuditOutput) -> io::Result<Self> {
        Ok(match output {
            AuditOutput::Stdout => Self::Stdout,
            AuditOutput::File(path) => Self::File(path.clone()),
            AuditOutput::Syslog(syslog) => {
                let connected = timeout(PATIENCE, connect(syslog)).await;
                Self::Syslog(Box::new(connected.map_err(|_late| late("a connection"))??))
            }
        })
    }

    /// Standard output and files may take their time: no more than one write waits for them.
    async fn write(&mut self, lines: &[String]) -> io::Result<()> {
        let with_ends = || lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect::<String>();
        match self {
            Self::Stdout => {
                let text = with_ends();
                let written = tokio::task::spawn_blocking(move || {
                    let mut out = io::stdout().lock();
                    out.write_all(text.as_bytes()).and_then(|()| out.flush())
                });
                written.await.map_err(io::Error::other)?
            }
            Self::File(path) => {
                let mut options = tokio::fs::OpenOptions::new();
                let mut file = options.create(true).append(true).open(path).await?;
                file.write_all(with_ends().as_bytes()).await?;
                file.flush().await
            }
            Self::Syslog(stream) => {
                // RFC 5425 section 4.3: each message is led by its length in bytes and a space.
                let frames: String = lines
                    .iter()
                    .flat_map(|line| [line.len().to_string(), format!(" {line}")])
                    .collect();
                let sent = async {
                    stream.write_all(frames.as_bytes()).await?;
                    stream.flush().await
                };
                timeout(PATIENCE, sent).await.map_err(|_late| late("a write"))?
            }
        }
    }

    /// Waits a while, less when the collector hangs up.
    async fn wait(&mut self, time: Duration) -> io::Result<()> {
        let Self::Syslog(stream) = self else {
            sleep(time).await;
            return Ok(());
        };
        let mut said = [0; 256];
        match timeout(time, stream.read(&mut said)).await {
            Err(_elapsed) => Ok(()),
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            // A collector has nothing to say in this protocol.
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error),
        }
    }
}

/// Certificates and key are read each time, so that they can be renewed while the node runs.
fn client_config(syslog: &SyslogConfig) -> io::Result<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&syslog.ca_file)? {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    let key = PrivateKeyDer::from_pem_file(&syslog.key_file)
        .map_err(|error| io::Error::other(format!("{}: {error}", syslog.key_file.display())))?;
    rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&syslog.certificate_file)?, key)
        .map_err(io::Error::other)
}

async fn connect(syslog: &SyslogConfig) -> io::Result<TlsStream<TcpStream>> {
    let config = client_config(syslog)?;
    let host = syslog.address.rsplit_once(':').map_or(&*syslog.address, |(host, _)| host);
    let name =
        ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(io::Error::other)?;
    let stream = TcpStream::connect(&syslog.address).await?;
    stream.set_nodelay(true)?;
    let most = u32::try_from(UNACKNOWLEDGED_MAX.as_millis()).map_err(io::Error::other)?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, most)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use conclave_api::audit::{Durability, Outcome, Record, Severity, Spool, SpoolReader};
    use conclave_domain::audit::AuditTexts;
    use conclave_domain::command::{Actor, Command, Envelope, codec};
    use conclave_domain::records::{Member, MemberRole, RequestId};
    use conclave_domain::time::Timestamp;
    use conclave_storage::{Datadir, Entry, EntryKind, FailPoints};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A chain with one node, and that node's spool.
    struct House {
        folder: tempfile::TempDir,
        source: Source,
        spool: Spool,
        reader: SpoolReader,
        chained: u64,
        index: u64,
    }

    impl House {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let data = Datadir::open(&folder.path().join("data"), FailPoints::new()).unwrap();
            let state = StateStore::open(&data).unwrap();
            let audit = folder.path().join("audit");
            let spool = Spool::open(&audit, Durability::Os, Timestamp(1)).unwrap();
            let reader = SpoolReader::new(audit.clone());
            let source = Source { state, node: 1, host: "n1".to_owned(), folder: audit };
            let mut house = Self { folder, source, spool, reader, chained: 0, index: 0 };
            let member = Member {
                name: "n1".to_owned(),
                role: MemberRole::Voter,
                node_key: [1; 32],
                peer_address: "127.0.0.1:1".to_owned(),
                api_url: "https://localhost:1".to_owned(),
            };
            house.propose(Command::AdmitMember { token: None, member });
            house
        }

        fn propose(&mut self, body: Command) {
            self.index += 1;
            let mut id = [0; 16];
            id[..8].copy_from_slice(&self.index.to_be_bytes());
            let (request_id, client_ip) = (RequestId(id), String::new());
            let at = Timestamp(1_700_000_000_000);
            let envelope = Envelope { request_id, actor: Actor::Node, at, client_ip, body };
            let kind = EntryKind::Command(codec::encode(&envelope).into());
            let log_id = bytes::Bytes::new();
            let reply = self.source.state.apply(&[Entry { index: self.index, log_id, kind }]);
            conclave_domain::outcome::codec::decode(&reply.unwrap()[0]).unwrap().unwrap();
        }

        /// What a request does before its answer leaves.
        async fn request(&self, number: u64) {
            let record = Record {
                at: Timestamp(1_700_000_000_000),
                request_id: format!("request-{number}"),
                message_id: "fetch",
                operation: "fetch".into(),
                outcome: Outcome::Success,
                severity: Severity::Info,
                user: None,
                authenticator: None,
                service: None,
                subject: Vec::new(),
                client_ip: "::1".into(),
                policy: None,
                message: "read".into(),
            };
            self.spool.append(&[record]).await.unwrap();
        }

        /// Brings what is in the spool into the chain, as the leader does.
        fn chain(&mut self) {
            let synced = *self.spool.synced().borrow();
            if synced == self.chained {
                return;
            }
            let batch = self.reader.read(self.chained + 1, synced).unwrap();
            self.chained = batch.first + batch.records.len() as u64 - 1;
            let (first, lost) = (batch.first, batch.lost);
            let texts = AuditTexts::packed(&batch.records);
            self.propose(Command::ChainAudit { node: 1, first, lost, texts });
            self.spool.chained(self.chained);
        }

        /// A collector's address in the configuration, and its side of TLS.
        fn collector(&self, address: String) -> (AuditOutput, TlsAcceptor) {
            let write = |name: &str, text: &str| {
                let file = self.folder.path().join(name);
                std::fs::write(&file, text).unwrap();
                file
            };
            let mut authority = CertificateParams::new(Vec::new()).unwrap();
            authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let authority_key = KeyPair::generate().unwrap();
            let root = authority.self_signed(&authority_key).unwrap();
            let issuer = Issuer::new(authority, authority_key);
            let key = KeyPair::generate().unwrap();
            let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            let leaf = leaf.signed_by(&key, &issuer).unwrap();
            let syslog = SyslogConfig {
                address,
                ca_file: write("ca.pem", &root.pem()),
                certificate_file: write("leaf.pem", &leaf.pem()),
                key_file: write("leaf.key", &key.serialize_pem()),
            };
            let server = rustls::ServerConfig::builder().with_no_client_auth();
            let key = PrivateKeyDer::from_pem_file(&syslog.key_file).unwrap();
            let server = server.with_single_cert(vec![leaf.der().clone()], key).unwrap();
            (AuditOutput::Syslog(syslog), TlsAcceptor::from(Arc::new(server)))
        }
    }

    /// Lets sockets and threads come along while the clock stands still.
    async fn breathe() {
        for _ in 0..4 {
            std::thread::park_timeout(Duration::from_micros(200));
            for _ in 0..80 {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_in_a_black_hole_for_an_hour_fails_no_request_and_misses_nothing() {
        crate::install_crypto();
        // While a thread of the runtime is at work, time passes only when this test says so.
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let held = tokio::task::spawn_blocking(move || ends.recv().is_ok());

        let mut house = House::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        let (output, acceptor) = house.collector(address);
        let source = Source {
            state: house.source.state.clone(),
            host: house.source.host.clone(),
            folder: house.source.folder.clone(),
            ..house.source
        };
        let sender = tokio::spawn(async move { serve(&source, &output).await });
        breathe().await;

        // Half of the hour connections are not even taken; then they are, and nothing is said.
        let mut deaf = Vec::new();
        let start = Instant::now();
        let mut requests = 0;
        while start.elapsed() < Duration::from_hours(1) {
            let before = Instant::now();
            for _ in 0..3 {
                requests += 1;
                house.request(requests).await;
            }
            assert_eq!(before.elapsed(), Duration::ZERO, "a request waited for the collector");
            if requests % 90 == 0 {
                house.chain();
            }
            if start.elapsed() > Duration::from_mins(30) {
                // Connections of the half hour before are closed at their other end.
                if let Ok(Ok((stream, _))) = timeout(Duration::ZERO, listener.accept()).await {
                    deaf.push(stream);
                }
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(requests, 10_800);
        while house.chained < requests {
            breathe().await;
            house.chain();
        }
        assert_eq!(house.source.state.read(|view| view.state.audit_head().last), requests);

        // It reads again.
        drop(deaf);
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel::<u64>();
        let collector = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut text = Vec::new();
                let mut piece = vec![0; 64 << 10];
                while let Ok(read @ 1..) = stream.read(&mut piece).await {
                    text.extend_from_slice(&piece[..read]);
                    while let Some(number) = take_frame(&mut text) {
                        told.send(number).unwrap();
                    }
                }
            }
        });
        let mut numbers = Vec::new();
        for _ in 0..20_000 {
            breathe().await;
            while let Ok(number) = heard.try_recv() {
                numbers.push(number);
            }
            if numbers.last() == Some(&requests) {
                break;
            }
            tokio::time::advance(Duration::from_millis(20)).await;
        }
        // In order, none missing, and none named as lost.
        assert!(numbers.iter().copied().eq(1..=requests), "{} arrived", numbers.len());
        sender.abort();
        collector.abort();
        drop(end);
        held.await.unwrap();
    }

    /// The number of the request in the first whole frame, which is taken off.
    fn take_frame(text: &mut Vec<u8>) -> Option<u64> {
        let space = text.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&text[..space]).unwrap().parse().unwrap();
        let frame = text.get(space + 1..space + 1 + length)?;
        let frame = String::from_utf8(frame.to_vec()).unwrap();
        text.drain(..space + 1 + length);
        let (_, number) = frame.split_once("request-").unwrap_or_else(|| panic!("{frame}"));
        let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    }

    #[tokio::test]
    async fn what_was_sent_counts_as_delivered_when_it_has_settled() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("output-x.place");
        let mut place = Place::open(file.clone(), 7, true).await.unwrap();
        let start = Instant::now() + KEEP_EVERY;
        place.sent(9, start).await.unwrap();
        place.sent(12, start + SETTLE / 2).await.unwrap();
        assert_eq!(place.delivered, 7);
        place.sent(12, start + SETTLE).await.unwrap();
        assert_eq!(place.delivered, 9);
        // A break: what had not settled is sent again, by whoever opens the file, too.
        assert_eq!(Place::open(file.clone(), 100, true).await.unwrap().delivered, 9);
        place.sent.clear();
        place.sent(12, start + 2 * SETTLE).await.unwrap();
        assert_eq!(place.delivered, 9);
        place.sent(12, start + 3 * SETTLE).await.unwrap();
        assert_eq!(Place::open(file, 100, true).await.unwrap().delivered, 12);
    }

    #[test]
    fn outputs_have_names_that_fit_files() {
        let file = AuditOutput::File("/var/log/a b/../x.log".into());
        assert_eq!(name_of(&file), "file-_var_log_a_b_.._x.log");
        assert_eq!(name_of(&AuditOutput::Stdout), "stdout");
    }
}
