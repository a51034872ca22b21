//! Who leads which group, as far as replies have told.

use crate::error::Leader;
use crate::{Address, Member};
use std::collections::{BTreeMap, HashMap};

/// Known members and leaders.
///
/// Hints come from any node, late or mistaken, so a leader is replaced only by one of the same or a
/// later term, and only by an address that is known already: an endpoint the user gave, or what a
/// member advertises. Otherwise one confused node could send clients anywhere.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    endpoints: Vec<Address>,
    members: BTreeMap<Address, Member>,
    groups: HashMap<String, Route>,
    /// Who answered last, whatever the group.
    preferred: Option<Address>,
    /// Who let a call run into its deadline and has not answered since; tried last.
    suspects: Vec<Address>,
}

#[derive(Debug, Default)]
struct Route {
    leader: Option<Leader>,
    /// Highest term heard of; survives the leader being forgotten.
    term: u64,
}

impl RouteTable {
    pub(crate) fn new(endpoints: Vec<Address>) -> Self {
        Self {
            endpoints,
            ..Self::default()
        }
    }

    /// Every address to try, best first.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        let mut all: Vec<Address> = self.preferred.iter().cloned().collect();
        for address in self.endpoints.iter().chain(self.members.keys()) {
            if !all.contains(address) {
                all.push(address.clone());
            }
        }
        all.sort_by_key(|address| self.suspects.contains(address));
        all
    }

    /// Takes note that `address` did not answer a call in time.
    pub(crate) fn suspect(&mut self, address: &Address) {
        if self.knows(address) && !self.suspects.contains(address) {
            self.suspects.push(address.clone());
        }
    }

    pub(crate) fn knows(&self, address: &Address) -> bool {
        self.endpoints.contains(address) || self.members.contains_key(address)
    }

    pub(crate) fn member_at(&self, address: &Address) -> Option<&Member> {
        self.members.get(address)
    }

    pub(crate) fn set_members(&mut self, members: &[Member]) {
        self.members = members
            .iter()
            .map(|m| (m.address.clone(), m.clone()))
            .collect();
        if self
            .preferred
            .as_ref()
            .is_some_and(|address| !self.knows(address))
        {
            self.preferred = None;
        }
        let mut suspects = std::mem::take(&mut self.suspects);
        suspects.retain(|address| self.knows(address));
        self.suspects = suspects;
    }

    pub(crate) fn answered(&mut self, address: &Address) {
        self.suspects.retain(|suspect| suspect != address);
        if self.preferred.as_ref() != Some(address) {
            self.preferred = Some(address.clone());
        }
    }

    pub(crate) fn leader(&self, group: &str) -> Option<&Leader> {
        self.groups.get(group)?.leader.as_ref()
    }

    /// Takes a hint; false if it is older than what is known, or names a stranger.
    pub(crate) fn learn(&mut self, group: &str, hint: &Leader) -> bool {
        if !self.knows(&hint.address) {
            return false;
        }
        let route = self.groups.entry(group.to_owned()).or_default();
        let term = hint.term.unwrap_or(route.term);
        if term < route.term {
            return false;
        }
        route.term = term;
        route.leader = Some(hint.clone());
        true
    }

    /// Forgets that `address` leads; keeps the term, so that an older hint is still refused.
    pub(crate) fn forget(&mut self, group: &str, address: &Address) {
        if let Some(route) = self.groups.get_mut(group)
            && route
                .leader
                .as_ref()
                .is_some_and(|leader| leader.address == *address)
        {
            route.leader = None;
        }
        if self.preferred.as_ref() == Some(address) {
            self.preferred = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Address {
        format!("127.0.0.1:{port}").parse().unwrap()
    }

    fn leader(port: u16, term: u64) -> Leader {
        Leader {
            id: None,
            name: String::new(),
            address: address(port),
            term: Some(term),
        }
    }

    #[test]
    fn hints_of_an_older_term_are_refused() {
        let mut table = RouteTable::new(vec![address(1), address(2)]);
        assert!(table.learn("g", &leader(1, 5)));
        assert!(!table.learn("g", &leader(2, 4)));
        assert_eq!(table.leader("g").unwrap().address, address(1));
        assert!(
            table.learn("g", &leader(2, 5)),
            "a correction within the term is taken"
        );
        assert!(
            table.learn("other", &leader(1, 1)),
            "terms are counted by group"
        );
    }

    #[test]
    fn a_forgotten_leader_leaves_its_term() {
        let mut table = RouteTable::new(vec![address(1), address(2)]);
        table.learn("g", &leader(1, 5));
        table.forget("g", &address(2));
        assert!(
            table.leader("g").is_some(),
            "only the named address is forgotten"
        );
        table.forget("g", &address(1));
        assert!(table.leader("g").is_none());
        assert!(!table.learn("g", &leader(2, 4)));
    }

    #[test]
    fn hints_to_strangers_are_refused_until_they_are_members() {
        let mut table = RouteTable::new(vec![address(1)]);
        assert!(!table.learn("g", &leader(9, 1)));
        table.set_members(&[Member {
            id: 9,
            name: "n9".into(),
            address: address(9),
        }]);
        assert!(table.learn("g", &leader(9, 1)));
    }

    #[test]
    fn a_node_that_missed_a_deadline_is_tried_last_until_it_answers() {
        let mut table = RouteTable::new(vec![address(1), address(2)]);
        table.suspect(&address(1));
        assert_eq!(table.addresses(), [address(2), address(1)]);
        table.answered(&address(1));
        assert_eq!(table.addresses(), [address(1), address(2)]);
    }

    #[test]
    fn the_node_that_answered_last_is_tried_first() {
        let mut table = RouteTable::new(vec![address(1), address(2)]);
        table.answered(&address(2));
        assert_eq!(table.addresses(), [address(2), address(1)]);
        table.forget("g", &address(2));
        assert_eq!(table.addresses(), [address(1), address(2)]);
    }
}
