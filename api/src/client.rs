//! Where a request comes from: the TCP peer, or what a trusted proxy says of it.
//!
//! The one address so found serves audit, restrictions and limits alike.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// The client's address: the peer's, unless the peer is a trusted proxy. Then it is the last entry of
/// `X-Forwarded-For` that is no trusted proxy, else the first entry, else the peer.
///
/// An entry that is no address ends the walk: nothing to the left of it can be believed.
pub(crate) fn address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let mut found = peer;
    let values: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    for value in values.into_iter().rev() {
        let Ok(value) = value.to_str() else { return found };
        for entry in value.rsplit(',') {
            let Some(entry) = parse(entry) else { return found };
            if !is_trusted(entry, trusted) {
                return entry;
            }
            found = entry;
        }
    }
    found
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let loopback =
        address == IpAddr::V4(Ipv4Addr::LOCALHOST) || address.is_ipv6() && address.is_loopback();
    loopback || trusted.iter().any(|range| range.contains(&address))
}

/// An entry with or without a port, brackets or spaces.
fn parse(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    let address = bare
        .parse::<IpAddr>()
        .or_else(|_port| bare.parse::<SocketAddr>().map(|address| address.ip()))
        .or_else(|_bracketed| entry.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_only_from_the_right() {
        assert_eq!(found("9.9.9.9", &["1.1.1.1"]), "9.9.9.9");
        assert_eq!(found("127.0.0.1", &["1.1.1.1"]), "1.1.1.1");
        assert_eq!(found("10.1.1.1", &["6.6.6.6, 1.1.1.1, 10.2.2.2"]), "1.1.1.1");
        assert_eq!(found("10.1.1.1", &["6.6.6.6", "1.1.1.1:443, 10.2.2.2"]), "1.1.1.1");
        assert_eq!(found("::1", &["[2001:db8::1]:80"]), "2001:db8::1");
        assert_eq!(found("10.1.1.1", &["10.3.3.3, 10.2.2.2"]), "10.3.3.3");
        assert_eq!(found("10.1.1.1", &["1.1.1.1, garbage, 10.2.2.2"]), "10.2.2.2");
        assert_eq!(found("10.1.1.1", &[]), "10.1.1.1");
        assert_eq!(found("::ffff:127.0.0.1", &["::ffff:1.1.1.1"]), "1.1.1.1");
    }
}
