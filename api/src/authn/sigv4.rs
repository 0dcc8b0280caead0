//! Requests to Amazon's Security Token Service that a client has signed (Signature Version 4) and hands
//! over as a JSON object of headers. Pure. The signature is the service's to judge; here is seen to it
//! that this one question, and nothing else, goes to that service, and to nobody else.

use std::fmt;

use conclave_domain::time::Timestamp;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use time::{Date, Month, PrimitiveDateTime, Time};
use zeroize::Zeroizing;

/// Headers that may be signed.
const SIGNABLE: [&str; 4] = ["host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"];
/// Headers that no policy makes signable: those that belong to a connection or say what is answered.
const NEVER: [&str; 15] = [
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];
/// Most headers looked at.
const HEADERS_MAX: usize = 32;
/// How old a signature may be, in milliseconds, as for the service itself.
const AGE_MAX_MS: i64 = 15 * 60 * 1000;
/// How far the client's clock may be ahead, in milliseconds.
const AHEAD_MAX_MS: i64 = 5 * 60 * 1000;
/// The region of what is signed for the endpoint that has none.
const GLOBAL_REGION: &str = "us-east-1";
/// Regions with an endpoint of its own for clients that must use validated cryptography; those of the
/// partition for governments have no other, by their usual name.
const FIPS_REGIONS: [&str; 4] = ["us-east-1", "us-east-2", "us-west-1", "us-west-2"];
/// Regions of China, whose endpoints are below a domain of their own.
const CHINA_REGIONS: [&str; 2] = ["cn-north-1", "cn-northwest-1"];

/// A request as it is sent on.
#[derive(Debug)]
pub(crate) struct SignedRequest {
    /// The endpoint that it was signed for.
    pub(crate) host: String,
    /// The partition of that endpoint, as names of roles begin with it.
    pub(crate) partition: &'static str,
    /// The headers that were signed, and the signature.
    pub(crate) headers: HeaderMap,
}

impl SignedRequest {
    /// Reads a JSON object of headers. `extra` are headers that may be signed besides the usual ones.
    pub(crate) fn parse(
        body: &[u8],
        extra: &[HeaderName],
        now: Timestamp,
    ) -> Result<Self, &'static str> {
        let Fields(fields) =
            serde_json::from_slice(body).map_err(|_| "they are no JSON object of texts")?;
        let find = |name: &str| {
            let mut found = fields.iter().filter(|(known, _)| known == name);
            match (found.next(), found.next()) {
                (Some((_, value)), None) => Ok(Some(value.as_str())),
                (None, _) => Ok(None),
                (Some(_), Some(_)) => Err("a header stands there twice"),
            }
        };
        let authorization = find("authorization")?.ok_or("there is no authorization")?;
        let signed = Authorization::parse(authorization)?;
        let mut headers = HeaderMap::new();
        for name in &signed.headers {
            if !SIGNABLE.contains(name) && !extra.iter().any(|known| known == name) {
                return Err("a header is signed that is not allowed");
            }
            let value = find(name)?.ok_or("a signed header is missing")?;
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "no name")?;
            if headers.insert(header, header_value(value)?).is_some() {
                return Err("a header is signed twice");
            }
        }
        let is_signed = |name| signed.headers.contains(&name);
        if !is_signed("host") || !is_signed("x-amz-date") {
            return Err("host and x-amz-date must be signed");
        }
        if find("x-amz-security-token")?.is_some() && !is_signed("x-amz-security-token") {
            return Err("x-amz-security-token must be signed");
        }
        let host = find("host")?.unwrap_or_default();
        let (region, partition) = endpoint(host).ok_or("host is no endpoint of STS")?;
        if region != signed.region {
            return Err("the signature is for another region than host");
        }
        let date = find("x-amz-date")?.unwrap_or_default();
        let at = instant(date).ok_or("x-amz-date is no time")?;
        if !date.starts_with(signed.date) {
            return Err("the signature is of another day than x-amz-date");
        }
        if at < now.0 - AGE_MAX_MS {
            return Err("x-amz-date is over 15 minutes ago");
        }
        if at > now.0 + AHEAD_MAX_MS {
            return Err("x-amz-date lies ahead");
        }
        headers.insert(http::header::AUTHORIZATION, header_value(authorization)?);
        Ok(Self { host: host.to_owned(), partition, headers })
    }
}

