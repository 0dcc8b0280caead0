//! Query strings and form bodies: separated by `&` and `;`, decoded once, `+` a space, nested names
//! such as `kind[]` and `annotations[k]` kept as they stand.

use zeroize::Zeroizing;

/// Most parameters read from one query; the rest is ignored.
const PARAMETERS_MAX: usize = 1000;

/// The parameters of a request, in the order in which they came.
#[derive(Debug, Default, Clone)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses the text after the `?`.
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split(['&', ';']).filter(|pair| !pair.is_empty()).take(PARAMETERS_MAX);
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// Parameters that came otherwise than in a query.
    pub(crate) fn of(pairs: Vec<(String, String)>) -> Self {
        Self(pairs.into_iter().take(PARAMETERS_MAX).collect())
    }

    /// These parameters, and those of `base` that are not named here, whole lists and maps at a time.
    pub(crate) fn over(self, base: &Self) -> Self {
        let own: Vec<&str> = self.0.iter().map(|(name, _)| outermost(name)).collect();
        let kept = base.0.iter().filter(|(name, _)| !own.contains(&outermost(name)));
        let mut all: Vec<_> = kept.cloned().collect();
        all.extend(self.0);
        Self(all)
    }

    /// All parameters as one text, no two lists of them the same.
    pub(crate) fn text(&self) -> String {
        format!("{:?}", self.0)
    }

    /// Whether the parameter is there, with whatever value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// The value; the last one counts when it was sent more than once.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value, unless it is blank.
    pub(crate) fn filled(&self, name: &str) -> Option<&str> {
        self.value(name).filter(|value| !value.trim().is_empty())
    }

    /// The values of `name` and of `name[]`.
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key.strip_suffix("[]").unwrap_or(key) == name)
            .map(|(_, value)| value.as_str())
    }

    /// Every parameter, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// The name before any `[`.
fn outermost(name: &str) -> &str {
    name.split_once('[').map_or(name, |(outermost, _)| outermost)
}

/// Decodes one name or value. A stray `%` stands for itself and foreign bytes become U+FFFD, as a
/// query never names a place in the tree by itself.
fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// One value of a form that is a secret: neither it nor the form is copied to where it is not wiped.
/// The last one counts when it was sent more than once; nothing when it is absent or blank.
pub(crate) fn secret_value(form: &[u8], name: &str) -> Option<Zeroizing<String>> {
    let pairs = form.split(|byte| matches!(byte, b'&' | b';')).rev();
    let mut values = pairs.filter_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        (pair[..equals] == *name.as_bytes()).then(|| &pair[equals + 1..])
    });
    let decoded = percent_encoding::percent_decode(values.next()?);
    let mut bytes = Zeroizing::new(Vec::with_capacity(form.len()));
    bytes.extend(decoded);
    let text = std::str::from_utf8(&bytes).ok()?.trim();
    (!text.is_empty()).then(|| Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_separators_and_nested_names_are_understood() {
        let query = Query::parse(
            "check=true;privilege=read+it&kind[]=a&kind[]=b&x%5B%5D=1&limit=1&limit=2",
        );
        assert!(query.has("check") && !query.has("role"));
        assert_eq!(query.value("privilege"), Some("read it"));
        assert_eq!(query.values("kind").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(query.values("x").collect::<Vec<_>>(), ["1"]);
        assert_eq!(query.value("limit"), Some("2"));
        assert_eq!(Query::parse("role=").filled("role"), None);
    }

    #[test]
    fn secrets_are_found_in_forms() {
        let found =
            |form: &str| secret_value(form.as_bytes(), "jwt").map(|value| value.to_string());
        assert_eq!(found("jwt=a.b.c").as_deref(), Some("a.b.c"));
        assert_eq!(found("x=1&jwt=a&jwt=%62").as_deref(), Some("b"));
        for absent in ["", "jwt", "jwt=", "jwt=%20", "xjwt=a", "JWT=a", "jwt=%ff"] {
            assert_eq!(found(absent), None, "{absent}");
        }
    }
}
