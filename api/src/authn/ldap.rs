//! `authn-ldap`: a directory knows the password. Login gives the role's API key for it; to
//! authenticate, the key will do as well.
//!
//! Whoever is nobody here, or may not come from where it is, has no password tried on the directory: it
//! is searched for all the same, so that the time says little, and no entry is locked by strangers.
//!
//! What somebody types is what they are called here, unless the webservice names an attribute of their entry
//! that says it ([`CALLED_BY`]).
//!
//! Where the webservice says so ([`RECHECK`]), API keys of its people let in only those that the directory
//! still has, at whichever authenticator they are shown.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_domain::duration;
use conclave_domain::id::{Id, Kind, ResourceId, RoleId};
use conclave_domain::rbac;
use conclave_domain::records::Digest;
use conclave_domain::state::State;
use futures::future::BoxFuture;
use http::StatusCode;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::directory::{
    Directory, Finding, Question, Trouble, servers_named, unfit_attribute, unfit_template,
};
use super::directory_pool::{Pool, QUESTIONS_MAX};
use super::enablement::services_in_force;
use super::outbound::{Outbound, pinned};
use super::variables::Variables;
use super::{
    Attempt, Authenticator, Denied, NOT_FROM_HERE, StatusError, Verdict, is_from_nowhere,
    is_from_within,
};
use crate::context::Call;
use crate::credentials::matches_digest;
use crate::error::Refusal;
use crate::settings::LdapFallback;

pub(super) const NAME: &str = "authn-ldap";
const DEFAULT_FILTER: &str = "(&(objectClass=posixAccount)(uid=%s))";
/// Largest body looked at, in bytes.
const PASSWORD_BYTES_MAX: usize = 1024;
/// The annotation that says for how long the directory's word is good that it still has somebody: an
/// ISO 8601 duration.
const RECHECK: &str = "ldap-authn/api_key_recheck";
/// The annotation that names the policy branch whose users the directory's people are. The directory knows
/// them without the `@…` that their ids end with here. Without it they are users by the same name.
const BRANCH: &str = "ldap-authn/branch";
/// The annotation that names the attribute whose value people are called by here. What they type then only
/// finds their entry.
const CALLED_BY: &str = "ldap-authn/login_attribute";
/// Good words that are remembered; beyond them all are asked for again.
const WORDS_MAX: usize = 100_000;
/// A login that nobody has, for trying a directory.
const NOBODY: &str = "conclave-status-check";
/// Questions to directories at once, over all services.
const ASKING_MAX: usize = 4 * QUESTIONS_MAX;

pub(crate) struct Ldap {
    outbound: Arc<Outbound>,
    /// Connections that wait for the next question.
    pool: Pool,
    /// Which server of a service answered last.
    answered: Mutex<HashMap<ResourceId, usize>>,
    /// As many as may ask at once; more are answered 503.
    asking: Semaphore,
    /// The same for each service, so that one whose directory is silent leaves room for the others.
    asking_of: Mutex<HashMap<ResourceId, Arc<Semaphore>>>,
    /// When a service's directory last said that it has somebody, in seconds.
    words: Mutex<HashMap<(ResourceId, RoleId), i64>>,
}

impl Ldap {
    pub(crate) fn new(outbound: Arc<Outbound>) -> Self {
        Self {
            outbound,
            pool: Pool::default(),
            answered: Mutex::default(),
            asking: Semaphore::new(ASKING_MAX),
            asking_of: Mutex::default(),
            words: Mutex::default(),
        }
    }

    /// Whether a user who has shown an API key is still there, in the directories whose services want that
    /// known: one of them is enough. `enabled` names the authenticators that the settings put in force.
    ///
    /// A directory that cannot be asked, when its last word is too old, has said nothing good.
    pub(crate) async fn vouch(
        &self,
        call: &mut Call,
        role: &RoleId,
        enabled: &[String],
    ) -> Result<(), Denied> {
        if role.kind() != Kind::User || *role == rbac::admin_role(role.account()) {
            return Ok(());
        }
        let services = call.open_view(|view| Ok(concerned(view.state, role, enabled)))?;
        let mut verdict = Ok(());
        for service in services {
            match self.has(call, role, &service).await {
                Ok(()) => return Ok(()),
                // Of several reasons that of a directory in trouble: another may have been the right one.
                Err(denied) => {
                    let is_trouble = denied.refusal != Refusal::UNAUTHENTICATED;
                    if is_trouble || verdict.is_ok() {
                        verdict = Err(denied.of(role));
                    }
                }
            }
        }
        verdict
    }

