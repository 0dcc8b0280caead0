//! Parameters in request bodies, for the few routes whose body is not opaque.

use http::header::CONTENT_TYPE;
use serde_json::Value;

use super::query::Query;
use crate::context::Call;
use crate::error::Refusal;
use http::StatusCode;

/// Largest body that holds parameters, in bytes.
const BYTES_MAX: usize = 64 << 10;

impl Call {
    /// The parameters of the body laid over those of the query. A body without a type is a form; one
    /// of a type that holds no parameters is passed by.
    pub(crate) async fn parameters(&mut self) -> Result<Query, Refusal> {
        let body = self.take_body(BYTES_MAX).await?;
        let media_type = match self.headers.get(CONTENT_TYPE) {
            None => "",
            // A type that cannot be read counts as none.
            Some(value) => value.to_str().unwrap_or_default(),
        };
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        let mut query = self.query.clone();
        match media_type.to_ascii_lowercase().as_str() {
            "" | "application/x-www-form-urlencoded" => {
                let text = String::from_utf8_lossy(&body);
                query.extend(Query::parse(&text));
            }
            "application/json" if !body.iter().all(u8::is_ascii_whitespace) => {
                let document: Value = serde_json::from_slice(&body)
                    .map_err(|_not_json| Refusal::Empty(StatusCode::BAD_REQUEST))?;
                let Value::Object(fields) = document else {
                    return Err(Refusal::Empty(StatusCode::BAD_REQUEST));
                };
                for (name, value) in fields {
                    lay(&mut query, name, value);
                }
            }
            _ => {}
        }
        Ok(query)
    }
}

/// Lays one JSON value over the parameters, nested ones under nested names.
fn lay(query: &mut Query, name: String, value: Value) {
    match value {
        Value::Null => query.set(name, String::new()),
        Value::Bool(flag) => query.set(name, flag.to_string()),
        Value::Number(number) => query.set(name, number.to_string()),
        Value::String(text) => query.set(name, text),
        Value::Array(items) => {
            for item in items {
                lay(query, format!("{name}[]"), item);
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                lay(query, format!("{name}[{key}]"), value);
            }
        }
    }
}
