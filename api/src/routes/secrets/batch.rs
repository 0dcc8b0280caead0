//! `GET /secrets?variable_ids=…`: many values in one document.
//!
//! Permission on every id that exists is looked at before existence, and a forbidden one is 403 even
//! when it cannot be seen: clients rely on it.

use std::collections::HashSet;

use conclave_domain::id::{Kind, ResourceId};
use conclave_domain::rbac;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue};
use zeroize::Zeroizing;

use super::{NO_ENGINE, is_dynamic, sealed_value};
use crate::context::{Answer, Call, wiped_bytes};
use crate::error::Refusal;
use crate::wire::{base64, json};

/// Most ids in one request.
const IDS_MAX: usize = 1000;
/// Most dynamic secrets among them: each would be issued for this request.
const DYNAMIC_MAX: usize = 10;

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let asked = asked(call)?;
    let user = call.user();
    for text in &asked {
        let (did, tried) =
            (format!("{user} fetched {text}"), format!("{user} tried to fetch {text}"));
        call.deed("fetch", "fetch", vec![("resource".into(), text.clone())], did, tried);
    }
    let as_base64 = call
        .header(ACCEPT_ENCODING.as_str())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case("base64"));
    let ids: Vec<Option<ResourceId>> = asked
        .iter()
        .map(|text| text.parse().ok().filter(|id: &ResourceId| id.kind() == Kind::Variable))
        .collect();
    let settings = call.door.settings();
    let dynamic = ids.iter().flatten().filter(|id| is_dynamic(&settings, id)).count();
    drop(settings);
    if dynamic > DYNAMIC_MAX {
        return Err(Refusal::Unprocessable(format!(
            "A request cannot contain more than {DYNAMIC_MAX} dynamic secrets"
        )));
    }
    let sealed = call
        .view(|view, caller| {
            let known = |id: &ResourceId| view.state.resource(id).is_some();
            for id in ids.iter().flatten().filter(|id| known(id)) {
                if !rbac::is_allowed(view.state, &caller.role, "execute", id) {
                    return Err(Refusal::FORBIDDEN);
                }
            }
            let missing = |text: &String| Refusal::SecretMissing { id: text.clone() };
            let mut there = Vec::with_capacity(ids.len());
            for (text, id) in asked.iter().zip(&ids) {
                let id = id.as_ref().filter(|id| known(id)).ok_or_else(|| missing(text))?;
                there.push((text, id));
            }
            if dynamic > 0 {
                return Err(Refusal::Unprocessable(NO_ENGINE.to_owned()));
            }
            let mut sealed = Vec::with_capacity(ids.len());
            for (text, id) in there {
                let value = sealed_value(view, id, None)?.ok_or_else(|| missing(text))?;
                sealed.push((text, id, value));
            }
            Ok(sealed)
        })
        .await?;
    let vault = call.door.vault()?;
    let mut values = Vec::with_capacity(sealed.len());
    let mut size = 2;
    for (text, id, sealed) in sealed {
        let value = vault
            .open(id, &sealed)
            .map_err(|fault| Refusal::Fault(format!("value of {id}: {fault}")))?;
        size += text.len() * 2 + value.expose_secret().len() * 2 + 16;
        values.push((text, value));
    }
    // Sized for all of it, so that growing leaves no copy of a value behind.
    let mut body = Zeroizing::new(Vec::with_capacity(size));
    body.push(b'{');
    for (at, (text, value)) in values.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        json::write(&mut body, text);
        body.push(b':');
        if as_base64 {
            let mut encoded =
                Zeroizing::new(String::with_capacity(value.expose_secret().len() * 2));
            base64::encode_mime(value.expose_secret(), &mut encoded);
            json::write(&mut body, &*encoded);
        } else {
            let plain = std::str::from_utf8(value.expose_secret());
            json::write(&mut body, &plain.map_err(|_not_text| Refusal::NotUtf8)?);
        }
    }
    body.push(b'}');
    let answer = Answer::json_bytes(wiped_bytes(body));
    Ok(if as_base64 {
        answer.header(CONTENT_ENCODING, HeaderValue::from_static("base64"))
    } else {
        answer
    })
}

/// The ids asked for, each once.
fn asked(call: &Call) -> Result<Vec<String>, Refusal> {
    let refused = || Refusal::Argument("variable_ids".to_owned());
    let list = call.query.filled("variable_ids").ok_or_else(refused)?;
    let list = list.trim_end_matches(',');
    let mut seen = HashSet::new();
    let mut ids = Vec::new();
    for id in list.split(',') {
        if id.trim().is_empty() || ids.len() >= IDS_MAX {
            return Err(refused());
        }
        if seen.insert(id) {
            ids.push(id.to_owned());
        }
    }
    Ok(ids)
}