    /// Whether the directory of a service has somebody, or had a moment ago.
    async fn has(&self, call: &mut Call, role: &RoleId, service: &Concerned) -> Result<(), Denied> {
        let Concerned { webservice, login, recheck } = service;
        let recheck = recheck_of(recheck).map_err(|why| Denied::new(format!("{UNFIT}: {why}")))?;
        let key = (webservice.clone(), role.clone());
        let said = self.words().get(&key).copied();
        if said.is_some_and(|said| is_good(said, call.now.seconds(), recheck)) {
            return Ok(());
        }
        let directory = configured(call, webservice)?;
        match self.ask(webservice, &directory, &Question::Holder { name: login }).await? {
            Finding::Known(_) | Finding::Proven(_) => {
                self.remember(webservice, role, call.now.seconds());
                Ok(())
            }
            Finding::Refused(why) => {
                self.words().remove(&key);
                let why = format!("CONJ00002E Invalid credentials: of an API key, {why}");
                Err(Denied::new(why))
            }
        }
    }

    fn words(&self) -> MutexGuard<'_, HashMap<(ResourceId, RoleId), i64>> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, webservice: &ResourceId, role: &RoleId, now: i64) {
        let mut words = self.words();
        if words.len() >= WORDS_MAX {
            words.clear();
        }
        words.insert((webservice.clone(), role.clone()), now);
    }
}

/// Whether a word of then is good now. One from the future is not: the clock was set back.
fn is_good(said: i64, now: i64, recheck: Duration) -> bool {
    u64::try_from(now - said).is_ok_and(|age| age < recheck.as_secs())
}

/// A service whose directory is to be asked whether it still has somebody.
struct Concerned {
    webservice: ResourceId,
    /// The login in that directory.
    login: String,
    /// How long its word is good, as it was written.
    recheck: String,
}

/// The services in force that want to know whether a user is still there: those that the user may use, and
/// of whose branch it is.
fn concerned(state: &State, role: &RoleId, enabled: &[String]) -> Vec<Concerned> {
    let all = services_in_force(enabled, state, role.account(), NAME);
    let concerned = all.into_iter().filter_map(|webservice| {
        let recheck = state.annotation(&webservice, RECHECK)?.value.trim().to_owned();
        let login = login_of(state, &webservice, role)?;
        let may_use = rbac::is_allowed(state, role, "authenticate", &webservice);
        may_use.then_some(Concerned { webservice, login, recheck })
    });
    concerned.collect()
}

fn recheck_of(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| format!("{RECHECK} = {text:?} is no duration, as PT5M is"))
}

/// What is wrong with annotations that are for the people of a service; nothing when they will do.
fn unfit_options(state: &State, webservice: &ResourceId) -> Option<String> {
    let said = |name| state.annotation(webservice, name).map(|one| one.value.trim());
    if let Some(Err(why)) = said(RECHECK).map(recheck_of) {
        return Some(why);
    }
    let branch = said(BRANCH).filter(|branch| !matches!(*branch, "" | "root"))?;
    let policy = Id::new(webservice.account().clone(), Kind::Policy, branch).ok();
    let is_there = policy.is_some_and(|policy| state.resource(&policy).is_some());
    (!is_there).then(|| format!("{BRANCH} = {branch:?} is no policy"))
}

/// What the ids of a service's people end with, who are those of its branch.
fn ending(state: &State, webservice: &ResourceId) -> String {
    match state.annotation(webservice, BRANCH).map(|branch| branch.value.trim()) {
        None | Some("" | "root") => String::new(),
        Some(branch) => format!("@{}", branch.replace('/', "-")),
    }
}

/// What a user is called in the directory of a service; nothing for who is not of its branch.
fn login_of(state: &State, webservice: &ResourceId, role: &RoleId) -> Option<String> {
    let login = role.identifier().strip_suffix(&ending(state, webservice))?;
    Some(login.to_owned()).filter(|login| !login.is_empty())
}

/// The user that a value of the directory names, in the branch of a service; nothing for what is no name.
fn called(state: &State, webservice: &ResourceId, value: &str) -> Option<RoleId> {
    if !is_a_login(value) {
        return None;
    }
    let id = format!("{value}{}", ending(state, webservice));
    Id::new(webservice.account().clone(), Kind::User, &id).ok()
}

