//! A directory spoken to by LDAP: is there exactly one entry for a login, and does it take this
//! password? Bounded in time, over TLS unless told otherwise twice, from server to server when one is
//! ill. Referrals are not followed, and aliases are not.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ldap3::adapters::PagedResults;
use ldap3::{DerefAliases, Ldap, LdapConnAsync, LdapConnSettings, LdapError};
use ldap3::{Scope, SearchEntry, SearchOptions, StdStream, ldap_escape, parse_filter};
use rustls::ClientConfig;
use tokio::task::JoinSet;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::directory_pool::{Place, Pool, Standing};
use super::outbound::Outbound;
use crate::token::sha256;

/// Stands in a filter for the login.
pub(crate) const PLACE: &str = "%s";
/// Servers of one directory.
const SERVERS_MAX: usize = 8;
/// How long a connection of before may take to its first answer; then another is made.
const KEPT_PATIENCE_MAX: Duration = Duration::from_secs(1);
/// Longest pause before a server that says nothing is left for the next one.
const PATIENCE_MIN: Duration = Duration::from_millis(250);

/// Entries that one listing may have, and values in them.
const ENTRIES_MAX: usize = 200_000;
const VALUES_MAX: usize = 4_000_000;

/// How a connection is kept from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Cover {
    /// Not at all.
    Plain,
    /// TLS asked for on the port for plain text, and nothing else said before.
    StartTls,
    /// TLS from the first byte.
    Tls,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    pub(crate) cover: Cover,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Reads one or several `ldap://` or `ldaps://` URLs, apart by spaces or commas. `cover` is for
/// `ldap://`.
pub(crate) fn servers(urls: &str, cover: Cover) -> Result<Vec<Server>, &'static str> {
    let urls = urls.split([' ', ',']).map(str::trim).filter(|url| !url.is_empty());
    let servers = urls.map(|url| {
        let (cover, rest, port) = if let Some(rest) = url.strip_prefix("ldaps://") {
            (Cover::Tls, rest, 636)
        } else if let Some(rest) = url.strip_prefix("ldap://") {
            (cover, rest, if cover == Cover::Tls { 636 } else { 389 })
        } else {
            return Err("uri or host: a server's address starts with neither ldap:// nor ldaps://");
        };
        let authority: http::uri::Authority = rest
            .trim_end_matches('/')
            .parse()
            .map_err(|_| "uri or host: a server's address is no host with a port")?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err("uri or host: a server's address is no host with a port");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Server { cover, host, port: authority.port_u16().unwrap_or(port) })
    });
    let servers: Vec<Server> = servers.take(SERVERS_MAX).collect::<Result<_, _>>()?;
    if servers.is_empty() { Err("uri or host: no server is named") } else { Ok(servers) }
}

/// The servers that annotations name, or what the operator has said where they name none.
pub(crate) fn servers_named(
    annotations: &HashMap<String, String>,
    uri: Option<String>,
    plain_allowed: bool,
) -> Result<Vec<Server>, &'static str> {
    let cover = match annotations.get("connect_type").map(|text| text.to_ascii_lowercase()) {
        None => Cover::StartTls,
        Some(kind) => match kind.as_str() {
            "tls" | "starttls" | "start_tls" => Cover::StartTls,
            "ssl" | "ldaps" | "simple_tls" => Cover::Tls,
            "plain" | "none" => Cover::Plain,
            _ => return Err("connect_type is none of tls, ssl and plain"),
        },
    };
    let urls = match (annotations.get("uri").cloned(), annotations.get("host")) {
        (Some(uri), _) => uri,
        (None, Some(hosts)) => {
            let port = annotations.get("port").map_or_else(String::new, |port| format!(":{port}"));
            let hosts = hosts.split([' ', ',']).filter(|host| !host.is_empty());
            let urls: Vec<String> = hosts.map(|host| format!("ldap://{host}{port}")).collect();
            urls.join(" ")
        }
        (None, None) => uri.ok_or("neither uri nor host is set")?,
    };
    let servers = servers(&urls, cover)?;
    if servers.iter().any(|server| server.cover == Cover::Plain) && !plain_allowed {
        return Err("connect_type: without TLS it is not asked, unless the operator allows that \
                    (api.ldap_plain_allowed)");
    }
    Ok(servers)
}

