//! What a directory holds, as records of a policy: its people, its groups, and who is in which. What
//! cannot be a record is left out and told of, with the reason; nothing is guessed. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use conclave_domain::id::Kind;
use serde::Serialize;

use super::profile::Mapping;
use super::{dn, ssh_keys};

/// Attributes that say who is in a group: the first two by name, the last by `uid`.
pub(super) const MEMBERS: [&str; 2] = ["member", "uniquemember"];
pub(super) const MEMBERS_BY_UID: &str = "memberuid";
/// Longest id that is taken, and longest value of an annotation, in bytes.
const ID_BYTES_MAX: usize = 200;
const VALUE_BYTES_MAX: usize = 4096;

/// An entry as it came: attributes by their names in lower case.
#[derive(Debug, Clone, Default)]
pub(super) struct Entry {
    pub(super) dn: String,
    pub(super) attributes: HashMap<String, Vec<String>>,
}

impl Entry {
    fn all(&self, name: &str) -> &[String] {
        self.attributes.get(&name.to_lowercase()).map_or(&[], Vec::as_slice)
    }
}

/// What was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Skipped {
    /// The entry's name in the directory, or the record's id.
    pub(crate) what: String,
    pub(crate) reason: String,
}

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) dn: String,
    /// Its `uidnumber` or `gidnumber`.
    pub(super) number: Option<u64>,
    /// Further annotations, by name.
    pub(super) annotations: BTreeMap<String, String>,
    /// Its SSH keys by their names, where they are taken over.
    pub(super) keys: Option<BTreeMap<String, String>>,
}

/// A user or a group by its id within the branch.
pub(super) type Member = (Kind, String);

/// Everything that is taken over.
#[derive(Debug, Default)]
pub(super) struct Holding {
    pub(super) users: BTreeMap<String, Record>,
    pub(super) groups: BTreeMap<String, Record>,
    /// Who is in a group, directly.
    pub(super) members: BTreeMap<String, BTreeSet<Member>>,
    pub(super) skipped: Vec<Skipped>,
    /// Members of groups that are neither people nor groups taken over.
    pub(super) unknown_members: usize,
}

impl Holding {
    /// Reads what was found.
    pub(super) fn read(mapping: &Mapping, people: &[Entry], groups: &[Entry]) -> Self {
        let mut holding = Self::default();
        let skipped = &mut holding.skipped;
        let user_number = mapping.user_number.as_deref();
        let mut users =
            records(people, &mapping.user_id, user_number, &mapping.user_values, skipped);
        let group_number = mapping.group_number.as_deref();
        let found = records(groups, &mapping.group_id, group_number, &BTreeMap::new(), skipped);
        if let Some(attribute) = &mapping.user_keys {
            for (entry, record) in users.values_mut() {
                let (keys, others) = ssh_keys::read(entry.all(attribute));
                record.keys = Some(keys);
                let what = &entry.dn;
                skipped.extend(others.into_iter().map(|reason| Skipped {
                    what: what.clone(),
                    reason: format!("a value of its {attribute} is left out: {reason}"),
                }));
            }
        }
        let mut by_name: HashMap<String, Member> = HashMap::new();
        let mut by_uid: HashMap<&str, Member> = HashMap::new();
        for (id, (entry, _)) in &users {
            by_name.extend(dn::normal(&entry.dn).map(|name| (name, (Kind::User, id.clone()))));
            for uid in entry.all("uid") {
                by_uid.insert(uid, (Kind::User, id.clone()));
            }
        }
        for (id, (entry, _)) in &found {
            by_name.extend(dn::normal(&entry.dn).map(|name| (name, (Kind::Group, id.clone()))));
        }
        for (id, (entry, _)) in &found {
            let names = MEMBERS.iter().flat_map(|attribute| entry.all(attribute));
            let names = names.map(|name| dn::normal(name).and_then(|name| by_name.get(&name)));
            let uids = entry.all(MEMBERS_BY_UID).iter().map(|uid| by_uid.get(uid.as_str()));
            let mut members = BTreeSet::new();
            for member in names.chain(uids) {
                match member {
                    // A group that holds itself says nothing.
                    Some((Kind::Group, inner)) if inner == id => {}
                    Some(member) => {
                        members.insert(member.clone());
                    }
                    None => holding.unknown_members += 1,
                }
            }
            holding.members.insert(id.clone(), members);
        }
        let strip = |records: BTreeMap<String, (&Entry, Record)>| {
            records.into_iter().map(|(id, (_, record))| (id, record)).collect()
        };
        (holding.users, holding.groups) = (strip(users), strip(found));
        open_rings(&mut holding.members, &mut holding.skipped);
        holding
    }
}