/// What stands at the ends of no login, and of no password that a directory tells from an empty one.
fn is_edge(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

/// Whether a directory tells a text from others as a login.
fn is_a_login(text: &str) -> bool {
    !text.is_empty() && !text.starts_with(is_edge) && !text.ends_with(is_edge)
}

impl Authenticator for Ldap {
    fn name(&self) -> &'static str {
        NAME
    }

    fn judge<'a>(&'a self, call: &'a mut Call, attempt: &'a Attempt) -> BoxFuture<'a, Verdict> {
        Box::pin(async move {
            let password = match call.take_body(PASSWORD_BYTES_MAX).await {
                Ok(password) => password,
                Err(Refusal::TooLarge { .. }) => return Verdict::Refused(Denied::new(INVALID)),
                Err(refusal) => return Verdict::Refused(refusal.into()),
            };
            Verdict::from(self.prove(call, attempt, &password, true).await)
        })
    }

    fn login<'a>(
        &'a self,
        call: &'a mut Call,
        attempt: &'a Attempt,
        password: Zeroizing<Vec<u8>>,
    ) -> BoxFuture<'a, Verdict> {
        // Where a client is, is not looked at when it logs in, as in Conjur.
        Box::pin(async move { Verdict::from(self.prove(call, attempt, &password, false).await) })
    }

    fn status<'a>(
        &'a self,
        call: &'a mut Call,
        webservice: &'a ResourceId,
    ) -> BoxFuture<'a, Result<(), StatusError>> {
        Box::pin(self.check_status(call, webservice))
    }
}

impl Ldap {
    /// Asks each server by itself: one that is ill is found before it is needed.
    async fn check_status(
        &self,
        call: &mut Call,
        webservice: &ResourceId,
    ) -> Result<(), StatusError> {
        if let Some(why) = call
            .open_view(|view| Ok(unfit_options(view.state, webservice)))
            .map_err(Denied::from)?
        {
            return Err(Denied::new(format!("{UNFIT}: {why}")).into());
        }
        let mut directory = configured(call, webservice)?;
        for server in std::mem::take(&mut directory.servers) {
            directory.servers = vec![server];
            let question = Question::Search { login: NOBODY };
            let (_, answer) = directory.ask(&self.outbound, &Pool::default(), 0, &question).await;
            answer.map_err(|trouble| Denied::new(in_trouble(&trouble)))?;
        }
        Ok(())
    }

    async fn prove(
        &self,
        call: &mut Call,
        attempt: &Attempt,
        password: &[u8],
        is_fenced: bool,
    ) -> Result<RoleId, Denied> {
        let webservice = attempt.webservice()?;
        let account = attempt.account()?;
        let login = attempt.login.as_deref().unwrap_or_default();
        let is_called = |state: &State| {
            let attribute = state.annotation(&webservice, CALLED_BY);
            attribute.is_some_and(|attribute| !attribute.value.trim().is_empty())
        };
        if call.open_view(|view| Ok(is_called(view.state)))? {
            return self.prove_called(call, &webservice, login, password, is_fenced).await;
        }
        let role = Id::from_login(account, login).ok();
        let role = role.filter(|role| role.kind() == Kind::User).ok_or(Denied::new(
            "CONJ00007E What was named is no user, as those in a directory are",
        ))?;
        refuse_admin(&role)?;
        let name = call.open_view(|view| Ok(login_of(view.state, &webservice, &role)))?;
        let name = name.ok_or_else(|| {
            Denied::new("CONJ00007E The user is none of the branch of the directory's people")
        })?;
        let text = fit_for_a_directory(&name, password).map_err(|no| no.of(&role))?;
        let person = Person::read(call, role, is_fenced)?;
        if person.refused.is_none() && person.has_key(password) {
            return Ok(person.role);
        }
        let directory = configured(call, &webservice)?;
        let question = match person.refused {
            None => Question::Password { login: &name, password: text },
            Some(_) => Question::Search { login: &name },
        };
        let answer = self.ask(&webservice, &directory, &question).await?;
        let role = person.admitted()?;
        self.proven(call, &webservice, role, answer)
    }

