//! Parameters in a body, for the few routes that take them there: a form, or a JSON object that is
//! read as if it had been a form. They are laid over those of the query.

use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::Value;

use super::query::Query;
use crate::context::Call;
use crate::error::Refusal;

/// Deepest nesting read; what lies deeper is no parameter of ours.
const DEPTH_MAX: usize = 4;

impl Call {
    /// The parameters of query and body. A media type that is neither form nor JSON has none.
    pub(crate) async fn take_params(&mut self) -> Result<Query, Refusal> {
        let media_type = self.header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        let media_type = media_type.to_ascii_lowercase();
        let body = self.take_body(self.door.settings().body_bytes_max).await?;
        let malformed = || Refusal::Empty(StatusCode::BAD_REQUEST);
        // What is no media type at all counts as none.
        let sent = match media_type.as_str() {
            "application/json" if body.iter().all(u8::is_ascii_whitespace) => Query::default(),
            "application/json" => {
                let value: Value = serde_json::from_slice(&body).map_err(|_no_json| malformed())?;
                if !value.is_object() {
                    return Err(malformed());
                }
                let mut pairs = Vec::new();
                flatten(String::new(), &value, 0, &mut pairs);
                Query::of(pairs)
            }
            "" | "application/x-www-form-urlencoded" => {
                Query::parse(std::str::from_utf8(&body).map_err(|_not_text| malformed())?)
            }
            other if other.contains('/') => Query::default(),
            _ => Query::parse(std::str::from_utf8(&body).map_err(|_not_text| malformed())?),
        };
        Ok(sent.over(&self.query))
    }
}

fn flatten(name: String, value: &Value, depth: usize, pairs: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Bool(flag) => pairs.push((name, flag.to_string())),
        Value::Number(number) => pairs.push((name, number.to_string())),
        Value::String(text) => pairs.push((name, text.clone())),
        Value::Array(_) | Value::Object(_) if depth >= DEPTH_MAX => {}
        Value::Array(items) => {
            for item in items {
                flatten(format!("{name}[]"), item, depth + 1, pairs);
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                let name = if depth == 0 { key.clone() } else { format!("{name}[{key}]") };
                flatten(name, field, depth + 1, pairs);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_objects_are_read_as_forms() {
        let value = serde_json::json!({
            "cidr": ["10.0.0.0/8", "::1"], "count": 2, "annotations": {"a/b": "c"}, "no": null,
        });
        let mut pairs = Vec::new();
        flatten(String::new(), &value, 0, &mut pairs);
        let params = Query::of(pairs).over(&Query::parse("count=1&cidr=1.1.1.1&keep=me"));
        assert_eq!(params.values("cidr").collect::<Vec<_>>(), ["10.0.0.0/8", "::1"]);
        assert_eq!(params.value("count"), Some("2"));
        assert_eq!(params.value("annotations[a/b]"), Some("c"));
        assert_eq!(params.value("keep"), Some("me"));
        assert!(!params.has("no"));
    }
}
