//! What a cloud says of a machine, against what annotations of its host want. Pure.

use super::Denied;

/// One thing that annotations may want: its name there, and what the machine's proof says; nothing
/// where it does not speak of that.
pub(super) type Fact<'a> = (&'static str, Option<&'a str>);

/// Whether every annotation is one of the facts, and says what the proof says.
pub(super) fn agree(wanted: &[(String, String)], facts: &[Fact<'_>]) -> Result<(), Denied> {
    for (name, value) in wanted {
        let Some((_, found)) = facts.iter().find(|(known, _)| known == name) else {
            let all: Vec<&str> = facts.iter().map(|(known, _)| *known).collect();
            return Err(Denied::new(format!(
                "CONJ00050E Annotation '{name}' is none of {}",
                all.join(", ")
            )));
        };
        // What is empty says nothing, and is not the same as what else says nothing.
        match found.filter(|found| !found.is_empty()) {
            None => {
                return Err(Denied::new(format!("CONJ00051E The token says nothing of '{name}'")));
            }
            Some(found) if found == value => {}
            Some(_) => {
                let why = format!("CONJ00049E '{name}' is not what its annotation says");
                return Err(Denied::new(why));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_annotation_must_be_a_fact_that_comes_true() {
        let facts = [("project", Some("p")), ("zone", None), ("name", Some(""))];
        let judged = |wanted: &[(&str, &str)]| {
            let wanted: Vec<_> =
                wanted.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            agree(&wanted, &facts).err().map(|denied| denied.reason[..10].to_owned())
        };
        assert_eq!(judged(&[]), None);
        assert_eq!(judged(&[("project", "p")]), None);
        for (wanted, code) in [
            (&[("project", "q")][..], "CONJ00049E"),
            (&[("project", "P")][..], "CONJ00049E"),
            (&[("project", "")][..], "CONJ00049E"),
            (&[("zone", "z")][..], "CONJ00051E"),
            (&[("zone", "")][..], "CONJ00051E"),
            (&[("name", "")][..], "CONJ00051E"),
            (&[("colour", "red")][..], "CONJ00050E"),
            (&[("project", "p"), ("zone", "z")][..], "CONJ00051E"),
        ] {
            assert_eq!(judged(wanted).as_deref(), Some(code), "{wanted:?}");
        }
    }
}
