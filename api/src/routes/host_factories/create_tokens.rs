//! `POST /host_factory_tokens`: tokens for those who may hand them out. They are sealed here; the log
//! holds what is sealed and their digests.

use conclave_domain::command::{Actor, Command};
use conclave_domain::id::{Id, IdError, Kind, ResourceId};
use conclave_domain::outcome::Outcome;
use conclave_domain::policy::parse_range;
use conclave_domain::records::NewApiKey;
use conclave_domain::time::Timestamp;
use ipnet::IpNet;
use zeroize::Zeroizing;

use super::{open, seal};
use crate::authz;
use crate::context::{Answer, Call, wiped_bytes};
use crate::credentials::{api_key_digest, new_api_key};
use crate::error::Refusal;
use crate::token::sha256;
use crate::wire::query::Query;
use crate::wire::{json, time};

/// Most tokens made by one request.
const TOKENS_MAX: usize = 1000;

pub(crate) async fn create(call: &mut Call) -> Result<Answer, Refusal> {
    let params = call.take_params().await?;
    let user = call.user();
    let named = params.filled("host_factory").unwrap_or_default().to_owned();
    call.deed(
        "host-factory",
        "create-tokens",
        vec![("resource".into(), named.clone())],
        format!("{user} created tokens of {named}"),
        format!("{user} tried to create tokens of {named}"),
    );
    let asked = Asked::of(&params, call.now)?;
    let factory = asked.factory.clone();
    let permit = call
        .check_write(|view, caller| authz::require(view.state, &caller.role, "execute", &factory))
        .await?;
    let vault = call.door.vault()?;
    let mut fresh = Vec::with_capacity(asked.count);
    let mut tokens = Vec::with_capacity(asked.count);
    for _ in 0..asked.count {
        let token = new_api_key()?;
        let sealed = seal(&vault, &factory, &token)?;
        tokens.push(NewApiKey { sealed, digest: api_key_digest(token.as_bytes()) });
        fresh.push(token);
    }
    let made: Vec<_> = tokens.iter().map(|token| token.digest).collect();
    let actor = Actor::Role(permit.role().clone());
    let id = call.command_id(&sha256(params.text().as_bytes()))?;
    let command = Command::CreateHostFactoryTokens {
        factory,
        tokens,
        cidr: asked.cidr.clone(),
        expires_at: asked.expires_at,
        uses: asked.uses,
    };
    let outcome = call.propose(id, actor, command).await??;
    let Outcome::HostFactoryTokensIssued { digests } = outcome else {
        return Err(Refusal::Fault(format!("new tokens were answered {outcome:?}")));
    };
    if digests == made {
        return Ok(answer(&asked, fresh.iter().map(|token| token.as_str())));
    }
    // The log knew this request already: the tokens are those of the first try.
    call.wait_for_seen(call.index).await?;
    let kept = call.open_view(|view| {
        let kept = digests.iter().filter_map(|digest| open(&vault, view.state, digest));
        Ok(kept.collect::<Vec<_>>())
    })?;
    Ok(answer(
        &asked,
        kept.iter().filter_map(|kept| std::str::from_utf8(kept.expose_secret()).ok()),
    ))
}

/// What a request wants.
struct Asked {
    factory: ResourceId,
    expires_at: Timestamp,
    count: usize,
    cidr: Vec<IpNet>,
    uses: Option<u32>,
}

impl Asked {
    fn of(params: &Query, now: Timestamp) -> Result<Self, Refusal> {
        let wanted = |name: &'static str| {
            params.filled(name).ok_or_else(|| Refusal::Argument(name.to_owned()))
        };
        let named = wanted("host_factory")?;
        let expiration = wanted("expiration")?;
        let factory = match Id::parse(named, None) {
            Ok(id) if id.kind() == Kind::HostFactory => id,
            Ok(id) => {
                return Err(Refusal::Argument(format!("Invalid resource kind: {}", id.kind())));
            }
            Err(error @ IdError::TooFewTokens(_)) => return Err(error.into()),
            Err(_names_nothing) => return Err(Refusal::missing_text(named)),
        };
        let expires_at = time::parse_iso8601(expiration).ok_or_else(|| {
            Refusal::Argument(format!("Input is invalid ISO8601 datetime string: {expiration}"))
        })?;
        if expires_at <= now {
            return Err(Refusal::Argument(format!(
                "Value for parameter expiration must be in the future: {expiration}"
            )));
        }
        let count = match params.value("count") {
            None => 1,
            Some(text) => {
                let number = text.trim().parse().ok();
                number.filter(|count| (1..=TOKENS_MAX).contains(count)).ok_or_else(|| {
                    Refusal::Argument(format!("Invalid value for parameter 'count': {text}"))
                })?
            }
        };
        let uses = match params.value("max_uses") {
            None => None,
            Some(text) => {
                let number = text.trim().parse().ok().filter(|uses| *uses > 0);
                let wrong = || format!("Invalid value for parameter 'max_uses': {text}");
                Some(number.ok_or_else(|| Refusal::Argument(wrong()))?)
            }
        };
        let ranges = params.values("cidr").map(parse_range);
        let cidr = ranges
            .collect::<Result<_, _>>()
            .map_err(|error| Refusal::Unprocessable(error.to_string()))?;
        Ok(Self { factory, expires_at, count, cidr, uses })
    }
}

/// `[{"expiration":…,"cidr":[…],"token":…}, …]`, wiped after it has left; with `uses_left` where a number was asked
/// for.
fn answer<'a>(asked: &Asked, tokens: impl Iterator<Item = &'a str>) -> Answer {
    let cidr: Vec<String> = asked.cidr.iter().map(ToString::to_string).collect();
    let each = 160 + cidr.iter().map(|range| range.len() + 4).sum::<usize>();
    // Sized for all of it, so that growing leaves no copy of a token behind.
    let mut body = Zeroizing::new(Vec::with_capacity(each * asked.count + 16));
    body.push(b'[');
    for (at, token) in tokens.enumerate() {
        body.extend_from_slice(if at > 0 { b",{" } else { b"{" });
        body.extend_from_slice(b"\"expiration\":");
        json::write(&mut body, &time::whole_seconds(asked.expires_at));
        body.extend_from_slice(b",\"cidr\":");
        json::write(&mut body, &cidr);
        body.extend_from_slice(b",\"token\":");
        json::write(&mut body, &token);
        if let Some(uses) = asked.uses {
            body.extend_from_slice(b",\"uses_left\":");
            json::write(&mut body, &uses);
        }
        body.push(b'}');
    }
    body.push(b']');
    Answer::json_bytes(wiped_bytes(body))
}
