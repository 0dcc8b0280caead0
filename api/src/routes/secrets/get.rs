//! `GET /secrets/{account}/variable/{id}[?version=N]`: one value, as it was stored.

use conclave_domain::id::ResourceId;
use conclave_domain::rbac;
use conclave_domain::records::Version;
use http::header::{CONTENT_DISPOSITION, HeaderValue};

use super::{NO_ENGINE, is_dynamic, require_execute, sealed_value};
use crate::context::{Answer, Call, secret_bytes};
use crate::error::Refusal;

/// The annotation that names a value's media type.
const MIME_TYPE: &str = "conjur/mime_type";

pub(crate) async fn show(call: &mut Call) -> Result<Answer, Refusal> {
    let resource = call.id()?;
    let version = call.query.value("version").map(str::to_owned);
    describe(call, &resource, version.as_deref());
    let version = version.as_deref().map(parse_version).transpose()?;
    let mut unseen = false;
    let is_dynamic = is_dynamic(&call.door.settings(), &resource);
    let found = call
        .view(|view, caller| {
            unseen = !rbac::is_visible(view.state, &caller.role, &resource);
            require_execute(view, &caller.role, &resource)?;
            if is_dynamic {
                return Err(Refusal::Unprocessable(NO_ENGINE.to_owned()));
            }
            let sealed = sealed_value(view, &resource, version)?
                .ok_or_else(|| Refusal::secret_missing(&resource))?;
            let mime_type = view
                .state
                .annotations(&resource)
                .find(|(name, _)| *name == MIME_TYPE)
                .map(|(_, annotation)| annotation.value.clone());
            Ok((sealed, mime_type))
        })
        .await;
    if unseen && matches!(found, Err(Refusal::SecretMissing { .. })) {
        call.reason = Some("Forbidden".into());
    }
    let (sealed, mime_type) = found?;
    let value = call
        .door
        .vault()?
        .open(&resource, &sealed)
        .map_err(|fault| Refusal::Fault(format!("value of {resource}: {fault}")))?;
    let mut answer = Answer::text(secret_bytes(value))
        .header(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    answer.content_type = mime_type
        .and_then(|text| HeaderValue::from_str(&text).ok())
        .or(Some(HeaderValue::from_static("application/octet-stream")));
    Ok(answer)
}

fn parse_version(text: &str) -> Result<Version, Refusal> {
    // A number that is none of ours names no version; what is no number is a mistake.
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::Argument("invalid type for parameter 'version'".to_owned()));
    }
    Ok(Version(text.parse().unwrap_or(0)))
}

fn describe(call: &mut Call, resource: &ResourceId, version: Option<&str>) {
    let user = call.user();
    let what = match version {
        Some(version) => format!("version {version} of {resource}"),
        None => resource.to_string(),
    };
    let mut subject = vec![("resource".into(), resource.to_string())];
    subject.extend(version.map(|version| ("version".into(), version.to_owned())));
    let (did, tried) = (format!("{user} fetched {what}"), format!("{user} tried to fetch {what}"));
    call.deed("fetch", "fetch", subject, did, tried);
}