/// Whether a text is a filter.
pub(crate) fn is_filter(text: &str) -> bool {
    parse_filter(text).is_ok()
}

/// The filter for one login: whatever the login holds, it is a value and nothing else (RFC 4515).
pub(crate) fn filter_for(template: &str, login: &str) -> String {
    template.replacen(PLACE, &ldap_escape(login), 1)
}

/// What is wrong with a filter that logins are put into; nothing when it will do.
pub(crate) fn unfit_template(template: &str) -> Option<&'static str> {
    if template.matches(PLACE).count() != 1 {
        return Some("the filter does not have exactly one %s");
    }
    parse_filter(filter_for(template, "x")).is_err().then_some("the filter is none")
}

/// The filter for who has a value, among those that a template lets in whatever they type.
fn holder_filter(template: &str, attribute: &str, value: &str) -> String {
    let anybody = template.replacen(PLACE, "*", 1);
    format!("(&{anybody}({attribute}={}))", ldap_escape(value))
}

/// What is wrong with an attribute that people are called by (RFC 4512, 2.5), beside a template; nothing when it will
/// do.
pub(crate) fn unfit_attribute(template: &str, attribute: &str) -> Option<&'static str> {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if !attribute.starts_with(|c: char| c.is_ascii_alphanumeric()) || !attribute.chars().all(is_fit)
    {
        return Some("login_attribute is no attribute, as uid is");
    }
    let is_filter = parse_filter(holder_filter(template, attribute, "x")).is_ok();
    (!is_filter).then_some("login_attribute does not go with a filter in which * for %s is none")
}

/// A directory and how it is asked.
pub(crate) struct Directory {
    pub(crate) servers: Vec<Server>,
    /// Where entries of people are.
    pub(crate) base: String,
    /// Who searches; nobody in particular without.
    pub(crate) searcher: Option<(String, Zeroizing<String>)>,
    /// With one [`PLACE`].
    pub(crate) template: String,
    /// The attribute by which people are called here; what they typed without.
    pub(crate) called_by: Option<String>,
    /// Whose certificates are believed; those of the system's authorities without.
    pub(crate) authorities: Option<String>,
}

/// What a directory says of a login and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// They belong to the one entry there is, of which this is the value of [`Directory::called_by`].
    Proven(Option<String>),
    /// There is one entry for the login, of which this is that value; no password was tried.
    Known(Option<String>),
    /// There is no such entry, or several, or the password is wrong; with what the record says.
    Refused(String),
}

/// What a search for a login found.
enum Found {
    /// The one entry there is: its name, and the value of [`Directory::called_by`].
    One(String, Option<String>),
    /// Nothing of use, for this reason.
    Nothing(String),
    Several,
}

const SEVERAL: &str = "the directory has several entries for it";

/// Why a directory said nothing of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// For record, status and log.
    pub(crate) why: String,
    /// Whether it took too long.
    pub(crate) is_slow: bool,
}

impl Trouble {
    fn new(why: impl fmt::Display) -> Self {
        Self { why: why.to_string(), is_slow: false }
    }
}

impl From<LdapError> for Trouble {
    fn from(error: LdapError) -> Self {
        let is_slow = matches!(error, LdapError::Timeout { .. });
        Self { why: error.to_string(), is_slow }
    }
}