/// Entries as records, by their ids. Of entries that want the same id none gets it.
fn records<'e>(
    entries: &'e [Entry],
    id_attribute: &str,
    number_attribute: Option<&str>,
    values: &BTreeMap<String, String>,
    skipped: &mut Vec<Skipped>,
) -> BTreeMap<String, (&'e Entry, Record)> {
    let mut by_id: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        let fit = match entry.all(id_attribute) {
            [id] => unfit_id(id).map_or(Ok(id.as_str()), Err),
            [] => Err(format!("it has no {id_attribute}")),
            several => Err(format!("it has {} values of {id_attribute}", several.len())),
        };
        let fit = fit.and_then(|id| unfit_value(&entry.dn).map_or(Ok(id), Err));
        match fit {
            Ok(id) => by_id.entry(id).or_default().push(entry),
            Err(reason) => skipped.push(Skipped { what: entry.dn.clone(), reason }),
        }
    }
    let mut records = BTreeMap::new();
    for (id, entries) in by_id {
        let [entry] = entries[..] else {
            let reason = format!("{} entries have the {id_attribute} {id:?}", entries.len());
            skipped.extend(
                entries
                    .iter()
                    .map(|entry| Skipped { what: entry.dn.clone(), reason: reason.clone() }),
            );
            continue;
        };
        let number = number_attribute.and_then(|attribute| match entry.all(attribute) {
            [number] => number.parse().ok(),
            _ => None,
        });
        let mut annotations = BTreeMap::new();
        for (name, attribute) in values {
            // Of several values none is the right one; what a policy cannot carry is left out.
            if let [value] = entry.all(attribute)
                && !value.trim().is_empty()
                && unfit_value(value).is_none()
            {
                annotations.insert(name.clone(), value.clone());
            }
        }
        let record = Record { dn: entry.dn.clone(), number, annotations, keys: None };
        records.insert(id.to_owned(), (entry, record));
    }
    records
}

/// Why a text is no id here; nothing when it is one.
fn unfit_id(id: &str) -> Option<String> {
    let why = if id.trim().is_empty() {
        "it is empty"
    } else if id.trim() != id {
        "it begins or ends with a space"
    } else if id.len() > ID_BYTES_MAX {
        "it is longer than 200 bytes"
    } else if id.chars().any(char::is_control) {
        "it has a control character"
    } else if id.contains(['/', ':']) {
        "it has a '/' or ':', which part ids"
    } else if matches!(id, "." | "..") {
        "it stands for a folder"
    } else {
        return None;
    };
    let shown: String = id.chars().take(64).collect();
    Some(format!("{shown:?} is no id: {why}"))
}

/// Why a text cannot stand in an annotation; nothing when it can.
fn unfit_value(value: &str) -> Option<String> {
    if value.len() > VALUE_BYTES_MAX {
        Some(format!("its name or value is longer than {VALUE_BYTES_MAX} bytes"))
    } else if value.contains('\0') {
        Some("its name or value has a NUL".to_owned())
    } else if value.split('/').any(|part| part == "..") {
        // A policy reads that as a path, and would keep another text.
        Some("its name or value has '..' between slashes".to_owned())
    } else {
        None
    }
}

