//! Where a node takes calls from clients.

use std::fmt;
use std::str::FromStr;

/// A node's client address: `host:port`, `http://host:port` or `https://host:port`.
///
/// Two addresses are the same if they are written the same, apart from a leading `http://`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    tls: bool,
    host: String,
    port: u16,
}

/// Text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address: {problem} (expected host:port, for example 127.0.0.1:7470)")]
pub struct AddressError {
    text: String,
    problem: &'static str,
}

impl Address {
    /// Whether calls are encrypted.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Name or IP address, without the brackets of IPv6.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port, never zero.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn uri(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}:{}", bracketed(&self.host), self.port)
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |problem| AddressError {
            text: text.to_owned(),
            problem,
        };
        let (tls, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(error("the scheme must be http or https")),
            None => (false, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = rest.rsplit_once(':').ok_or(error("the port is missing"))?;
        let host = match host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
        {
            Some(bare) => bare,
            None if host.contains(':') => return Err(error("IPv6 needs brackets, as [::1]:7470")),
            None => host,
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || "/@?#[]".contains(c)) {
            return Err(error("the host is not valid"));
        }
        match port.parse() {
            Ok(port) if port != 0 => Ok(Self {
                tls,
                host: host.to_owned(),
                port,
            }),
            _ => Err(error("the port must be a number from 1 to 65535")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https://" } else { "" };
        write!(f, "{scheme}{}:{}", bracketed(&self.host), self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hosts_ips_and_schemes() {
        for (text, shown) in [
            ("127.0.0.1:7470", "127.0.0.1:7470"),
            ("http://n1.example:80", "n1.example:80"),
            ("http://n1.example:80/", "n1.example:80"),
            ("https://n1:443", "https://n1:443"),
            ("[::1]:7470", "[::1]:7470"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn refuses_what_is_no_address_and_says_why() {
        for (text, problem) in [
            ("n1", "port is missing"),
            ("n1:", "from 1 to 65535"),
            ("n1:0", "from 1 to 65535"),
            ("n1:70000", "from 1 to 65535"),
            (":7470", "host is not valid"),
            ("ftp://n1:1", "scheme"),
            ("::1:7470", "brackets"),
            ("a b:1", "host is not valid"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(
                error.contains(problem) && error.contains(text),
                "{text}: {error}"
            );
        }
    }
}