/// What is asked of a directory.
pub(crate) enum Question<'a> {
    /// Whether this is the password of the login.
    Password { login: &'a str, password: &'a str },
    /// Nothing but the search for a login: whether it is still there. Also for one that is nobody here: it
    /// shall not show in the time that an answer takes, and nobody's entry is locked for it.
    Search { login: &'a str },
    /// Whether there is an entry of somebody who is called so here.
    Holder { name: &'a str },
}

/// A connection, which ends when it is dropped.
pub(crate) struct Session {
    ldap: Ldap,
    pub(super) made: Instant,
    _driver: JoinSet<()>,
}

impl Session {
    /// Whether the other end, or an error, has ended it.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.ldap.is_closed()
    }
}

impl Session {
    /// Every entry below a name that a filter lets through, with these attributes, fetched in pages (RFC
    /// 2696). All of them or none: what is cut short, by whichever limit, is trouble.
    pub(crate) async fn list(
        &mut self,
        outbound: &Outbound,
        base: &str,
        filter: &str,
        attributes: &[String],
        page: i32,
    ) -> Result<Vec<SearchEntry>, Trouble> {
        let options = SearchOptions::new().deref(DerefAliases::Never);
        let adapter = PagedResults::new(page);
        let searching = self.ldap.with_search_options(options).streaming_search_with(
            adapter,
            base,
            Scope::Subtree,
            filter,
            attributes.to_vec(),
        );
        let mut search = in_time(outbound, searching).await??;
        let mut entries = Vec::new();
        let mut values = 0_usize;
        while let Some(entry) = in_time(outbound, search.next()).await?? {
            if entry.is_ref() || entry.is_intermediate() {
                continue;
            }
            let entry = SearchEntry::construct(entry);
            values += entry.attrs.values().map(Vec::len).sum::<usize>();
            entries.push(entry);
            if entries.len() > ENTRIES_MAX || values > VALUES_MAX {
                let why = format!(
                    "it has more than {ENTRIES_MAX} entries or {VALUES_MAX} values for {filter}"
                );
                return Err(Trouble::new(why));
            }
        }
        match in_time(outbound, search.finish()).await?.rc {
            0 => Ok(entries),
            4 => Err(Trouble::new(format!(
                "it gives the searcher no more than {} entries for {filter} (sizeLimitExceeded): let it \
                 have all of them, in pages",
                entries.len()
            ))),
            code => Err(Trouble::new(format!("it answers {code} to {filter}"))),
        }
    }
}

/// Waits for one answer no longer than any other server is waited for.
async fn in_time<T>(outbound: &Outbound, answer: impl Future<Output = T>) -> Result<T, Trouble> {
    let waited = tokio::time::timeout_at(outbound.deadline(), answer).await;
    waited.map_err(|_elapsed| Trouble { why: "it says nothing more".to_owned(), is_slow: true })
}

