//! Ports of the dev cluster's nodes.

use super::supervisor::Place;
use crate::cli::failure::{Failure, Result};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

/// First port, unless the user names one.
const FIRST: u16 = 7470;
/// Ports from one node to the next.
const STEP: u16 = 10;
/// From a node's port to that of its pages.
const HTTP: u16 = 2;

/// Places for `nodes` nodes.
///
/// # Errors
/// If ports that the user named are in use.
pub(super) fn places(nodes: u16, first: Option<u16>, directory: &Path) -> Result<Vec<Place>> {
    let ports = match first {
        Some(0) => free(nodes)?,
        Some(first) => {
            let ports = in_steps(nodes, first)?;
            let busy = ports
                .iter()
                .flat_map(|pair| [pair.0, pair.1])
                .find(|port| !is_free(*port));
            if let Some(port) = busy {
                let message = format!("port {port} is in use by another process");
                return Err(Failure::local("PORT_IN_USE", message)
                    .with_hint("choose another --port, or leave it out to take free ones"));
            }
            ports
        }
        None => match in_steps(nodes, FIRST) {
            Ok(ports) if ports.iter().all(|pair| is_free(pair.0) && is_free(pair.1)) => ports,
            _ => free(nodes)?,
        },
    };
    let place = |(n, (port, http)): (usize, (u16, u16))| {
        let name = format!("n{}", n + 1);
        Place {
            address: format!("127.0.0.1:{port}"),
            http_address: format!("127.0.0.1:{http}"),
            directory: directory.join(&name),
            name,
        }
    };
    Ok(ports.into_iter().enumerate().map(place).collect())
}

fn in_steps(nodes: u16, first: u16) -> Result<Vec<(u16, u16)>> {
    let pair = |n: u16| {
        let port = first.checked_add(n.checked_mul(STEP)?)?;
        Some((port, port.checked_add(HTTP)?))
    };
    let ports: Option<Vec<_>> = (0..nodes).map(pair).collect();
    ports
        .filter(|_| first > 0)
        .ok_or_else(|| Failure::usage(format!("--port {first} leaves no room for {nodes} nodes")))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Ports nobody uses at this moment. They are held together, so that all are different.
fn free(nodes: u16) -> Result<Vec<(u16, u16)>> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listeners: std::io::Result<Vec<_>> = (0..2 * nodes).map(|_| bind()).collect();
    let ports: std::io::Result<Vec<u16>> =
        listeners.and_then(|all| all.iter().map(|one| Ok(one.local_addr()?.port())).collect());
    let ports = ports.map_err(|error| Failure::local("PORTS", error.to_string()))?;
    Ok(ports.chunks(2).map(|pair| (pair[0], pair[1])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_go_up_in_steps() {
        assert_eq!(
            in_steps(3, 7470).unwrap(),
            [(7470, 7472), (7480, 7482), (7490, 7492)]
        );
        assert!(in_steps(3, 65530).is_err());
        assert!(in_steps(1, 0).is_err());
    }

    #[test]
    fn a_busy_port_that_was_asked_for_is_an_error() {
        let busy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = busy.local_addr().unwrap().port();
        let failure = places(1, Some(port), Path::new("/d")).unwrap_err();
        assert_eq!(failure.reason(), "PORT_IN_USE");
        assert!(failure.message().contains(&port.to_string()));
    }

    #[test]
    fn free_ports_are_different() {
        let ports = free(5).unwrap();
        let all: std::collections::BTreeSet<_> = ports.iter().flat_map(|p| [p.0, p.1]).collect();
        assert_eq!(all.len(), 10);
    }
}
