//! A profile: from which directory, what of it, to which branch, and what becomes of who is gone. It is a
//! webservice `conjur/ldap-sync/NAME` in policy, with annotations `ldap-sync/*` and variables beside it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use conclave_domain::duration;
use conclave_domain::id::{AccountName, Id, Kind, ResourceId, RoleId};
use conclave_domain::records::Sealed;
use conclave_domain::state::State;
use zeroize::Zeroizing;

use super::Failure;
use crate::authn::directory::{Directory, is_filter, servers_named};
use crate::authn::outbound::pinned;
use crate::door::Door;
use crate::ports::View;
use crate::read::patiently;
use crate::routes::secrets::sealed_value;

/// Where profiles lie.
const FOLDER: &str = "conjur/ldap-sync";
/// What their annotations begin with.
const PREFIX: &str = "ldap-sync/";
const USER_FILTER: &str = "(objectClass=posixAccount)";
const GROUP_FILTER: &str =
    "(|(objectClass=groupOfNames)(objectClass=groupOfUniqueNames)(objectClass=posixGroup))";
/// Entries asked for at once. Directories seldom give more than a thousand.
const PAGE: u32 = 500;
/// Of a hundred, so many may go without anybody being asked.
const GUARD_PERCENT: u32 = 10;
/// The variable that remembers runs.
const RUNS: &str = "runs";
const KNOWN: [&str; 19] = [
    "uri",
    "host",
    "port",
    "connect_type",
    "base_dn",
    "bind_dn",
    "user_filter",
    "group_filter",
    "user_base_dn",
    "group_base_dn",
    "group_attribute_mapping/name",
    "group_attribute_mapping/gid",
    "import_uid_numbers",
    "import_gid_numbers",
    "import_public_keys",
    "branch",
    "removal",
    "guard_percent",
    "page_size",
];

/// Which attributes become what.
#[derive(Debug, Clone)]
pub(super) struct Mapping {
    pub(super) user_id: String,
    pub(super) group_id: String,
    pub(super) user_number: Option<String>,
    pub(super) group_number: Option<String>,
    /// Where SSH keys of users are.
    pub(super) user_keys: Option<String>,
    /// Further annotations of users, with the attributes that they come from.
    pub(super) user_values: BTreeMap<String, String>,
}

/// What becomes of records whose entries are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    /// Nothing.
    Keep,
    /// They hold nothing that the directory gave them, and nobody logs in as them.
    Disable,
    /// They go, too.
    Delete,
}

/// A profile, ready for a run.
pub(super) struct Profile {
    pub(super) name: String,
    /// With whose rights it writes: whoever owns its webservice.
    pub(super) owner: RoleId,
    /// The policy that it writes into.
    pub(super) branch: ResourceId,
    pub(super) directory: Directory,
    /// Where people and groups are looked for, and which.
    pub(super) people: (String, String),
    pub(super) groups: (String, String),
    pub(super) mapping: Mapping,
    pub(super) removal: Removal,
    pub(super) guard_percent: u32,
    pub(super) page: i32,
}

/// The webservice of a profile; nothing for a name that cannot be one.
pub(super) fn webservice(account: &AccountName, name: &str) -> Option<ResourceId> {
    let fit = !name.is_empty() && !name.contains('/');
    fit.then(|| Id::new(account.clone(), Kind::Webservice, &format!("{FOLDER}/{name}")).ok())?
}

/// The profiles of an account.
pub(super) fn all<'a>(
    state: &'a State,
    account: &AccountName,
) -> impl Iterator<Item = &'a ResourceId> {
    let below = state.resources_below(account, "conjur/ldap-sync/");
    below.map(|(id, _)| id).filter(|id| {
        let name = id.identifier().strip_prefix("conjur/ldap-sync/").unwrap_or_default();
        id.kind() == Kind::Webservice && !name.contains('/')
    })
}

/// The variable that remembers a profile's runs, where policy has it.
pub(super) fn runs(state: &State, webservice: &ResourceId) -> Option<ResourceId> {
    let id = format!("{}/{RUNS}", webservice.identifier());
    let id = Id::new(webservice.account().clone(), Kind::Variable, &id).ok()?;
    state.resource(&id).map(|_| id)
}

/// How often a profile is to run by itself; nothing without a schedule, or the reason why what is
/// written there is none.
pub(super) fn schedule(
    state: &State,
    webservice: &ResourceId,
) -> Option<Result<Duration, Failure>> {
    let text = state.annotation(webservice, "ldap-sync/schedule")?.value.trim();
    Some(duration::parse(text).filter(|every| !every.is_zero()).ok_or_else(|| {
        Failure::Unfit(format!("ldap-sync/schedule = {text:?} is no duration such as PT1H"))
    }))
}