/// Headers that policy lets clients sign besides the usual ones, apart by semicolons.
pub(crate) fn extra_headers(list: &str) -> Result<Vec<HeaderName>, String> {
    let names = list.split(';').map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let header = HeaderName::try_from(name).ok();
            header
                .filter(|header| !NEVER.contains(&header.as_str()))
                .ok_or_else(|| format!("{name:?} is no header that may be signed"))
        })
        .collect()
}

fn header_value(text: &str) -> Result<HeaderValue, &'static str> {
    // Letters beyond ASCII, and control characters, stand in no header that is signed.
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.trim() == text;
    let value = HeaderValue::try_from(text).ok().filter(|_| is_plain && !text.is_empty());
    let mut value = value.ok_or("a header is empty, or holds what no header does")?;
    value.set_sensitive(true);
    Ok(value)
}

/// What `Authorization` says of what was signed.
struct Authorization<'a> {
    /// Day, as `20260131`.
    date: &'a str,
    region: &'a str,
    headers: Vec<&'a str>,
}

impl<'a> Authorization<'a> {
    fn parse(text: &'a str) -> Result<Self, &'static str> {
        let unfit = "authorization is no signature of version 4";
        let rest = text.strip_prefix("AWS4-HMAC-SHA256 ").ok_or(unfit)?;
        let (mut credential, mut headers, mut signature) = (None, None, None);
        for part in rest.split(',') {
            let (name, value) = part.trim().split_once('=').ok_or(unfit)?;
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut headers,
                "Signature" => &mut signature,
                _ => return Err(unfit),
            };
            if place.replace(value).is_some() {
                return Err(unfit);
            }
        }
        let (Some(credential), Some(headers), Some(signature)) = (credential, headers, signature)
        else {
            return Err(unfit);
        };
        if signature.len() != 64 || !signature.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(unfit);
        }
        let scope: Vec<&str> = credential.split('/').collect();
        let [key, date, region, "sts", "aws4_request"] = scope[..] else {
            return Err("the signature is for another service than STS");
        };
        let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_key || date.len() != 8 {
            return Err(unfit);
        }
        Ok(Self { date, region, headers: headers.split(';').collect() })
    }
}

/// The region whose endpoint a host is, and its partition; nothing for any other host.
fn endpoint(host: &str) -> Option<(&str, &'static str)> {
    if host == "sts.amazonaws.com" {
        return Some((GLOBAL_REGION, "aws"));
    }
    if let Some(rest) = host.strip_suffix(".amazonaws.com.cn") {
        let region = rest.strip_prefix("sts.")?;
        return CHINA_REGIONS.contains(&region).then_some((region, "aws-cn"));
    }
    let rest = host.strip_suffix(".amazonaws.com")?;
    if let Some(region) = rest.strip_prefix("sts-fips.") {
        return FIPS_REGIONS.contains(&region).then_some((region, "aws"));
    }
    let region = rest.strip_prefix("sts.")?;
    let partition = if region.starts_with("us-gov-") { "aws-us-gov" } else { "aws" };
    is_region(region).then_some((region, partition))
}

/// Whether a text looks like the name of a region below `amazonaws.com`: `eu-central-1`,
/// `us-gov-west-1`. There are new ones each year. Those of China and of closed partitions have other
/// domains.
fn is_region(text: &str) -> bool {
    let Some((words, number)) = text.rsplit_once('-') else { return false };
    let is_word = |word: &str| {
        (2..=16).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_lowercase())
    };
    let is_elsewhere =
        text.starts_with("cn-") || words.split('-').any(|word| word.starts_with("iso"));
    (1..=2).contains(&number.len())
        && number.bytes().all(|byte| byte.is_ascii_digit())
        && (2..=4).contains(&words.split('-').count())
        && words.split('-').all(is_word)
        && !is_elsewhere
}