impl Directory {
    /// A connection to the first server that lets the searcher in.
    pub(crate) async fn open(&self, outbound: &Outbound) -> Result<Session, Trouble> {
        let tls = self.tls(outbound).await?;
        let mut last = Trouble::new("no server is named");
        for server in &self.servers {
            let opening = async {
                let session = connect(outbound, server, tls.clone()).await?;
                self.log_in(&session.ldap).await??;
                Ok::<_, Trouble>(session)
            };
            match in_time(outbound, opening).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(trouble)) | Err(trouble) => last = trouble,
            }
            last.why = format!("{server}: {}", last.why);
            tracing::warn!(%server, why = %last.why, "ldap_sync.directory");
        }
        Err(last)
    }

    /// TLS towards the servers, where any wants it.
    async fn tls(&self, outbound: &Outbound) -> Result<Option<Arc<ClientConfig>>, Trouble> {
        if self.servers.iter().all(|server| server.cover == Cover::Plain) {
            return Ok(None);
        }
        outbound.tls(self.authorities.as_deref(), &[]).await.map(Some).map_err(Trouble::new)
    }

    /// Asks the servers one after the other, beginning with `first`, until one answers. Tells which
    /// one did.
    pub(crate) async fn ask(
        &self,
        outbound: &Outbound,
        pool: &Pool,
        first: usize,
        question: &Question<'_>,
    ) -> (usize, Result<Finding, Trouble>) {
        let deadline = outbound.deadline();
        let count = self.servers.len();
        let mut last = Trouble::new("no server is named");
        for turn in 0..count {
            let at = (first + turn) % count;
            let server = &self.servers[at];
            let left = deadline.saturating_duration_since(Instant::now());
            let servers_left = u32::try_from(count - turn).unwrap_or(u32::MAX);
            let patience = (left / servers_left).max(PATIENCE_MIN);
            let asking = self.ask_one(outbound, pool, server, patience, question);
            match tokio::time::timeout(patience, asking).await {
                Ok(Ok(finding)) => return (at, Ok(finding)),
                Ok(Err(trouble)) => last = trouble,
                Err(_elapsed) => {
                    let why = format!("no answer within {} ms", patience.as_millis());
                    last = Trouble { why, is_slow: true };
                }
            }
            last.why = format!("{server}: {}", last.why);
            tracing::warn!(%server, why = %last.why, "authn.directory");
        }
        (first, Err(last))
    }

    async fn ask_one(
        &self,
        outbound: &Outbound,
        pool: &Pool,
        server: &Server,
        patience: Duration,
        question: &Question<'_>,
    ) -> Result<Finding, Trouble> {
        let filter = self.filter(question);
        let searcher = self.searcher.as_ref();
        let searcher = searcher.map(|(name, password)| (name.clone(), sha256(password.as_bytes())));
        let place =
            Place { server: server.clone(), authorities: self.authorities.clone(), searcher };
        let asking = Asking { outbound, pool, place, patience };
        let searching = |ldap| self.find(ldap, &filter, patience);
        let (found, session) = self.converse(&asking, Standing::Searcher, searching).await?;
        let found = found?;
        // A search that found too much is cut off, and the rest of it may still come.
        if !matches!(found, Found::Several) {
            pool.keep(asking.place.clone(), Standing::Searcher, session);
        }
        let (name, called, password) = match (found, question) {
            (Found::Several, _) => return Ok(Finding::Refused(SEVERAL.to_owned())),
            (Found::Nothing(why), _) => return Ok(Finding::Refused(why)),
            (Found::One(_, called), Question::Search { .. } | Question::Holder { .. }) => {
                return Ok(Finding::Known(called));
            }
            (Found::One(name, called), Question::Password { password, .. }) => {
                (name, called, password)
            }
        };
        let trying = |ldap| bind(ldap, &name, password);
        let (code, session) = self.converse(&asking, Standing::Anybody, trying).await?;
        let finding = match code {
            0 => Finding::Proven(called),
            // Wrong password, no such entry any more, locked, expired, or not allowed to log in.
            19 | 32 | 34 | 48 | 49 | 50 | 53 => {
                Finding::Refused(format!("the directory refuses its password ({code})"))
            }
            code => {
                return Err(Trouble::new(format!("the directory answers {code} to a password")));
            }
        };
        pool.keep(asking.place, Standing::Anybody, session);
        Ok(finding)
    }

    /// Has something done on a connection of before, or on a new one where there is none, or where it turns out
    /// to have been ended: so it may be done twice, and no more than that. The connection comes back with
    /// what came of it.
    async fn converse<T, D: Future<Output = Result<T, LdapError>>>(
        &self,
        asking: &Asking<'_>,
        standing: Standing,
        what: impl Fn(Ldap) -> D,
    ) -> Result<(T, Session), Trouble> {
        if let Some(session) = self.kept(asking, standing).await?
            && let Ok(done) = what(session.ldap.clone()).await
        {
            return Ok((done, session));
        }
        let tls = self.tls(asking.outbound).await?;
        let session = connect(asking.outbound, &asking.place.server, tls).await?;
        if standing == Standing::Searcher {
            self.log_in(&session.ldap).await??;
        }
        let done = what(session.ldap.clone()).await?;
        Ok((done, session))
    }

    /// A connection of before that is good, if there is one.
    async fn kept(
        &self,
        asking: &Asking<'_>,
        standing: Standing,
    ) -> Result<Option<Session>, Trouble> {
        while let Some((session, is_fresh)) = asking.pool.take(&asking.place, standing) {
            if is_fresh {
                return Ok(Some(session));
            }
            // Nobody in particular has nothing to say that would show whether it is still there.
            if self.searcher.is_none() {
                continue;
            }
            // Something between may have forgotten it without a word: that must leave time for another.
            let trying = self.log_in(&session.ldap);
            let patience = KEPT_PATIENCE_MAX.min(asking.patience / 4);
            match tokio::time::timeout(patience, trying).await {
                Ok(Ok(logged_in)) => return logged_in.map(|()| Some(session)),
                // It was ended from the other end.
                Ok(Err(_)) => {}
                // The others are as old or older.
                Err(_elapsed) => {
                    asking.pool.forget(&asking.place);
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// Says who searches; the outer error is the connection's.
    async fn log_in(&self, ldap: &Ldap) -> Result<Result<(), Trouble>, LdapError> {
        let Some((name, password)) = &self.searcher else { return Ok(Ok(())) };
        Ok(match bind(ldap.clone(), name, password).await? {
            0 => Ok(()),
            code => Err(Trouble::new(format!("the searcher may not log in ({code})"))),
        })
    }

    /// The filter that finds whom a question is about.
    fn filter(&self, question: &Question<'_>) -> String {
        match (question, &self.called_by) {
            (Question::Password { login, .. } | Question::Search { login }, _)
            | (Question::Holder { name: login }, None) => filter_for(&self.template, login),
            (Question::Holder { name }, Some(attribute)) => {
                holder_filter(&self.template, attribute, name)
            }
        }
    }

    /// Searches for the one entry of somebody; the outer error is the connection's.
    async fn find(
        &self,
        mut ldap: Ldap,
        filter: &str,
        patience: Duration,
    ) -> Result<Result<Found, Trouble>, LdapError> {
        let seconds = i32::try_from(patience.as_secs()).unwrap_or(i32::MAX).max(1);
        let options =
            SearchOptions::new().deref(DerefAliases::Never).sizelimit(2).timelimit(seconds);
        let attribute = self.called_by.as_deref();
        let mut search = ldap
            .with_search_options(options)
            .streaming_search(&self.base, Scope::Subtree, filter, vec![attribute.unwrap_or("1.1")])
            .await?;
        let mut names = Vec::new();
        while let Some(entry) = search.next().await? {
            if entry.is_ref() || entry.is_intermediate() {
                continue;
            }
            names.push(SearchEntry::construct(entry));
            if names.len() > 1 {
                return Ok(Ok(Found::Several));
            }
        }
        let ended = search.finish().await;
        Ok(match ended.rc {
            0 => Ok(match names.pop() {
                // With an empty name, whatever password would be nobody's and right.
                Some(entry) if !entry.dn.trim().is_empty() => called(entry, attribute),
                Some(_) => Found::Nothing("the directory's entry for it has no name".to_owned()),
                None => Found::Nothing("the directory has no entry for it".to_owned()),
            }),
            4 => Ok(Found::Several),
            code => Err(Trouble::new(format!("the directory answers {code} to a search"))),
        })
    }
}

/// An entry, and how it is called here, for which it must have one value.
fn called(entry: SearchEntry, attribute: Option<&str>) -> Found {
    let Some(attribute) = attribute else { return Found::One(entry.dn, None) };
    // Directories write names of attributes as they like.
    let mut values: Vec<String> = entry
        .attrs
        .into_iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(attribute))
        .flat_map(|(_, values)| values)
        .collect();
    match (values.pop(), values.is_empty()) {
        (Some(value), true) => Found::One(entry.dn, Some(value)),
        (Some(_), false) => Found::Nothing(format!(
            "the directory's entry for it has several values of {attribute}"
        )),
        (None, _) => Found::Nothing(format!("the directory's entry for it has no {attribute}")),
    }
}

/// What a server says to a name with a password, in its code.
async fn bind(mut ldap: Ldap, name: &str, password: &str) -> Result<u32, LdapError> {
    Ok(ldap.simple_bind(name, password).await?.rc)
}

/// How one server is asked one question.
struct Asking<'a> {
    outbound: &'a Outbound,
    pool: &'a Pool,
    place: Place,
    patience: Duration,
}

async fn connect(
    outbound: &Outbound,
    server: &Server,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Session, Trouble> {
    let stream = outbound.connect(&server.host, server.port).await.map_err(Trouble::new)?;
    let stream = stream.into_std().map_err(Trouble::new)?;
    let mut settings = LdapConnSettings::new().set_std_stream(StdStream::Tcp(stream));
    if let Some(tls) = tls {
        settings = settings.set_config(tls);
    }
    settings = settings.set_starttls(server.cover == Cover::StartTls);
    let scheme = if server.cover == Cover::Tls { "ldaps" } else { "ldap" };
    let host =
        if server.host.contains(':') { format!("[{}]", server.host) } else { server.host.clone() };
    let url = format!("{scheme}://{host}:{}", server.port);
    let (connection, ldap) = LdapConnAsync::with_settings(settings, &url).await?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        if let Err(error) = connection.drive().await {
            tracing::debug!(%error, "authn.directory connection");
        }
    });
    Ok(Session { ldap, made: Instant::now(), _driver: driver })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers_are_read() {
        let two = servers("ldap://a.example, ldaps://b.example:6636/", Cover::StartTls).unwrap();
        let of = |cover, host: &str, port| Server { cover, host: host.to_owned(), port };
        assert_eq!(two, [of(Cover::StartTls, "a.example", 389), of(Cover::Tls, "b.example", 6636)]);
        assert_eq!(servers("ldap://[2001:db8::1]", Cover::Tls).unwrap()[0].host, "2001:db8::1");
        for bad in ["", "http://a", "a.example", "ldap://", "ldap://u@a", "ldap:///", "ldap://a b"]
        {
            assert!(servers(bad, Cover::Tls).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_login_is_a_value_in_a_filter_and_nothing_else() {
        let template = "(&(objectClass=posixAccount)(uid=%s))";
        assert_eq!(unfit_template(template), None);
        for (login, escaped) in [
            ("alice", "alice"),
            ("*", "\\2a"),
            ("a)(uid=*", "a\\29\\28uid=\\2a"),
            ("a\\2a", "a\\5c2a"),
            ("\0", "\\00"),
            ("ümlaut", "ümlaut"),
            ("%s", "%s"),
        ] {
            let wanted = format!("(&(objectClass=posixAccount)(uid={escaped}))");
            assert_eq!(filter_for(template, login), wanted, "{login:?}");
            assert!(parse_filter(wanted).is_ok(), "{login:?}");
        }
        let mail = "(&(objectClass=person)(mail=%s@example.org))";
        assert_eq!(
            holder_filter(mail, "uid", "a*"),
            "(&(&(objectClass=person)(mail=*@example.org))(uid=a\\2a))"
        );
        for attribute in ["uid", "sAMAccountName", "x-login", "1.2.840.113556.1.4.221"] {
            assert_eq!(unfit_attribute(mail, attribute), None, "{attribute}");
        }
        for bad in ["", "u id", "uid)(x", "-uid", "uid;binary", "ü"] {
            assert!(unfit_attribute(mail, bad).is_some(), "{bad}");
        }
        for bad in ["", "(uid=x)", "(|(uid=%s)(cn=%s))", "uid=%s)", "(uid=%s", "%s(", "(%s"] {
            assert!(unfit_template(bad).is_some(), "{bad}");
        }
    }
}
