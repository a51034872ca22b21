//! What the tests with hosts of their own take: `ip` and `nft`.

use super::Need;
use super::machine::Machine;

const PROGRAMS: [(&str, &str); 2] = [("ip", "iproute2"), ("nft", "nftables")];

/// The need and whether it is met.
pub(super) fn need(machine: &Machine) -> Need {
    let missing = missing_packages(machine);
    let detail = match (machine.is_root, missing.is_empty()) {
        (false, _) => "not needed: only root can make network namespaces".to_owned(),
        (true, true) => "ip, nft".to_owned(),
        (true, false) => format!("packages {}", missing.join(" ")),
    };
    Need {
        name: "network namespaces",
        present: missing.is_empty(),
        detail,
    }
}

/// Debian packages that would meet the rest of it.
pub(super) fn missing_packages(machine: &Machine) -> Vec<&'static str> {
    let missing = PROGRAMS
        .iter()
        .filter(|(program, _)| machine.is_root && machine.programs.find(program).is_none());
    missing.map(|(_, package)| *package).collect()
}
