//! Names and labels as Kubernetes has them: what may stand in a path of its interface. Pure.

/// Longest name of an object.
const NAME_BYTES_MAX: usize = 253;
/// Longest label of DNS, value of a label, or last part of a label's key.
const LABEL_BYTES_MAX: usize = 63;

/// Whether a text is a name of an object: labels of DNS with dots between them.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX && text.split('.').all(is_part)
}

/// Whether a text is a name of a namespace, or of a container.
pub(super) fn is_label(text: &str) -> bool {
    text.len() <= LABEL_BYTES_MAX && is_part(text)
}

fn is_part(text: &str) -> bool {
    let is_edge = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let bytes = text.as_bytes();
    is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.iter().all(|&b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Reads a selector of labels: `key=value` or `key==value`, separated by commas; nothing else of what
/// Kubernetes has there.
pub(super) fn selector(text: &str) -> Option<Vec<(String, String)>> {
    let mut wanted = Vec::new();
    for term in text.split(',') {
        let (key, value) = term.split_once("==").or_else(|| term.split_once('='))?;
        let (key, value) = (key.trim(), value.trim());
        if !is_key(key) || !is_value(value) {
            return None;
        }
        wanted.push((key.to_owned(), value.to_owned()));
    }
    Some(wanted)
}

fn is_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((domain, name)) => is_name(domain) && is_value(name),
        None => is_value(text),
    }
}

fn is_value(text: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= LABEL_BYTES_MAX
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_kubernetes() {
        for good in ["web", "web-0", "a.b-c.d1", "0"] {
            assert!(is_name(good), "{good}");
        }
        let long = "a".repeat(254);
        for bad in ["", ".", "..", "a..b", "-a", "a-", "A", "a/b", "a%2fb", "a b", "a\n", &long] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(is_label("kube-system") && !is_label("kube.system") && !is_label(&long[..64]));
    }

    #[test]
    fn selectors_are_lists_of_what_labels_are() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(selector("a=b"), Some(vec![pair("a", "b")]));
        assert_eq!(
            selector("team==shop, example.com/env = prod"),
            Some(vec![pair("team", "shop"), pair("example.com/env", "prod")])
        );
        for bad in [
            "",
            " ",
            "a",
            "a!=b",
            "a in (b,c)",
            "a notin (b)",
            "!a",
            "a=b,",
            ",a=b",
            "=b",
            "a=",
            "a===b",
            "a=b c",
            "a=b/c",
            "/a=b",
            "a>1",
            "a=b=c",
        ] {
            assert_eq!(selector(bad), None, "{bad}");
        }
    }
}