impl Profile {
    /// Reads a profile as policy has it now.
    pub(super) fn read(door: &Door, webservice: &ResourceId) -> Result<Self, Failure> {
        let name = webservice.identifier().rsplit('/').next().unwrap_or_default().to_owned();
        let vault = door.vault().map_err(Failure::Door)?;
        let read = patiently(&door.state, |view| {
            let resource = view.state.resource(webservice).ok_or(Failure::Missing)?;
            let annotations = view.state.annotations(webservice).filter_map(|(name, row)| {
                let name = name.strip_prefix(PREFIX)?;
                Some((name.to_owned(), row.value.trim().to_owned()))
            });
            Ok::<_, Failure>((
                resource.owner.clone(),
                annotations.filter(|(_, value)| !value.is_empty()).collect::<HashMap<_, _>>(),
                variable(view, webservice, &name, "bind-password")?,
                variable(view, webservice, &name, "tls-ca-cert")?,
            ))
        });
        let (owner, annotations, password, authorities) = read?;
        let open = |sealed: Option<(ResourceId, Sealed)>| -> Result<_, Failure> {
            let Some((id, sealed)) = sealed else { return Ok(None) };
            let secret = vault
                .open(&id, &sealed)
                .map_err(|fault| Failure::Unfit(format!("the value of {id}: {fault}")))?;
            let text = std::str::from_utf8(secret.expose_secret())
                .map_err(|_| Failure::Unfit(format!("the value of {id} is no text")))?;
            Ok(Some(Zeroizing::new(text.to_owned())).filter(|text| !text.trim().is_empty()))
        };
        let (password, authorities) = (open(password)?, open(authorities)?);
        let plain_allowed = door.settings().ldap.plain_allowed;
        let parts = Parts { webservice, name, owner, annotations: &annotations };
        parts.profile(password, authorities.as_deref().cloned(), plain_allowed)
    }
}

/// A variable of a profile: beside its webservice, or below the folder of all profiles.
fn variable(
    view: &View<'_>,
    webservice: &ResourceId,
    profile: &str,
    name: &str,
) -> Result<Option<(ResourceId, Sealed)>, Failure> {
    for text in [format!("{FOLDER}/{profile}/{name}"), format!("{FOLDER}/{name}/{profile}")] {
        let id = Id::new(webservice.account().clone(), Kind::Variable, &text);
        let Ok(id) = id else { continue };
        if let Some(sealed) = sealed_value(view, &id, None).map_err(Failure::Door)? {
            return Ok(Some((id, sealed)));
        }
    }
    Ok(None)
}

/// What a profile is made of.
struct Parts<'a> {
    webservice: &'a ResourceId,
    name: String,
    owner: RoleId,
    annotations: &'a HashMap<String, String>,
}

fn unfit(why: impl std::fmt::Display) -> Failure {
    Failure::Unfit(format!("the profile cannot be used: {why}"))
}