    /// As [`Ldap::prove`], where the entry that belongs to what was typed says who it is.
    async fn prove_called(
        &self,
        call: &mut Call,
        webservice: &ResourceId,
        login: &str,
        password: &[u8],
        is_fenced: bool,
    ) -> Result<RoleId, Denied> {
        let text = fit_for_a_directory(login, password)?;
        // Who has logged in may go on by its own name.
        if let Ok(role) = Id::from_login(webservice.account(), login)
            && role.kind() == Kind::User
            && role != rbac::admin_role(webservice.account())
        {
            let person = Person::read(call, role, is_fenced)?;
            let is_of_it = call
                .open_view(|view| Ok(login_of(view.state, webservice, &person.role).is_some()))?;
            if is_of_it && person.refused.is_none() && person.has_key(password) {
                return Ok(person.role);
            }
        }
        let directory = configured(call, webservice)?;
        let found = match self.ask(webservice, &directory, &Question::Search { login }).await? {
            Finding::Known(found) | Finding::Proven(found) => found.unwrap_or_default(),
            Finding::Refused(why) => {
                return Err(Denied::new(format!("CONJ00002E Invalid credentials: {why}")));
            }
        };
        let role = call.open_view(|view| Ok(called(view.state, webservice, &found)))?;
        let role = role.ok_or_else(|| {
            Denied::new("CONJ00007E What the directory's entry for it says is no name of a user")
        })?;
        refuse_admin(&role)?;
        let person = Person::read(call, role, is_fenced)?;
        if person.refused.is_none() && person.has_key(password) {
            return Ok(person.role);
        }
        let role = person.admitted()?;
        let question = Question::Password { login, password: text };
        let answer = self.ask(webservice, &directory, &question).await?;
        // Between the two questions the entry may have become another's.
        if matches!(&answer, Finding::Proven(again) if again.as_deref() != Some(found.as_str())) {
            return Err(Denied::new(INVALID).of(&role));
        }
        self.proven(call, webservice, role, answer)
    }

    /// What an answer to a password means for whose it is.
    fn proven(
        &self,
        call: &Call,
        webservice: &ResourceId,
        role: RoleId,
        answer: Finding,
    ) -> Result<RoleId, Denied> {
        match answer {
            Finding::Proven(_) => {
                self.remember(webservice, &role, call.now.seconds());
                Ok(role)
            }
            Finding::Known(_) => Err(Denied::new(INVALID).of(&role)),
            Finding::Refused(why) => {
                Err(Denied::new(format!("CONJ00002E Invalid credentials: {why}")).of(&role))
            }
        }
    }

    async fn ask(
        &self,
        service: &ResourceId,
        directory: &Directory,
        question: &Question<'_>,
    ) -> Result<Finding, Denied> {
        let of_service = {
            let mut all = self.asking_of.lock().unwrap_or_else(PoisonError::into_inner);
            let one = all.entry(service.clone());
            one.or_insert_with(|| Arc::new(Semaphore::new(QUESTIONS_MAX))).clone()
        };
        let too_many = |_| {
            let refusal = Refusal::unavailable("too many requests wait for directories");
            Denied::with(refusal, "Too many requests wait for directories")
        };
        let _place_of_service = of_service.try_acquire().map_err(too_many)?;
        let _place = self.asking.try_acquire().map_err(too_many)?;
        let known = || self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let first = known().get(service).copied().unwrap_or_default() % directory.servers.len();
        let (at, answer) = directory.ask(&self.outbound, &self.pool, first, question).await;
        if at != first {
            known().insert(service.clone(), at);
        }
        answer.map_err(|trouble| {
            let status =
                if trouble.is_slow { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::BAD_GATEWAY };
            Denied::with(Refusal::Empty(status), in_trouble(&trouble))
        })
    }
}

/// A user that may be the one, and what is known of it here.
struct Person {
    role: RoleId,
    /// SHA-256 of its API key; of nobody's there is none.
    key: Option<Digest>,
    /// Why it may not come in, whatever its password.
    refused: Option<String>,
}

impl Person {
    fn read(call: &mut Call, role: RoleId, is_fenced: bool) -> Result<Self, Denied> {
        let from = call.client_ip;
        let credential = call.open_view(|view| Ok(view.state.credential(&role).cloned()))?;
        let refused = match &credential {
            None => Some(format!("CONJ00007E '{role}' not found")),
            Some(one) if is_from_nowhere(one) || is_fenced && !is_from_within(one, from) => {
                Some(NOT_FROM_HERE.to_owned())
            }
            Some(_) => None,
        };
        Ok(Self { role, key: credential.map(|one| one.api_key_digest), refused })
    }

