//! What a run would do: the policy text of all that a directory holds, and the text of what of it is not
//! so yet. Both are ordinary policy, for people to read; the second is what is loaded. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use conclave_domain::id::{Id, IdError, Kind, ResourceId};
use conclave_domain::records::MembershipKey;
use conclave_domain::state::State;
use ipnet::IpNet;

use super::holding::{Holding, Member, Record, Skipped};
use super::profile::{Profile, Removal};
use super::ssh_keys;

/// Annotations by which records are known.
const PROFILE: &str = "ldap-sync/profile";
const SOURCE: &str = "ldap-sync/source";
const UPSTREAM: &str = "ldap-sync/upstream-dn";
const DISABLED: &str = "ldap-sync/disabled";
/// What `restricted_to` was before its user was disabled; `any` for nothing.
const RESTRICTED_TO: &str = "ldap-sync/restricted-to";
const ANYWHERE: &str = "any";
/// No client ever comes from there.
const NOWHERE: &str = "0.0.0.0/32";
/// Names that a guard tells.
const NAMED_MAX: usize = 20;

/// What a run would do.
#[derive(Debug, Default)]
pub(super) struct Proposal {
    /// All that the directory holds.
    pub(super) policy: String,
    /// What of it is not so yet; empty when all is.
    pub(super) changes: String,
    pub(super) people: usize,
    pub(super) groups: usize,
    /// Records that would be disabled or deleted.
    pub(super) removed: Vec<ResourceId>,
    /// Memberships that would be revoked.
    pub(super) revoked: usize,
    pub(super) skipped: Vec<Skipped>,
    pub(super) unknown_members: usize,
    /// Why nobody should do it without being asked; nothing when all is as usual.
    pub(super) guard: Option<String>,
}

/// Names in the policy that a profile writes into.
struct Branch<'a>(&'a ResourceId);

impl Branch<'_> {
    fn id(&self, kind: Kind, id: &str) -> Result<ResourceId, IdError> {
        let identifier = match (self.0.identifier(), kind) {
            ("root", _) => id.to_owned(),
            (branch, Kind::User) => format!("{id}@{}", branch.replace('/', "-")),
            (branch, _) => format!("{branch}/{id}"),
        };
        Id::new(self.0.account().clone(), kind, &identifier)
    }

    /// The name that leads to an id; nothing for one that lies elsewhere.
    fn name(&self, id: &ResourceId) -> Option<String> {
        let branch = self.0.identifier();
        let name = if branch == "root" {
            Some(id.identifier())
        } else if id.kind() == Kind::User {
            id.identifier().strip_suffix(&format!("@{}", branch.replace('/', "-")))
        } else {
            id.identifier().strip_prefix(&format!("{branch}/"))
        };
        name.map(str::to_owned)
    }
}

/// A record that is there and came from this profile.
struct Known {
    id: ResourceId,
    disabled: bool,
}

fn known(state: &State, profile: &Profile) -> BTreeMap<Member, Known> {
    let branch = Branch(&profile.branch);
    let declared = state.declared(&profile.branch).resources.into_iter();
    let ours = declared.filter_map(|id| {
        if !matches!(id.kind(), Kind::User | Kind::Group)
            || said(state, &id, PROFILE) != Some(&profile.name)
        {
            return None;
        }
        let disabled = said(state, &id, DISABLED) == Some("true");
        Some(((id.kind(), branch.name(&id)?), Known { id, disabled }))
    });
    ours.collect()
}

fn said<'a>(state: &'a State, id: &ResourceId, name: &str) -> Option<&'a str> {
    state.annotation(id, name).map(|annotation| annotation.value.as_str())
}