impl Parts<'_> {
    fn profile(
        self,
        password: Option<Zeroizing<String>>,
        authorities: Option<String>,
        plain_allowed: bool,
    ) -> Result<Profile, Failure> {
        self.check_names()?;
        let servers = servers_named(self.annotations, None, plain_allowed).map_err(unfit)?;
        if let Some(pem) = &authorities {
            pinned(pem).map_err(|why| unfit(format!("tls-ca-cert: {why}")))?;
        }
        let base = self.said("base_dn").ok_or_else(|| {
            unfit("ldap-sync/base_dn is not set, such as dc=example,dc=com: where to search")
        })?;
        let searcher = match (self.said("bind_dn"), password) {
            (None, _) => None,
            (Some(name), Some(password)) => Some((name, password)),
            (Some(_), None) => {
                return Err(unfit(format!(
                    "ldap-sync/bind_dn is set, and its password is not: set the variable {}/bind-password",
                    self.webservice.identifier()
                )));
            }
        };
        let filter = |name: &str, usual: &str| {
            let filter = self.said(name).unwrap_or_else(|| usual.to_owned());
            if is_filter(&filter) {
                Ok(filter)
            } else {
                Err(unfit(format!("{PREFIX}{name} is no filter")))
            }
        };
        let within = |name: &str| self.said(name).unwrap_or_else(|| base.clone());
        let people = (within("user_base_dn"), filter("user_filter", USER_FILTER)?);
        let groups = (within("group_base_dn"), filter("group_filter", GROUP_FILTER)?);
        let removal = match self.said("removal").as_deref() {
            None | Some("keep") => Removal::Keep,
            Some("disable") => Removal::Disable,
            Some("delete") => Removal::Delete,
            Some(other) => {
                return Err(unfit(format!(
                    "ldap-sync/removal = {other:?} is none of keep, disable and delete"
                )));
            }
        };
        let branch = self.said("branch").unwrap_or_else(|| format!("ldap-sync/{}", self.name));
        let account = self.webservice.account().clone();
        let branch = Id::new(account, Kind::Policy, &branch)
            .map_err(|why| unfit(format!("ldap-sync/branch: {why}")))?;
        let page = self.number("page_size", PAGE, 1..=5000)?;
        Ok(Profile {
            mapping: self.mapping()?,
            guard_percent: self.number("guard_percent", GUARD_PERCENT, 0..=100)?,
            page: i32::try_from(page).map_err(unfit)?,
            directory: Directory {
                servers,
                base,
                searcher,
                template: String::new(),
                called_by: None,
                authorities,
            },
            name: self.name,
            owner: self.owner,
            branch,
            people,
            groups,
            removal,
        })
    }

    fn said(&self, name: &str) -> Option<String> {
        self.annotations.get(name).cloned()
    }

    fn number(
        &self,
        name: &str,
        usual: u32,
        within: std::ops::RangeInclusive<u32>,
    ) -> Result<u32, Failure> {
        let Some(text) = self.said(name) else { return Ok(usual) };
        text.parse().ok().filter(|number| within.contains(number)).ok_or_else(|| {
            let (low, high) = (within.start(), within.end());
            unfit(format!("{PREFIX}{name} = {text:?} is no number from {low} to {high}"))
        })
    }

    fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.said(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                Err(unfit(format!("{PREFIX}{name} = {other:?} is neither true nor false")))
            }
        }
    }

    fn mapping(&self) -> Result<Mapping, Failure> {
        let of = |name: &str, usual: &str| self.said(name).unwrap_or_else(|| usual.to_owned());
        let wanted = |flag: &str, name: &str, usual: &str| {
            Ok::<_, Failure>(self.flag(flag)?.then(|| of(name, usual)))
        };
        let values = self.annotations.iter().filter_map(|(name, attribute)| {
            let name = name.strip_prefix("user_attribute_mapping/")?;
            let is_own = !matches!(name, "name" | "uid" | "public_key");
            is_own.then(|| (format!("{PREFIX}{name}"), attribute.clone()))
        });
        let user_values: BTreeMap<String, String> = values.collect();
        let ours = ["profile", "source", "upstream-dn", "disabled", "restricted-to"];
        if let Some(name) =
            ours.iter().find(|name| user_values.contains_key(&format!("{PREFIX}{name}")))
        {
            return Err(unfit(format!(
                "{PREFIX}user_attribute_mapping/{name} is a name of its own use"
            )));
        }
        Ok(Mapping {
            user_id: of("user_attribute_mapping/name", "uid"),
            group_id: of("group_attribute_mapping/name", "cn"),
            user_number: wanted("import_uid_numbers", "user_attribute_mapping/uid", "uidNumber")?,
            user_keys: wanted(
                "import_public_keys",
                "user_attribute_mapping/public_key",
                "sshPublicKey",
            )?,
            group_number: wanted("import_gid_numbers", "group_attribute_mapping/gid", "gidNumber")?,
            user_values,
        })
    }

    /// A misspelt setting must not be one that is silently not there.
    fn check_names(&self) -> Result<(), Failure> {
        let known = |name: &str| {
            KNOWN.contains(&name)
                || name == "schedule"
                || name.starts_with("user_attribute_mapping/")
        };
        match self.annotations.keys().filter(|name| !known(name)).min() {
            None => Ok(()),
            Some(name) => Err(unfit(format!("there is no setting {PREFIX}{name}"))),
        }
    }
}

impl Profile {
    /// Attributes that are asked for of people, and of groups.
    pub(super) fn attributes(&self) -> (Vec<String>, Vec<String>) {
        let mapping = &self.mapping;
        let mut people = vec!["uid".to_owned(), mapping.user_id.clone()];
        people.extend(mapping.user_number.clone());
        people.extend(mapping.user_keys.clone());
        people.extend(mapping.user_values.values().cloned());
        let mut groups = vec![mapping.group_id.clone(), "memberUid".to_owned()];
        groups.extend(["member", "uniqueMember"].map(str::to_owned));
        groups.extend(mapping.group_number.clone());
        people.sort_unstable();
        people.dedup();
        (people, groups)
    }

    /// The server that records say they are from.
    pub(super) fn source(&self) -> String {
        self.directory.servers.first().map_or_else(String::new, ToString::to_string)
    }
}
