//! What the body of an issuer must be. Problems of its frame are 400, problems of its credentials 422,
//! as in Conjur.

use serde_json::{Map, Value, json};

use super::bad;
use crate::context::Call;
use crate::error::Refusal;
use crate::wire::json::{Wiped, wipe};

const ID_BYTES_MAX: usize = 60;
const TTL_MIN: u64 = 900;
const TTL_MAX: u64 = 43_200;
/// How long the secret half of a key is.
const SECRET_CHARACTERS: usize = 40;

/// What a body asks for; what it leaves out is none.
pub(super) struct Asked {
    pub(super) id: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) max_ttl: Option<u32>,
    pub(super) data: Option<Wiped>,
}

/// Reads a body that may hold `known` names only.
pub(super) async fn take(call: &mut Call, known: &[&str]) -> Result<(Asked, [u8; 32]), Refusal> {
    let body = call.take_body(call.door.settings().body_bytes_max).await?;
    let digest = crate::token::sha256(&body);
    let Ok(Value::Object(mut object)) = serde_json::from_slice(&body) else {
        return Err(Refusal::Empty(http::StatusCode::BAD_REQUEST));
    };
    let asked = asked(&object, known);
    object.values_mut().for_each(wipe);
    Ok((asked?, digest))
}

fn asked(object: &Map<String, Value>, known: &[&str]) -> Result<Asked, Refusal> {
    let id = id(object, known)?;
    let max_ttl = max_ttl(object)?;
    let kind = match object.get("type") {
        None => None,
        Some(Value::String(kind)) => Some(kind.clone()),
        Some(_) => return Err(bad("the 'type' parameter must be a string")),
    };
    if object.keys().any(|name| !known.contains(&name.as_str())) {
        let (last, first) = known.split_last().unwrap_or((&"", &[]));
        return Err(bad(format!(
            "invalid parameter received in the request body. Only {} and {last} are allowed",
            first.join(", ")
        )));
    }
    let data = match object.get("data") {
        None => None,
        Some(data) => Some(credentials(data)?),
    };
    Ok(Asked { id, kind, max_ttl, data })
}

fn id(object: &Map<String, Value>, known: &[&str]) -> Result<Option<String>, Refusal> {
    let id = match object.get("id") {
        _ if !known.contains(&"id") => return Ok(None),
        None => return Ok(None),
        Some(Value::String(id)) => id,
        Some(_) => return Err(bad("the 'id' parameter must be a string")),
    };
    if id.len() > ID_BYTES_MAX {
        return Err(bad(format!(
            "'id' parameter length exceeded. Limit the length to {ID_BYTES_MAX} characters"
        )));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '_' | '-');
    if id.is_empty() || !id.chars().all(fits) {
        return Err(bad(
            "invalid 'id' parameter. Only the following characters are supported: A-Z, a-z, 0-9, +, \
             -, and _",
        ));
    }
    Ok(Some(id.clone()))
}

fn max_ttl(object: &Map<String, Value>) -> Result<Option<u32>, Refusal> {
    let max_ttl = match object.get("max_ttl") {
        None => return Ok(None),
        Some(max_ttl) => max_ttl.as_u64().filter(|max_ttl| *max_ttl > 0),
    };
    let max_ttl =
        max_ttl.ok_or_else(|| bad("the 'max_ttl' parameter must be a positive integer"))?;
    if !(TTL_MIN..=TTL_MAX).contains(&max_ttl) {
        return Err(bad(format!(
            "the 'max_ttl' parameter must be a between {TTL_MIN} and {TTL_MAX}"
        )));
    }
    Ok(u32::try_from(max_ttl).ok())
}

/// Refuses a body that lacks a name.
pub(super) fn need<T>(value: Option<T>, name: &str) -> Result<T, Refusal> {
    value.ok_or_else(|| bad(required(name)))
}

fn required(name: &str) -> String {
    format!("{name} is a required parameter and must be specified")
}

/// The credentials, checked, and nothing beside them.
fn credentials(data: &Value) -> Result<Wiped, Refusal> {
    let unfit = |text: String| Refusal::Unprocessable(text);
    let Value::Object(data) = data else {
        return Err(unfit("the 'data' parameter must be an object".to_owned()));
    };
    let text = |name: &str| match data.get(name) {
        None => Err(unfit(required(name))),
        Some(Value::String(text)) if text.is_empty() => Err(unfit(required(name))),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(unfit(format!("the '{name}' parameter must be a string"))),
    };
    let (key_id, secret) = (text("access_key_id")?, text("secret_access_key")?);
    let is_upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
    if !(16..=128).contains(&key_id.len()) || !key_id.chars().all(is_upper) {
        return Err(unfit(
            "invalid 'access_key_id' parameter format. The access key ID must be a valid access key \
             ID, of capital letters and digits"
                .to_owned(),
        ));
    }
    let in_secret = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    if secret.chars().count() != SECRET_CHARACTERS || !secret.chars().all(in_secret) {
        return Err(unfit(format!(
            "invalid 'secret_access_key' parameter format. The secret access key must be \
             {SECRET_CHARACTERS} characters long"
        )));
    }
    if data.len() > 2 {
        return Err(unfit(
            "invalid parameter received in data. Only access_key_id and secret_access_key are allowed"
                .to_owned(),
        ));
    }
    Ok(Wiped(json!({"access_key_id": key_id, "secret_access_key": secret})))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(body: &Value) -> (u16, String) {
        let known = ["id", "type", "max_ttl", "data"];
        match asked(body.as_object().unwrap(), &known) {
            Ok(_) => (200, String::new()),
            Err(refusal) => (refusal.status().as_u16(), refusal.reason().into_owned()),
        }
    }

    #[test]
    fn bodies_are_checked_in_frame_and_credentials() {
        let good =
            json!({"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "a".repeat(40)});
        assert_eq!(reason(&json!({"id": "a+b-c_1", "max_ttl": 900, "data": good})).0, 200);
        for (body, status, part) in [
            (json!({"id": "a b"}), 400, "characters are supported"),
            (json!({"id": "a".repeat(61)}), 400, "length"),
            (json!({"max_ttl": "900"}), 400, "must be a positive integer"),
            (json!({"max_ttl": -1}), 400, "must be a positive integer"),
            (json!({"max_ttl": 899}), 400, "must be a between 900 and 43200"),
            (json!({"max_ttl": 43_201}), 400, "must be a between 900 and 43200"),
            (json!({"x": 1}), 400, "Only id, type, max_ttl and data are allowed"),
            (
                json!({"data": {}}),
                422,
                "access_key_id is a required parameter and must be specified",
            ),
            (
                json!({"data": {"access_key_id": "lower", "secret_access_key": "a".repeat(40)}}),
                422,
                "invalid 'access_key_id' parameter format",
            ),
            (
                json!({"data": {"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "a"}}),
                422,
                "40",
            ),
        ] {
            let (found, text) = reason(&body);
            assert!(found == status && text.contains(part), "{body}: {found} {text}");
        }
    }
}