/// Compares what a directory holds with what is there.
pub(super) fn propose(state: &State, profile: &Profile, holding: &Holding) -> Proposal {
    let branch = Branch(&profile.branch);
    let known = known(state, profile);
    let mut proposal = Proposal {
        skipped: holding.skipped.clone(),
        unknown_members: holding.unknown_members,
        ..Proposal::default()
    };
    let (mut whole, mut part) = (Text::default(), Text::default());
    let mut desired: BTreeMap<Member, ResourceId> = BTreeMap::new();
    let mut spare_keys: Vec<(&str, String)> = Vec::new();
    let users = holding.users.iter().map(|(id, record)| (Kind::User, id, record));
    let groups = holding.groups.iter().map(|(id, record)| (Kind::Group, id, record));
    for (kind, name, record) in users.chain(groups) {
        let member = (kind, name.clone());
        let id = match branch.id(kind, name) {
            Ok(id) if known.contains_key(&member) || state.resource(&id).is_none() => id,
            Ok(id) => {
                let reason = format!("{id} is there already, and did not come from this profile");
                proposal.skipped.push(Skipped { what: record.dn.clone(), reason });
                continue;
            }
            Err(why) => {
                let (what, reason) = (record.dn.clone(), why.to_string());
                proposal.skipped.push(Skipped { what, reason });
                continue;
            }
        };
        let was_disabled = known.get(&member).is_some_and(|known| known.disabled);
        let stated = stated(state, profile, &id, record, was_disabled);
        whole.record(kind, name, &stated);
        if !known.contains_key(&member) || was_disabled || !is_so(state, profile, &id, &stated) {
            part.record(kind, name, &stated);
        }
        if let Some(keys) = &stated.keys {
            for gone in keys_of(state, profile, &id).iter().filter(|key| !keys.contains_key(*key)) {
                spare_keys.push((name, gone.clone()));
            }
        }
        *(if kind == Kind::User { &mut proposal.people } else { &mut proposal.groups }) += 1;
        desired.insert(member, id);
    }
    let absent: Vec<(&Member, &Known)> =
        known.iter().filter(|(member, _)| !desired.contains_key(*member)).collect();
    if profile.removal == Removal::Disable {
        for ((kind, name), one) in absent.iter().filter(|(_, one)| !one.disabled) {
            part.record(*kind, name, &disabled(state, &one.id));
            // Whoever trusts the keys that are shown here must not go on to trust these.
            let keys = keys_of(state, profile, &one.id).into_iter();
            spare_keys.extend(keys.map(|key| (name.as_str(), key)));
        }
    }
    for (name, key) in &spare_keys {
        part.delete_key(name, key);
    }
    // Memberships follow the directory in the groups that it has; where groups are gone, as the rule says.
    let nobody = BTreeSet::new();
    let mut current_count = 0;
    let mut revoked: Vec<(&str, Member)> = Vec::new();
    for (member, id) in known
        .iter()
        .map(|(member, one)| (member, &one.id))
        .chain(desired.iter().filter(|(member, _)| !known.contains_key(*member)))
    {
        let (Kind::Group, group) = member else { continue };
        let current = current(state, profile, &known, id);
        current_count += current.len();
        let wanted = match (desired.contains_key(member), profile.removal) {
            (true, _) => holding.members.get(group).unwrap_or(&nobody),
            (false, Removal::Disable) => &nobody,
            (false, Removal::Keep | Removal::Delete) => continue,
        };
        let wanted = wanted.iter().filter(|member| desired.contains_key(*member));
        let wanted: BTreeSet<&Member> = wanted.collect();
        whole.grant(group, wanted.iter().copied());
        part.grant(group, wanted.iter().copied().filter(|member| !current.contains(*member)));
        for gone in current.into_iter().filter(|member| !wanted.contains(member)) {
            // What is deleted is in nothing any more.
            if desired.contains_key(&gone) || profile.removal != Removal::Delete {
                revoked.push((group, gone));
            }
        }
    }
    for (group, member) in &revoked {
        part.revoke(group, member);
    }
    proposal.revoked = revoked.len();
    if profile.removal == Removal::Delete {
        for ((kind, name), _) in &absent {
            part.delete(*kind, name);
        }
    }
    if profile.removal != Removal::Keep {
        let gone =
            absent.iter().filter(|(_, one)| !one.disabled || profile.removal == Removal::Delete);
        proposal.removed = gone.map(|(_, one)| one.id.clone()).collect();
    }
    proposal.guard = guard(profile, &known, &proposal, current_count);
    (proposal.policy, proposal.changes) = (whole.0, part.0);
    proposal
}

