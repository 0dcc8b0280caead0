//! Claims of a token against what policy says of the one who brings it: names and paths of claims,
//! aliases, and annotations that must come true. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Denied;
use super::id_token::Claims;

/// Registered claims, which say nothing of who brings the token.
const NOT_OF_THE_BEARER: [&str; 6] = ["iss", "exp", "nbf", "iat", "jti", "aud"];

/// The name of a claim, or a path of names to one inside another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(String);

impl Name {
    /// Reads a name: it starts with a letter, `$` or `_`, goes on with those, digits, `.`, `-`, and
    /// may have several such parts between slashes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_part = |part: &str| {
            let mut letters = part.bytes();
            letters.next().is_some_and(|b| b.is_ascii_alphabetic() || matches!(b, b'$' | b'_'))
                && letters
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'$' | b'_' | b'.' | b'-'))
        };
        text.split('/').all(is_part).then(|| Self(text.to_owned()))
    }

    /// As [`Name::parse`], refusing what says nothing of the bearer.
    fn parse_of_bearer(text: &str) -> Option<Self> {
        Self::parse(text).filter(|name| !NOT_OF_THE_BEARER.contains(&name.0.as_str()))
    }

    /// The claim of that name; one with slashes in its own name before the path.
    pub(crate) fn find<'a>(&self, claims: &'a Claims) -> Option<&'a Value> {
        if let Some(value) = claims.get(&self.0) {
            return Some(value);
        }
        let mut parts = self.0.split('/');
        let first = claims.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.as_object()?.get(part))
    }
}

/// Which claims policy must speak of, and by what names.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    enforced: Vec<Name>,
    /// Claims by the names that annotations have for them.
    aliases: BTreeMap<String, Name>,
}