/// Milliseconds of `20260131T235959Z`.
fn instant(text: &str) -> Option<i64> {
    let is_form = text.len() == 16
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        });
    if !is_form {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<u8>().ok();
    let month = Month::try_from(number(4, 6)?).ok()?;
    let date = Date::from_calendar_date(text[..4].parse().ok()?, month, number(6, 8)?).ok()?;
    let time = Time::from_hms(number(9, 11)?, number(11, 13)?, number(13, 15)?).ok()?;
    let seconds = PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp();
    seconds.checked_mul(1000)
}

/// Who assumed a role, as `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION` says of the partition that was
/// asked: account and role. The name of the session is the client's to choose and says nothing.
pub(crate) fn assumed_role<'a>(arn: &'a str, partition: &str) -> Option<(&'a str, &'a str)> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", named, "sts", "", account, resource] = parts[..] else { return None };
    if named != partition {
        return None;
    }
    let (role, session) = resource.strip_prefix("assumed-role/")?.split_once('/')?;
    let is_whole = !session.is_empty() && !session.contains('/');
    (is_whole && is_account(account) && is_role(role)).then_some((account, role))
}

/// Whether a text is the number of an account.
pub(crate) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a text can be the name of a role.
pub(crate) fn is_role(text: &str) -> bool {
    let is_one = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(is_one)
}

