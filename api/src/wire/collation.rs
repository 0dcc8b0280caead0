//! The order of names in lists, as the databases of Conjur keep it. Letters and digits count first,
//! then accents, then case, and punctuation last of all.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// What names are sorted by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Collated {
    letters: String,
    accents: String,
    /// Where the capitals are: a small letter comes before its capital.
    capitals: Vec<bool>,
    /// So that no two names are the same.
    name: String,
}

/// The place of a name among others.
pub(crate) fn collated(name: &str) -> Collated {
    let parts = || name.nfd().filter(|c| c.is_alphanumeric() || is_combining_mark(*c));
    let small = |c: char| c.to_lowercase();
    Collated {
        letters: parts().filter(|c| !is_combining_mark(*c)).flat_map(small).collect(),
        accents: parts().flat_map(small).collect(),
        capitals: parts().map(char::is_uppercase).collect(),
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::collated;

    #[test]
    fn letters_count_first_then_accents_then_case_then_punctuation() {
        let wanted = [
            "dat",
            "data",
            "Data",
            "dâta",
            "Dâta",
            "data2",
            "Data2",
            "data_default_owner",
            "data/dynamic",
            "e",
            "é",
            "E\u{301}",
            "ea",
            "éb",
            "f",
            "z",
            "Z",
            "ω",
        ];
        let mut ids = wanted.to_vec();
        ids.reverse();
        ids.sort_by_cached_key(|id| collated(id));
        assert_eq!(ids, wanted);
    }
}
