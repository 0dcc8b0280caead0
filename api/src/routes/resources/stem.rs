//! Words as searches compare them: without the endings that English puts on them, and without the words
//! that say nothing.
//!
//! The endings are those of the Porter2 algorithm, which is what PostgreSQL means by English, and so what
//! Conjur's clients are used to. `r1` and `r2` are its regions: what follows the first consonant after a
//! vowel, and the same again inside that.

/// Words too common to search for.
const SAY_NOTHING: &[&str] = &[
    "a",
    "about",
    "above",
    "after",
    "again",
    "against",
    "all",
    "am",
    "an",
    "and",
    "any",
    "are",
    "as",
    "at",
    "be",
    "because",
    "been",
    "before",
    "being",
    "below",
    "between",
    "both",
    "but",
    "by",
    "can",
    "did",
    "do",
    "does",
    "doing",
    "don",
    "down",
    "during",
    "each",
    "few",
    "for",
    "from",
    "further",
    "had",
    "has",
    "have",
    "having",
    "he",
    "her",
    "here",
    "hers",
    "herself",
    "him",
    "himself",
    "his",
    "how",
    "i",
    "if",
    "in",
    "into",
    "is",
    "it",
    "its",
    "itself",
    "just",
    "me",
    "more",
    "most",
    "my",
    "myself",
    "no",
    "nor",
    "not",
    "now",
    "of",
    "off",
    "on",
    "once",
    "only",
    "or",
    "other",
    "our",
    "ours",
    "ourselves",
    "out",
    "over",
    "own",
    "s",
    "same",
    "she",
    "should",
    "so",
    "some",
    "such",
    "t",
    "than",
    "that",
    "the",
    "their",
    "theirs",
    "them",
    "themselves",
    "then",
    "there",
    "these",
    "they",
    "this",
    "those",
    "through",
    "to",
    "too",
    "under",
    "until",
    "up",
    "very",
    "was",
    "we",
    "were",
    "what",
    "when",
    "where",
    "which",
    "while",
    "who",
    "whom",
    "why",
    "will",
    "with",
    "you",
    "your",
    "yours",
    "yourself",
    "yourselves",
];

/// Words whose stem no rule finds.
const IRREGULAR: &[(&str, &str)] = &[
    ("skis", "ski"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("idly", "idl"),
    ("gently", "gentl"),
    ("ugly", "ugli"),
    ("early", "earli"),
    ("only", "onli"),
    ("singly", "singl"),
    ("sky", "sky"),
    ("news", "news"),
    ("howe", "howe"),
    ("atlas", "atlas"),
    ("cosmos", "cosmos"),
    ("bias", "bias"),
    ("andes", "andes"),
];

/// Words that only look as if they had an ending, once a plural is off.
const WHOLE: &[&str] =
    &["inning", "outing", "canning", "herring", "earring", "proceed", "exceed", "succeed"];

/// The stem of a word in lower case; nothing for a word that says nothing.
pub(super) fn stem(word: &str) -> Option<String> {
    if SAY_NOTHING.binary_search(&word).is_ok() {
        return None;
    }
    // The rules are about the letters of English.
    if word.len() <= 2 || !word.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return Some(word.to_owned());
    }
    if let Some((_, stem)) = IRREGULAR.iter().find(|(known, _)| *known == word) {
        return Some((*stem).to_owned());
    }
    let mut word = Word::new(word);
    word.plural();
    if !WHOLE.iter().any(|whole| whole.as_bytes() == word.text) {
        word.past_and_participle();
        word.last_y();
        word.long_endings();
        word.middle_endings();
        word.short_endings();
        word.last_letter();
    }
    Some(word.text.iter().map(|letter| char::from(letter.to_ascii_lowercase())).collect())
}

/// A word on its way to its stem. A `Y` in capitals is a consonant.
struct Word {
    text: Vec<u8>,
    r1: usize,
    r2: usize,
}

const fn is_vowel(letter: u8) -> bool {
    matches!(letter, b'a' | b'e' | b'i' | b'o' | b'u' | b'y')
}

/// Where the part begins that follows the first consonant after a vowel.
fn region(text: &[u8], from: usize) -> usize {
    let found = text[from..].windows(2).position(|pair| is_vowel(pair[0]) && !is_vowel(pair[1]));
    found.map_or(text.len(), |at| from + at + 2)
}