/// Takes out of every ring of groups the memberships that close it: of a ring's groups all would be
/// one. They are told of. Which ones depends on the groups' ids alone, not on the order of entries.
fn open_rings(members: &mut BTreeMap<String, BTreeSet<Member>>, skipped: &mut Vec<Skipped>) {
    let inner: BTreeMap<String, Vec<String>> = members
        .iter()
        .map(|(id, members)| {
            let groups = members.iter().filter(|(kind, _)| *kind == Kind::Group);
            (id.clone(), groups.map(|(_, id)| id.clone()).collect())
        })
        .collect();
    // By id: whether all below has been looked at.
    let mut seen: HashMap<&str, bool> = HashMap::new();
    for start in inner.keys() {
        if seen.contains_key(start.as_str()) {
            continue;
        }
        seen.insert(start, false);
        let mut path: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((group, followed)) = path.last_mut() {
            let (group, at) = (*group, *followed);
            *followed += 1;
            let Some(next) = inner.get(group).and_then(|groups| groups.get(at)) else {
                seen.insert(group, true);
                path.pop();
                continue;
            };
            match seen.get(next.as_str()) {
                None => {
                    seen.insert(next, false);
                    path.push((next, 0));
                }
                Some(true) => {}
                Some(false) => {
                    if let Some(members) = members.get_mut(group) {
                        members.remove(&(Kind::Group, next.clone()));
                    }
                    let reason = format!(
                        "that the group {next:?} is in it closes a ring: the membership is left out"
                    );
                    skipped.push(Skipped { what: format!("group {group}"), reason });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(dn: &str, attributes: &[(&str, &str)]) -> Entry {
        let mut entry = Entry { dn: dn.to_owned(), ..Entry::default() };
        for (name, value) in attributes {
            entry.attributes.entry((*name).to_owned()).or_default().push((*value).to_owned());
        }
        entry
    }

    fn mapping() -> Mapping {
        Mapping {
            user_id: "uid".to_owned(),
            group_id: "cn".to_owned(),
            user_number: Some("uidNumber".to_owned()),
            group_number: None,
            user_keys: None,
            user_values: BTreeMap::from([("ldap-sync/mail".to_owned(), "mail".to_owned())]),
        }
    }

    #[test]
    fn what_cannot_be_an_id_is_told_of_and_nothing_is_guessed() {
        let good = [("uid", "jane.doe"), ("uidnumber", "7"), ("mail", "j@example.org")];
        let people = [
            entry("cn=a,dc=x", &good),
            entry("cn=b,dc=x", &[("uid", "star*"), ("mail", "one"), ("mail", "two")]),
            entry("cn=c,dc=x", &[]),
            entry("cn=d,dc=x", &[("uid", "one"), ("uid", "two")]),
            entry("cn=e,dc=x", &[("uid", "twin")]),
            entry("cn=f,dc=x", &[("uid", "twin")]),
            entry("cn=g,dc=x", &[("uid", "a/b")]),
            entry("cn=h,dc=x", &[("uid", " a")]),
            entry("cn=i,dc=x", &[("uid", "a\u{85}b")]),
            entry("cn=j,dc=x", &[("uid", "..")]),
            entry("cn=a/../k,dc=x", &[("uid", "k")]),
            entry("cn=l,dc=x", &[("uid", &"l".repeat(201))]),
        ];
        let holding = Holding::read(&mapping(), &people, &[]);
        assert_eq!(holding.users.keys().collect::<Vec<_>>(), ["jane.doe", "star*"]);
        let jane = &holding.users["jane.doe"];
        assert_eq!(
            (jane.number, jane.annotations["ldap-sync/mail"].as_str()),
            (Some(7), "j@example.org")
        );
        assert!(holding.users["star*"].annotations.is_empty());
        assert_eq!(holding.skipped.len(), 10);
        for (at, part) in [
            "it has no uid",
            "2 values of uid",
            "which part ids",
            "a space",
            "control",
            "a folder",
            "'..' between slashes",
            "longer than 200",
            "2 entries have the uid \"twin\"",
            "2 entries have",
        ]
        .iter()
        .enumerate()
        {
            let reason = &holding.skipped[at].reason;
            assert!(reason.contains(part), "{reason} {part}");
        }
    }

    #[test]
    fn groups_hold_people_and_groups_and_no_ring_stays_closed() {
        let people =
            [entry("cn=A\\, B,dc=x", &[("uid", "a")]), entry("cn=c,dc=x", &[("uid", "c")])];
        let groups = [
            entry(
                "cn=one,dc=x",
                &[("cn", "one"), ("member", "CN=a\\2c b, dc=x"), ("member", "cn=two,dc=x")],
            ),
            entry(
                "cn=two,dc=x",
                &[("cn", "two"), ("uniquemember", "cn=three,dc=x"), ("memberuid", "c")],
            ),
            entry(
                "cn=three,dc=x",
                &[("cn", "three"), ("member", "cn=one,dc=x"), ("member", "cn=gone,dc=x")],
            ),
            entry("cn=own,dc=x", &[("cn", "own"), ("member", "cn=own,dc=x")]),
        ];
        let holding = Holding::read(&mapping(), &people, &groups);
        let of = |group: &str| -> Vec<String> {
            holding.members[group].iter().map(|(kind, id)| format!("{kind} {id}")).collect()
        };
        assert_eq!(of("one"), ["group two", "user a"]);
        assert_eq!(of("two"), ["group three", "user c"]);
        assert!(of("three").is_empty());
        assert!(of("own").is_empty());
        assert_eq!(holding.unknown_members, 1);
        assert_eq!(holding.skipped.len(), 1, "{:?}", holding.skipped);
        assert!(holding.skipped[0].reason.contains("\"one\" is in it closes a ring"));
        let turned: Vec<Entry> = groups.iter().rev().cloned().collect();
        let again = Holding::read(&mapping(), &people, &turned);
        assert_eq!(again.members, holding.members);
    }
}
