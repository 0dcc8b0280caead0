//! Addresses and ranges as `restricted_to` takes them: canonical text only.

use std::net::IpAddr;

use ipnet::IpNet;

use super::error::ParseRejection;

/// Reads an address (`10.0.0.1`, taken as a range of one) or a range (`10.0.0.0/24`).
///
/// # Errors
/// [`ParseRejection::Cidr`] for other text, [`ParseRejection::CidrNotCanonical`] for another spelling.
pub fn parse(text: &str) -> Result<IpNet, ParseRejection> {
    let invalid = || ParseRejection::Cidr(text.to_owned());
    let (address, mask) = match text.split_once('/') {
        Some((address, mask)) => (address, Some(mask)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| invalid())?;
    let net = match mask {
        None => IpNet::from(address),
        Some(mask) if !mask.is_empty() && mask.bytes().all(|b| b.is_ascii_digit()) => {
            let length = mask.parse().map_err(|_| invalid())?;
            IpNet::new(address, length).map_err(|_| invalid())?
        }
        Some(mask) => {
            let mask: IpAddr = mask.parse().map_err(|_| invalid())?;
            IpNet::with_netmask(address, mask).map_err(|_| invalid())?
        }
    };
    let canonical = net.trunc();
    let whole = canonical.prefix_len() == canonical.max_prefix_len();
    let as_written =
        text == canonical.to_string() || (whole && text == canonical.addr().to_string());
    if as_written {
        return Ok(canonical);
    }
    let canonical = if whole { canonical.addr().to_string() } else { canonical.to_string() };
    Err(ParseRejection::CidrNotCanonical { text: text.to_owned(), canonical })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_ranges_are_taken() {
        let cases = [
            ("1.2.3.4", Ok("1.2.3.4/32")),
            ("1.2.3.4/32", Ok("1.2.3.4/32")),
            ("10.0.0.0/24", Ok("10.0.0.0/24")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("::1", Ok("::1/128")),
            ("2001:db8::/32", Ok("2001:db8::/32")),
            ("10.0.0.1/24", Err(Some("10.0.0.0/24"))),
            ("10.0.0.0/255.255.255.0", Err(Some("10.0.0.0/24"))),
            ("2001:0DB8::/32", Err(Some("2001:db8::/32"))),
            ("0:0:0:0:0:0:0:1", Err(Some("::1"))),
            ("10.0.0.0/33", Err(None)),
            ("10.0.0/8", Err(None)),
            ("010.0.0.1", Err(None)),
            ("10.0.0.0/", Err(None)),
            ("", Err(None)),
            ("host", Err(None)),
        ];
        for (text, expected) in cases {
            let got = match parse(text) {
                Ok(net) => Ok(net.to_string()),
                Err(ParseRejection::CidrNotCanonical { canonical, .. }) => Err(Some(canonical)),
                Err(_) => Err(None),
            };
            let expected = expected.map(str::to_owned).map_err(|hint| hint.map(str::to_owned));
            assert_eq!(got, expected, "{text:?}");
        }
    }
}