impl Word {
    fn new(word: &str) -> Self {
        let mut text = word.as_bytes().to_vec();
        for at in 0..text.len() {
            if text[at] == b'y' && (at == 0 || is_vowel(text[at - 1])) {
                text[at] = b'Y';
            }
        }
        let prefix = ["gener", "commun", "arsen"].into_iter().find(|one| word.starts_with(one));
        let r1 = prefix.map_or_else(|| region(&text, 0), str::len);
        let r2 = region(&text, r1);
        Self { text, r1, r2 }
    }

    /// The longest of some endings that the word has.
    fn ending<'e>(&self, endings: impl IntoIterator<Item = &'e str>) -> Option<&'e str> {
        let has = |ending: &&str| self.text.ends_with(ending.as_bytes());
        endings.into_iter().filter(has).max_by_key(|ending| ending.len())
    }

    /// Where an ending of that length begins.
    fn before(&self, ending: &str) -> usize {
        self.text.len() - ending.len()
    }

    fn replace(&mut self, ending: &str, with: &str) {
        let before = self.before(ending);
        self.text.truncate(before);
        self.text.extend_from_slice(with.as_bytes());
    }

    /// Whether the part up to `end` closes with a short syllable.
    fn is_short_at(&self, end: usize) -> bool {
        match self.text[..end] {
            [first, second] => is_vowel(first) && !is_vowel(second),
            [.., before, middle, last] => {
                !is_vowel(before)
                    && is_vowel(middle)
                    && !is_vowel(last)
                    && !matches!(last, b'w' | b'x' | b'Y')
            }
            _ => false,
        }
    }

    fn plural(&mut self) {
        match self.ending(["sses", "ied", "ies", "us", "ss", "s"]) {
            Some("sses") => self.replace("sses", "ss"),
            Some(ending @ ("ied" | "ies")) => {
                let with = if self.before(ending) > 1 { "i" } else { "ie" };
                self.replace(ending, with);
            }
            Some("s") => {
                // Not the letter right before it, which could make it gas or this.
                let stem = &self.text[..self.text.len() - 2];
                if stem.iter().any(|letter| is_vowel(*letter)) {
                    self.replace("s", "");
                }
            }
            Some(_) | None => {}
        }
    }

    fn past_and_participle(&mut self) {
        let Some(ending) = self.ending(["eed", "eedly", "ed", "edly", "ing", "ingly"]) else {
            return;
        };
        let before = self.before(ending);
        if ending.starts_with("eed") {
            if before >= self.r1 {
                self.replace(ending, "ee");
            }
            return;
        }
        if !self.text[..before].iter().any(|letter| is_vowel(*letter)) {
            return;
        }
        self.replace(ending, "");
        let doubled = ["bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt"];
        if self.ending(["at", "bl", "iz"]).is_some() {
            self.text.push(b'e');
        } else if self.ending(doubled).is_some() {
            self.text.pop();
        } else if self.r1 >= self.text.len() && self.is_short_at(self.text.len()) {
            self.text.push(b'e');
        }
    }

    fn last_y(&mut self) {
        if let [_, .., before, last @ (b'y' | b'Y')] = &mut self.text[..]
            && !is_vowel(*before)
        {
            *last = b'i';
        }
    }

    fn long_endings(&mut self) {
        let endings = [
            ("tional", "tion"),
            ("enci", "ence"),
            ("anci", "ance"),
            ("abli", "able"),
            ("entli", "ent"),
            ("izer", "ize"),
            ("ization", "ize"),
            ("ational", "ate"),
            ("ation", "ate"),
            ("ator", "ate"),
            ("alism", "al"),
            ("aliti", "al"),
            ("alli", "al"),
            ("fulness", "ful"),
            ("ousli", "ous"),
            ("ousness", "ous"),
            ("iveness", "ive"),
            ("iviti", "ive"),
            ("biliti", "ble"),
            ("bli", "ble"),
            ("ogi", "og"),
            ("fulli", "ful"),
            ("lessli", "less"),
            ("li", ""),
        ];
        let Some((ending, with, before)) = self.known_ending(&endings) else { return };
        let preceding = before.checked_sub(1).map(|at| self.text[at]);
        let fits = match ending {
            "ogi" => preceding == Some(b'l'),
            "li" => preceding.is_some_and(|letter| b"cdeghkmnrt".contains(&letter)),
            _ => true,
        };
        if before >= self.r1 && fits {
            self.replace(ending, with);
        }
    }

    fn middle_endings(&mut self) {
        let endings = [
            ("tional", "tion"),
            ("ational", "ate"),
            ("alize", "al"),
            ("icate", "ic"),
            ("iciti", "ic"),
            ("ical", "ic"),
            ("ful", ""),
            ("ness", ""),
            ("ative", ""),
        ];
        let Some((ending, with, before)) = self.known_ending(&endings) else { return };
        let region = if ending == "ative" { self.r2 } else { self.r1 };
        if before >= region {
            self.replace(ending, with);
        }
    }

    fn short_endings(&mut self) {
        let endings = [
            "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ism",
            "ate", "iti", "ous", "ive", "ize", "ion",
        ];
        let Some(ending) = self.ending(endings) else { return };
        let before = self.before(ending);
        let fits = ending != "ion"
            || self.text[..before].ends_with(b"s")
            || self.text[..before].ends_with(b"t");
        if before >= self.r2 && fits {
            self.replace(ending, "");
        }
    }

    fn last_letter(&mut self) {
        let Some(last) = self.text.len().checked_sub(1) else { return };
        let goes = match self.text[last] {
            b'e' => last >= self.r2 || (last >= self.r1 && !self.is_short_at(last)),
            b'l' => last >= self.r2 && self.text[..last].ends_with(b"l"),
            _ => false,
        };
        if goes {
            self.text.pop();
        }
    }

    /// The longest known ending that the word has, what takes its place, and where it begins.
    fn known_ending(
        &self,
        endings: &[(&'static str, &'static str)],
    ) -> Option<(&'static str, &'static str, usize)> {
        let ending = self.ending(endings.iter().map(|(ending, _)| *ending))?;
        let (_, with) = endings.iter().find(|(known, _)| *known == ending)?;
        Some((ending, with, self.before(ending)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_come_off() {
        let cases = "consign consign, consigned consign, consigning consign, consignment consign, \
             consist consist, consisted consist, consistency consist, consistent consist, \
             consistently consist, consisting consist, consists consist, consolation consol, \
             consolations consol, consolatory consolatori, console consol, consoled consol, \
             consolidate consolid, consolidated consolid, consoling consol, consolingly consol, \
             conspicuous conspicu, conspicuously conspicu, conspiracy conspiraci, \
             conspirators conspir, constable constabl, constancy constanc, constant constant, \
             knack knack, knackeries knackeri, knave knave, knavish knavish, kneading knead, \
             knee knee, kneeling kneel, knees knee, knell knell, knightly knight, knits knit, \
             knitting knit, knives knive, knocker knocker, knopp knopp, databases databas, \
             database databas, passwords password, production product, prod prod, billing bill, \
             secrets secret, policies polici, policy polici, hosts host, running run, hoped hope, \
             hopping hop, agreed agre, feed feed, ties tie, cries cri, gas gas, this this, \
             generate generat, generally general, communication communic, relational relat, \
             vietnamization vietnam, sensibility sensibl, goodness good, hopefully hope, \
             skies sky, news news, succeeding succeed, youth youth, boyish boyish, say say, by by";
        for case in cases.split(", ") {
            let (word, stemmed) = case.trim().split_once(' ').unwrap();
            let found = stem(word);
            // Words that say nothing are none.
            let wanted = (!["this", "by"].contains(&word)).then(|| stemmed.to_owned());
            assert_eq!(found, wanted, "{word}");
        }
    }

    #[test]
    fn what_is_no_english_word_stays() {
        for word in ["db", "web01", "übung", "ünïcödés", "s3", "x"] {
            assert_eq!(stem(word).as_deref(), Some(word));
        }
        assert!(SAY_NOTHING.is_sorted());
        for word in SAY_NOTHING {
            assert_eq!(stem(word), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_word_has_a_stem_that_is_not_longer_by_more_than_a_letter(word in "[a-z]{1,20}") {
            let stemmed = stem(&word).unwrap_or_default();
            proptest::prop_assert!(stemmed.len() <= word.len() + 1);
        }
    }
}
