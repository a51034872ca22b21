//! Keeps web pages from changing anything here: a browser sends what any page asks it to, to
//! loopback and internal addresses too. Programs that are no browser send none of the headers that
//! are looked at.

use crate::config::NodeConfig;
use axum::http::{HeaderMap, header};
use std::net::{Ipv4Addr, Ipv6Addr};

/// What a request that changes something must not be: one that a page of another site made.
///
/// # Errors
/// Says what gives it away.
pub(crate) fn check(headers: &HeaderMap, config: &NodeConfig) -> Result<(), String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let site = text(header::HeaderName::from_static("sec-fetch-site"));
    if let Some(site) = site.filter(|site| !matches!(*site, "same-origin" | "none")) {
        return Err(format!("a page of another site sends it ({site})"));
    }
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let host = text(header::HOST).unwrap_or_default();
    let origin = text(header::ORIGIN).unwrap_or_default();
    let same = ["http://", "https://"]
        .iter()
        .any(|scheme| origin.strip_prefix(scheme) == Some(host));
    if !same || host.is_empty() {
        return Err(format!("a page of {origin:?} sends it, this is {host:?}"));
    }
    // A page may have its own name lead here.
    match is_own(host, config) {
        true => Ok(()),
        false => Err(format!(
            "a browser calls this node {host:?}; use its address"
        )),
    }
}

/// Whether a host is one that nobody else can have lead here: an address, or a configured name.
fn is_own(host: &str, config: &NodeConfig) -> bool {
    let name = without_port(host);
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let configured = [
        config.http.as_ref(),
        config.advertise.as_ref(),
        Some(&config.listen),
    ];
    let mut configured = configured.into_iter().flatten();
    bare.parse::<Ipv4Addr>().is_ok()
        || bare.parse::<Ipv6Addr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || configured.any(|own| without_port(own.as_str()).eq_ignore_ascii_case(name))
}

fn without_port(host: &str) -> &str {
    let port = host.rsplit_once(':').filter(|(_, port)| {
        // What follows the last colon of a bare IPv6 host ends with its bracket.
        port.bytes().all(|digit| digit.is_ascii_digit())
    });
    port.map_or(host, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeOptions;

    fn checked(headers: &[(&'static str, &str)]) -> Result<(), String> {
        let config = NodeOptions {
            name: Some("n1".into()),
            data_dir: Some("memory://".into()),
            http: Some("n1.example:7472".into()),
            ..NodeOptions::default()
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        check(&map, &config.check().unwrap())
    }

    #[test]
    fn programs_and_the_nodes_own_pages_may() {
        checked(&[("host", "whatever:1")]).unwrap();
        for host in [
            "127.0.0.1:7472",
            "[::1]:7472",
            "localhost:7472",
            "n1.example:7472",
        ] {
            let origin = format!("http://{host}");
            let site = ("sec-fetch-site", "same-origin");
            checked(&[("host", host), ("origin", &origin), site]).unwrap();
        }
    }

    #[test]
    fn pages_of_others_may_not() {
        let host = ("host", "127.0.0.1:7472");
        checked(&[host, ("origin", "http://evil.example")]).unwrap_err();
        checked(&[host, ("origin", "null")]).unwrap_err();
        checked(&[host, ("sec-fetch-site", "cross-site")]).unwrap_err();
        checked(&[("origin", "http://")]).unwrap_err();
        // Its name was made to lead here.
        let rebound = [
            ("host", "evil.example:7472"),
            ("origin", "http://evil.example:7472"),
            ("sec-fetch-site", "same-origin"),
        ];
        checked(&rebound).unwrap_err();
    }
}