/// A JSON object of texts, as it stands there: serde's maps would let the last of two win. Names in
/// lower case.
struct Fields(Vec<(String, Zeroizing<String>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if fields.len() == HEADERS_MAX {
                        return Err(serde::de::Error::custom("too many"));
                    }
                    fields.push((name.to_ascii_lowercase(), Zeroizing::new(value)));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_endpoints_of_sts_are_hosts() {
        for (host, region, partition) in [
            ("sts.amazonaws.com", "us-east-1", "aws"),
            ("sts.us-east-1.amazonaws.com", "us-east-1", "aws"),
            ("sts.ap-southeast-2.amazonaws.com", "ap-southeast-2", "aws"),
            ("sts.mx-central-1.amazonaws.com", "mx-central-1", "aws"),
            ("sts.us-gov-west-1.amazonaws.com", "us-gov-west-1", "aws-us-gov"),
            ("sts.us-gov-east-1.amazonaws.com", "us-gov-east-1", "aws-us-gov"),
            ("sts-fips.us-east-1.amazonaws.com", "us-east-1", "aws"),
            ("sts-fips.us-east-2.amazonaws.com", "us-east-2", "aws"),
            ("sts-fips.us-west-1.amazonaws.com", "us-west-1", "aws"),
            ("sts-fips.us-west-2.amazonaws.com", "us-west-2", "aws"),
            ("sts.cn-north-1.amazonaws.com.cn", "cn-north-1", "aws-cn"),
            ("sts.cn-northwest-1.amazonaws.com.cn", "cn-northwest-1", "aws-cn"),
        ] {
            assert_eq!(endpoint(host), Some((region, partition)), "{host}");
        }
        for host in [
            "",
            "localhost",
            "169.254.169.254",
            "amazonaws.com",
            "iam.amazonaws.com",
            "sts.amazonaws.com.evil.example",
            "sts.amazonaws.com@evil.example",
            "sts.amazonaws.com:443",
            "sts.amazonaws.com.",
            "sts.amazonaws.com/",
            "STS.amazonaws.com",
            "sts.evil.amazonaws.com",
            "sts.s3.amazonaws.com",
            "sts.evil-bucket.s3.amazonaws.com",
            "sts.a-b-1.s3.amazonaws.com",
            "sts..amazonaws.com",
            "sts.us-east-1.amazonaws.com.cn",
            "sts.us-east-1#.amazonaws.com",
            "sts.us-east-1/.amazonaws.com",
            "sts.us-east-.amazonaws.com",
            "sts.us-east-100.amazonaws.com",
            "sts.us-1.amazonaws.com",
            "sts.us-east-1-.amazonaws.com",
            "sts.-us-east-1.amazonaws.com",
            "evil.example?sts.us-east-1.amazonaws.com",
            "xsts.us-east-1.amazonaws.com",
            " sts.us-east-1.amazonaws.com",
            "sts-fips.amazonaws.com",
            "sts-fips.eu-central-1.amazonaws.com",
            "sts-fips.us-east-3.amazonaws.com",
            "sts-fips.us-gov-west-1.amazonaws.com",
            "sts-fips.us-east-1.amazonaws.com.evil.example",
            "sts-fips.us-east-1.amazonaws.com.cn",
            "sts-fips-us-east-1.amazonaws.com",
            "sts.fips.us-east-1.amazonaws.com",
            "stsfips.us-east-1.amazonaws.com",
            "fips-sts.us-east-1.amazonaws.com",
            "sts-fips..amazonaws.com",
            "STS-FIPS.us-east-1.amazonaws.com",
            "sts.amazonaws.com.cn",
            "sts.cn-north-1.amazonaws.com",
            "sts.cn-northwest-1.amazonaws.com",
            "sts.cn-north-2.amazonaws.com.cn",
            "sts.cn-evil-1.amazonaws.com.cn",
            "sts-fips.cn-north-1.amazonaws.com.cn",
            "sts.cn-north-1.amazonaws.com.cn.evil.example",
            "sts.cn-north-1.amazonaws.com.cn:443",
            "sts.cn-north-1.amazonaws.com.cn.",
            "sts.cn-north-1.amazonaws.cn",
            "sts.cn-north-1.amazonaws.com.co",
            "sts.cn-north-1.amazonaws.com-cn",
            "sts.cn-north-1.s3.amazonaws.com.cn",
            "cn-north-1.amazonaws.com.cn",
            "amazonaws.com.cn",
            "xsts.cn-north-1.amazonaws.com.cn",
            "sts.us-iso-east-1.amazonaws.com",
            "sts.us-isob-east-1.amazonaws.com",
        ] {
            assert_eq!(endpoint(host), None, "{host}");
        }
    }

    #[test]
    fn an_assumed_role_is_told_and_nobody_else_is() {
        let role = "arn:aws:sts::123456789012:assumed-role/web/i-0123";
        let web = Some(("123456789012", "web"));
        assert_eq!(assumed_role(role, "aws"), web);
        assert_eq!(assumed_role(&role.replace("i-0123", "a:b"), "aws"), web);
        for partition in ["aws-cn", "aws-us-gov"] {
            let there = role.replace("arn:aws:", &format!("arn:{partition}:"));
            assert_eq!(assumed_role(&there, partition), web);
            assert_eq!(assumed_role(role, partition), None);
            assert_eq!(assumed_role(&there, "aws"), None);
        }
        for bad in [
            "",
            "arn:aws:iam::123456789012:user/web",
            "arn:aws:iam::123456789012:role/web",
            "arn:aws:iam::123456789012:root",
            "arn:aws:sts::123456789012:federated-user/web",
            "arn:aws:sts::123456789012:assumed-role/web",
            "arn:aws:sts::123456789012:assumed-role/web/",
            "arn:aws:sts::123456789012:assumed-role//x",
            "arn:aws:sts::123456789012:assumed-role/path/web/x",
            "arn:aws:sts::12345678901:assumed-role/web/x",
            "arn:aws:sts:eu-west-1:123456789012:assumed-role/web/x",
            "arn:aws-cn:sts::123456789012:assumed-role/web/x",
            "arn:evil:sts::123456789012:assumed-role/web/x",
            "xarn:aws:sts::123456789012:assumed-role/web/x",
        ] {
            assert_eq!(assumed_role(bad, "aws"), None, "{bad}");
        }
    }

    #[test]
    fn instants_have_one_form() {
        assert_eq!(instant("20231114T221320Z"), Some(1_700_000_000_000));
        for bad in [
            "",
            "2023-11-14T22:13:20Z",
            "20231114T221320",
            "20231314T221320Z",
            "20230230T000000Z",
            "20231114T251320Z",
            "20231114t221320z",
            "٢٠٢٣١١١٤",
        ] {
            assert_eq!(instant(bad), None, "{bad}");
        }
    }

    #[test]
    fn policy_cannot_have_headers_of_the_connection_sent_on() {
        let names = extra_headers("X-Server-Id; x-amz-user-agent;").unwrap();
        assert_eq!(names, ["x-server-id", "x-amz-user-agent"]);
        for bad in ["connection", "Transfer-Encoding", "a b", "x:y", "authorization", "x-é"] {
            assert!(extra_headers(bad).is_err(), "{bad}");
        }
    }
}