/// Who is in a group by this profile.
fn current(
    state: &State,
    profile: &Profile,
    known: &BTreeMap<Member, Known>,
    group: &ResourceId,
) -> BTreeSet<Member> {
    let branch = Branch(&profile.branch);
    let rows = state.members(group).into_iter();
    let ours = rows.filter_map(|(MembershipKey { member, ownership, .. }, row)| {
        let is_ours = !ownership && row.policy.as_ref() == Some(&profile.branch);
        let member = is_ours.then(|| Some((member.kind(), branch.name(&member)?)))??;
        known.contains_key(&member).then_some(member)
    });
    ours.collect()
}

/// A record as policy has to state it.
struct Stated {
    number: Option<(&'static str, u64)>,
    annotations: BTreeMap<String, String>,
    restricted_to: Vec<String>,
    /// SSH keys by their names, where they are taken over.
    keys: Option<BTreeMap<String, String>>,
}

/// The names of a user's SSH keys that came from the profile's directory.
fn keys_of(state: &State, profile: &Profile, id: &ResourceId) -> BTreeSet<String> {
    let prefix = format!("{}/{}/", id.kind(), id.identifier());
    let below = state.resources_below(id.account(), &prefix).filter_map(|(key, record)| {
        let is_ours =
            key.kind() == Kind::PublicKey && record.policy.as_ref() == Some(&profile.branch);
        let name = key.identifier().strip_prefix(&prefix)?;
        (is_ours && ssh_keys::is_ours(name)).then(|| name.to_owned())
    });
    below.collect()
}

fn stated(
    state: &State,
    profile: &Profile,
    id: &ResourceId,
    record: &Record,
    was_disabled: bool,
) -> Stated {
    let mut annotations = record.annotations.clone();
    for (name, value) in
        [(PROFILE, profile.name.clone()), (SOURCE, profile.source()), (UPSTREAM, record.dn.clone())]
    {
        annotations.insert(name.to_owned(), value);
    }
    let restricted_to = if was_disabled {
        annotations.insert(DISABLED.to_owned(), "false".to_owned());
        let before = said(state, id, RESTRICTED_TO).unwrap_or(ANYWHERE).split(' ');
        before.filter(|text| text.parse::<IpNet>().is_ok()).map(str::to_owned).collect()
    } else {
        restrictions(state, id)
    };
    let name = if id.kind() == Kind::User { "uidnumber" } else { "gidnumber" };
    let number = record.number.map(|number| (name, number));
    Stated { number, annotations, restricted_to, keys: record.keys.clone() }
}

/// What restricts a user now. A load that does not say it again would lift it.
fn restrictions(state: &State, id: &ResourceId) -> Vec<String> {
    let restricted = state.credential(id).map(|one| &one.restricted_to);
    restricted.into_iter().flatten().map(ToString::to_string).collect()
}

/// A user that nobody logs in as, or a group that says that it is gone.
fn disabled(state: &State, id: &ResourceId) -> Stated {
    let mut annotations = BTreeMap::from([(DISABLED.to_owned(), "true".to_owned())]);
    let mut restricted_to = Vec::new();
    if id.kind() == Kind::User {
        let before = restrictions(state, id);
        let before = if before.is_empty() { ANYWHERE.to_owned() } else { before.join(" ") };
        annotations.insert(RESTRICTED_TO.to_owned(), before);
        restricted_to.push(NOWHERE.to_owned());
    }
    Stated { number: None, annotations, restricted_to, keys: None }
}

/// Whether a record is as it has to be stated.
fn is_so(state: &State, profile: &Profile, id: &ResourceId, stated: &Stated) -> bool {
    let number = stated.number.is_none_or(|(name, number)| {
        said(state, id, &format!("conjur/{name}")) == Some(number.to_string().as_str())
    });
    // A key's name tells which key it is.
    let keys = stated.keys.as_ref().is_none_or(|keys| {
        let there = keys_of(state, profile, id);
        keys.keys().all(|name| there.contains(name))
    });
    let is_said = |(name, value): (&String, &String)| said(state, id, name) == Some(value);
    number && keys && stated.annotations.iter().all(is_said)
}

/// Why a run takes too much away; nothing when it does not.
fn guard(
    profile: &Profile,
    known: &BTreeMap<Member, Known>,
    proposal: &Proposal,
    memberships: usize,
) -> Option<String> {
    let percent = profile.guard_percent;
    let is_much =
        |gone: usize, of: usize| gone > 0 && gone as u128 * 100 > u128::from(percent) * of as u128;
    let mut reasons = Vec::new();
    for (kind, what) in [(Kind::User, "users"), (Kind::Group, "groups")] {
        let gone: Vec<&str> =
            (proposal.removed.iter()).filter(|id| id.kind() == kind).map(Id::identifier).collect();
        let all = known.keys().filter(|(known, _)| *known == kind).count();
        if is_much(gone.len(), all) {
            let mut names = gone[..gone.len().min(NAMED_MAX)].join(", ");
            if gone.len() > NAMED_MAX {
                names.push_str(", and more");
            }
            let word = if profile.removal == Removal::Delete { "delete" } else { "disable" };
            reasons.push(format!("{word} {} of {all} {what} ({names})", gone.len()));
        }
    }
    if is_much(proposal.revoked, memberships) {
        reasons.push(format!("revoke {} of {memberships} memberships", proposal.revoked));
    }
    (!reasons.is_empty()).then(|| {
        format!(
            "the run would {}, more than ldap-sync/guard_percent = {percent} allows; when that is right, \
             `conclave ldap-sync apply {} --force` does it",
            reasons.join(" and "),
            profile.name
        )
    })
}

/// Policy text.
#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _written = self.0.write_fmt(text);
        self.0.push('\n');
    }

    fn record(&mut self, kind: Kind, name: &str, stated: &Stated) {
        self.line(format_args!("- !{kind}\n  id: {}", quoted(name)));
        if let Some((field, number)) = stated.number {
            self.line(format_args!("  {field}: {number}"));
        }
        if !stated.restricted_to.is_empty() {
            let nets: Vec<String> = stated.restricted_to.iter().map(|net| quoted(net)).collect();
            self.line(format_args!("  restricted_to: [{}]", nets.join(", ")));
        }
        if let Some(keys) = stated.keys.as_ref().filter(|keys| !keys.is_empty()) {
            self.line(format_args!("  public_keys:"));
            for key in keys.values() {
                self.line(format_args!("  - {}", quoted(key)));
            }
        }
        self.line(format_args!("  annotations:"));
        for (name, value) in &stated.annotations {
            self.line(format_args!("    {}: {}", quoted(name), quoted(value)));
        }
    }

    fn grant<'a>(&mut self, group: &str, members: impl Iterator<Item = &'a Member>) {
        let mut members = members.peekable();
        if members.peek().is_some() {
            self.line(format_args!("- !grant\n  role: !group {}\n  members:", quoted(group)));
            for (kind, name) in members {
                self.line(format_args!("  - !{kind} {}", quoted(name)));
            }
        }
    }

    fn revoke(&mut self, group: &str, (kind, name): &Member) {
        let (group, name) = (quoted(group), quoted(name));
        self.line(format_args!("- !revoke\n  role: !group {group}\n  member: !{kind} {name}"));
    }

    fn delete_key(&mut self, user: &str, key: &str) {
        let id = quoted(&format!("user/{user}/{key}"));
        self.line(format_args!("- !delete\n  record: !resource {{kind: public_key, id: {id}}}"));
    }

    fn delete(&mut self, kind: Kind, name: &str) {
        self.line(format_args!("- !delete\n  record: !{kind} {}", quoted(name)));
    }
}

/// A text as YAML quotes it, whatever is in it.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                quoted.extend([format!("\\u{:04X}", u32::from(c))]);
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