    /// Whether a password is its API key. Nobody's is compared, too: it takes as long.
    fn has_key(&self, password: &[u8]) -> bool {
        matches_digest(password, &self.key.unwrap_or(Digest([0; 32]))) && self.key.is_some()
    }

    /// Whoever may come in.
    fn admitted(self) -> Result<RoleId, Denied> {
        match self.refused {
            Some(reason) => Err(Denied::new(reason).of(&self.role)),
            None => Ok(self.role),
        }
    }
}

fn refuse_admin(role: &RoleId) -> Result<(), Denied> {
    if *role == rbac::admin_role(role.account()) {
        let why = "CONJ00017E Admin user is not allowed to authenticate with LDAP";
        return Err(Denied::new(why));
    }
    Ok(())
}

/// The password as a directory can be asked about it, with a login that it can tell from others.
fn fit_for_a_directory<'a>(login: &str, password: &'a [u8]) -> Result<&'a str, Denied> {
    if !is_a_login(login) {
        return Err(Denied::new("CONJ00002E Invalid credentials: no login of a directory"));
    }
    let text = std::str::from_utf8(password).unwrap_or_default();
    // Directories take an empty password for a wish to be nobody, and grant it.
    if text.trim_matches(is_edge).is_empty() {
        return Err(Denied::new("CONJ00002E Invalid credentials: no password"));
    }
    Ok(text)
}

const INVALID: &str = "CONJ00002E Invalid credentials";
const UNFIT: &str = "CONJ00079E The directory cannot be used";

fn in_trouble(trouble: &Trouble) -> String {
    format!("The directory cannot be asked: {}", trouble.why)
}

/// The directory of a service, by annotations of its webservice, variables below it, and what the
/// operator has said for where they say nothing.
fn configured(call: &mut Call, webservice: &ResourceId) -> Result<Directory, Denied> {
    let unfit = |why: &str| Denied::new(format!("{UNFIT}: {why}"));
    let variables = Variables::read(call, webservice, &["bind-password", "tls-ca-cert"])?;
    let annotations: HashMap<String, String> = call.open_view(|view| {
        let all = view.state.annotations(webservice);
        let ours = all.filter_map(|(name, annotation)| {
            let name = name.strip_prefix("ldap-authn/")?;
            Some((name.to_owned(), annotation.value.trim().to_owned()))
        });
        Ok(ours.filter(|(_, value)| !value.is_empty()).collect())
    })?;
    let door = call.door.clone();
    let settings = door.settings();
    let fallback: &LdapFallback = &settings.ldap;
    let said = |name: &str, otherwise: &Option<String>| {
        annotations.get(name).cloned().or_else(|| otherwise.clone())
    };
    let servers =
        servers_named(&annotations, fallback.uri.clone(), fallback.plain_allowed).map_err(unfit)?;
    let base = said("base_dn", &fallback.base).ok_or_else(|| unfit("base_dn is not set"))?;
    let searcher = match said("bind_dn", &fallback.bind_dn) {
        None => None,
        Some(name) => {
            let password = match variables.optional("bind-password")? {
                Some(password) => Zeroizing::new(password.to_owned()),
                // The operator's password is not for a server that policy names.
                None if ["uri", "host"].iter().any(|name| annotations.contains_key(*name)) => {
                    return Err(unfit(
                        "bind_dn is set, and bind-password is not (LDAP_BINDPW is for the server of LDAP_URI only)",
                    ));
                }
                None => fallback
                    .bind_password
                    .as_ref()
                    .and_then(|secret| std::str::from_utf8(secret.expose_secret()).ok())
                    .map(|text| Zeroizing::new(text.to_owned()))
                    .filter(|text| !text.trim().is_empty())
                    .ok_or_else(|| unfit("bind_dn is set, and bind-password is not"))?,
            };
            Some((name, password))
        }
    };
    let template =
        said("filter_template", &fallback.filter).unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    if let Some(why) = unfit_template(&template) {
        return Err(unfit(why));
    }
    let authorities = variables.optional("tls-ca-cert")?.map(str::to_owned);
    if let Some(pem) = &authorities {
        pinned(pem).map_err(|why| unfit(&why.to_string()))?;
    }
    let called_by = said("login_attribute", &None);
    if let Some(why) = called_by.as_ref().and_then(|name| unfit_attribute(&template, name)) {
        return Err(unfit(why));
    }
    Ok(Directory { servers, base, searcher, template, called_by, authorities })
}