impl Rules {
    /// Reads `enforced-claims`, a comma list, and `claim-aliases`, a comma list of `alias:claim`.
    pub(crate) fn parse(enforced: Option<&str>, aliases: Option<&str>) -> Result<Self, Denied> {
        let enforced = items(enforced.unwrap_or_default())
            .map(|text| {
                Name::parse_of_bearer(text).ok_or_else(|| {
                    Denied::new(format!("CONJ00105E '{text}' cannot be an enforced claim"))
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut known = BTreeMap::new();
        let mut claims = BTreeSet::new();
        for item in items(aliases.unwrap_or_default()) {
            let unfit = || Denied::new(format!("CONJ00108E '{item}' is no alias of a claim"));
            let (alias, claim) = item.split_once(':').ok_or_else(unfit)?;
            let alias = Name::parse_of_bearer(alias.trim()).ok_or_else(unfit)?;
            let claim = Name::parse_of_bearer(claim.trim()).ok_or_else(unfit)?;
            if alias.0.contains('/') {
                return Err(unfit());
            }
            // Either way round, a second one would make it doubtful which is meant.
            if !claims.insert(claim.clone()) || known.insert(alias.0, claim).is_some() {
                return Err(Denied::new(format!("CONJ00113E '{item}' is an alias a second time")));
            }
        }
        Ok(Self { enforced, aliases: known })
    }

    /// Whether a token says what policy wants of its bearer: `wanted` are claims, by name or alias,
    /// with their values.
    pub(crate) fn check(&self, claims: &Claims, wanted: &[(&str, &str)]) -> Result<(), Denied> {
        if wanted.is_empty() {
            return Err(Denied::new("CONJ00099E No annotation says what its token must hold"));
        }
        let mut named = BTreeSet::new();
        let mut expected = Vec::new();
        for (text, value) in wanted {
            let unfit = || Denied::new(format!("CONJ00069E Annotation '{text}' names no claim"));
            let name = Name::parse_of_bearer(text).ok_or_else(unfit)?;
            let claim = match self.aliases.get(&name.0) {
                Some(claim) => claim.clone(),
                None if self.aliases.values().any(|claim| *claim == name) => {
                    let why = format!("CONJ00104E Claim '{text}' is to be called by its alias");
                    return Err(Denied::new(why));
                }
                None => name,
            };
            named.insert(claim.clone());
            expected.push((text, claim, value));
        }
        if let Some(lacking) = self.enforced.iter().find(|claim| !named.contains(claim)) {
            let why = format!("CONJ00057E No annotation for the enforced claim '{}'", lacking.0);
            return Err(Denied::new(why));
        }
        for (text, claim, value) in expected {
            let found = claim.find(claims).filter(|found| !found.is_null());
            let Some(found) = found else {
                return Err(Denied::new(format!("CONJ00051E The token has no claim '{text}'")));
            };
            if !is_as_written(found, value) {
                let why = format!("CONJ00049E Claim '{text}' is not what its annotation says");
                return Err(Denied::new(why));
            }
        }
        Ok(())
    }
}

/// Whether a claim's value is what an annotation, which is text, says.
fn is_as_written(found: &Value, text: &str) -> bool {
    match found {
        Value::String(found) => found == text,
        Value::Bool(found) => text == if *found { "true" } else { "false" },
        Value::Number(found) => found.to_string() == text,
        Value::Array(_) => serde_json::from_str::<Value>(text).is_ok_and(|wanted| wanted == *found),
        Value::Null | Value::Object(_) => false,
    }
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(text: &str) -> Claims {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn names_of_claims_have_a_grammar() {
        for good in ["sub", "a/b", "$x", "_y", "ref.1", "a-b", "additional_data/group_id"] {
            assert!(Name::parse(good).is_some(), "{good}");
        }
        for bad in ["", "1a", "a b", "/a", "a/", "a//b", "a/1", "-a", "a:b", "á", "a,b", "a[0]"] {
            assert!(Name::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_literal_name_comes_before_a_path() {
        let name = Name::parse("a/b").unwrap();
        assert_eq!(name.find(&claims(r#"{"a/b": 1, "a": {"b": 2}}"#)), Some(&Value::from(1)));
        assert_eq!(name.find(&claims(r#"{"a": {"b": 2}}"#)), Some(&Value::from(2)));
        assert_eq!(name.find(&claims(r#"{"a": "b"}"#)), None);
        assert_eq!(name.find(&claims(r#"{"a": ["b"]}"#)), None);
    }

    fn refused(
        enforced: &str,
        aliases: &str,
        token: &str,
        wanted: &[(&str, &str)],
    ) -> Option<String> {
        let rules = match Rules::parse(Some(enforced), Some(aliases)) {
            Ok(rules) => rules,
            Err(denied) => return Some(denied.reason.into_owned()),
        };
        rules.check(&claims(token), wanted).err().map(|denied| denied.reason.into_owned())
    }

    #[test]
    fn annotations_must_come_true() {
        let token =
            r#"{"ns": "prod", "n": 7, "t": true, "l": ["a", "b"], "o": {"p": "q"}, "z": null}"#;
        for wanted in [
            &[("ns", "prod")][..],
            &[("n", "7"), ("t", "true")][..],
            &[("l", r#"["a","b"]"#)][..],
            &[("o/p", "q"), ("ns", "prod")][..],
        ] {
            assert_eq!(refused("", "", token, wanted), None, "{wanted:?}");
        }
        assert_eq!(refused("ns, o/p", "", token, &[("ns", "prod"), ("o/p", "q")]), None);
        assert_eq!(refused("ns", "where:ns", token, &[("where", "prod")]), None);
        for (enforced, aliases, wanted, code) in [
            ("", "", &[][..], "CONJ00099E"),
            ("", "", &[("ns", "dev")][..], "CONJ00049E"),
            ("", "", &[("ns", "prod"), ("n", "8")][..], "CONJ00049E"),
            ("", "", &[("n", "7.0")][..], "CONJ00049E"),
            ("", "", &[("l", "a")][..], "CONJ00049E"),
            ("", "", &[("l", r#"["b","a"]"#)][..], "CONJ00049E"),
            ("", "", &[("o", "q")][..], "CONJ00049E"),
            ("", "", &[("o", r#"{"p":"q"}"#)][..], "CONJ00049E"),
            ("", "", &[("z", "null")][..], "CONJ00051E"),
            ("", "", &[("gone", "x")][..], "CONJ00051E"),
            ("", "", &[("ns/x", "prod")][..], "CONJ00051E"),
            ("", "", &[("iss", "x")][..], "CONJ00069E"),
            ("", "", &[("a b", "x")][..], "CONJ00069E"),
            ("n", "", &[("ns", "prod")][..], "CONJ00057E"),
            ("aud", "", &[("ns", "prod")][..], "CONJ00105E"),
            ("1", "", &[("ns", "prod")][..], "CONJ00105E"),
            ("", "where:ns", &[("ns", "prod")][..], "CONJ00104E"),
            ("", "where", &[("ns", "prod")][..], "CONJ00108E"),
            ("", "where:aud", &[("ns", "prod")][..], "CONJ00108E"),
            ("", "exp:ns", &[("ns", "prod")][..], "CONJ00108E"),
            ("", "", &[("nbf", "x")][..], "CONJ00069E"),
            ("", "", &[("iat", "x")][..], "CONJ00069E"),
            ("", "", &[("jti", "x")][..], "CONJ00069E"),
            ("nbf", "", &[("ns", "prod")][..], "CONJ00105E"),
            ("iat", "", &[("ns", "prod")][..], "CONJ00105E"),
            ("jti", "", &[("ns", "prod")][..], "CONJ00105E"),
            ("", "where:nbf", &[("ns", "prod")][..], "CONJ00108E"),
            ("", "where:iat", &[("ns", "prod")][..], "CONJ00108E"),
            ("", "where:jti", &[("ns", "prod")][..], "CONJ00108E"),
            ("", "a/b:ns", &[("ns", "prod")][..], "CONJ00108E"),
            ("", "a:ns,b:ns", &[("a", "prod")][..], "CONJ00113E"),
            ("", "a:ns,a:n", &[("a", "prod")][..], "CONJ00113E"),
        ] {
            let why = refused(enforced, aliases, token, wanted).unwrap_or_default();
            assert!(why.starts_with(code), "{wanted:?}: {why:?} is no {code}");
        }
    }
}
