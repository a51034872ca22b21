//! Believing that a process is the node it says it is.
//!
//! Nobody is believed by word alone: whoever opens a connection in a node's name is looked for where
//! that node is known to be and where it says it is, and must stand by the connection there. If
//! another process answers as the node, the one that came is a second one and is refused for as long
//! as it runs. Without keys this is as far as it goes: while a node is down, whoever listens
//! somewhere and knows its id can be taken for the node that has moved.

use super::book::Source;
use super::contacts::Seen;
use super::link::Link;
use super::probe::{self, Sighting};
use super::refusal::Refusal;
use super::{Transport, book};
use kontiki_proto::v1::{AddressBook, ConfirmReply, ConfirmRequest, ForgottenNode, Introduction};
use kontiki_raft::NodeId;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tracing::{debug, error, warn};

/// Nodes that nobody knows that are looked for at once; more are refused: anybody can make them up.
const STRANGERS_MAX: usize = 4;
/// Nodes that are known that are looked for at once; more wait.
const LOOKS_MAX: usize = 32;
/// Hearsay that is looked into at once; more is left for the next time it is heard.
const RUMOURS_MAX: usize = 64;
/// How often it is looked whether a node that was asked for has become known.
const SEARCH_POLL: Duration = Duration::from_millis(20);

/// How many are looked for at once. Whoever says that nodes have moved to where nobody answers must
/// not keep those waiting that are where they were.
pub(super) struct Turns {
    strangers: Semaphore,
    moved: Semaphore,
    known: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            strangers: Semaphore::new(STRANGERS_MAX),
            moved: Semaphore::new(LOOKS_MAX),
            known: Semaphore::new(LOOKS_MAX),
        }
    }
}

impl Turns {
    async fn take(
        &self,
        claim: &Introduction,
        known: Option<&str>,
    ) -> Result<SemaphorePermit<'_>, Refusal> {
        let busy = || Refusal::Busy(claim.name.clone());
        let turns = match known {
            Some(address) if address == claim.peer_address => &self.known,
            Some(_) => &self.moved,
            None => return self.strangers.try_acquire().map_err(|_| busy()),
        };
        turns.acquire().await.map_err(|_| busy())
    }
}

impl Transport {
    /// Lets a process in that opens a connection here, if it is the node it says it is. On success
    /// it is in the book, durably, and is dialled if it is new.
    ///
    /// # Errors
    /// Says why it is not spoken to; nothing has changed then.
    pub(crate) async fn admit(&self, claim: &Introduction) -> Result<(), Refusal> {
        if self.is_set_aside() {
            return Err(Refusal::SetAside(self.inner.name.clone()));
        }
        self.check(claim)?;
        if self.contacts().has_confirmed(claim) {
            return Ok(());
        }
        let known = self.known_address(claim);
        let _turn = self.inner.turns.take(claim, known.as_deref()).await?;
        let seen = self.contacts().seen(NodeId(claim.node));
        let addresses = self.addresses_to_ask(claim, seen.as_ref(), &claim.peer_address);
        let request = self.confirmation(claim.session.clone());
        let sightings = probe::ask_all(addresses, &request).await;
        disowned(claim, &sightings)?;
        self.decide(claim, &claim.peer_address, &sightings, Source::Itself)
            .await
    }

    /// Takes in who answered at `address`, where a node is known to be.
    ///
    /// # Errors
    /// Says why it is not spoken to.
    pub(crate) async fn meet(
        &self,
        them: &Introduction,
        address: &str,
        source: Source,
    ) -> Result<(), Refusal> {
        self.check(them)?;
        let seen = self.contacts().seen(NodeId(them.node));
        let mut addresses = self.addresses_to_ask(them, seen.as_ref(), address);
        addresses.retain(|other| other != address);
        let request = self.confirmation(bytes::Bytes::new());
        let mut sightings = vec![Sighting::called(address, them.clone())];
        sightings.extend(probe::ask_all(addresses, &request).await);
        if source == Source::Hearsay && sightings.iter().skip(1).any(|it| it.is_process(them)) {
            return Err(Refusal::Unconfirmed {
                name: them.name.clone(),
                address: address.to_owned(),
                why: "the same process is still where it was".to_owned(),
            });
        }
        self.decide(them, address, &sightings, source).await
    }

    fn check(&self, claim: &Introduction) -> Result<(), Refusal> {
        self.book().check(claim)?;
        if claim.incarnation == 0 {
            return Err(Refusal::Invalid("the process does not tell itself apart"));
        }
        self.contacts().check(claim)
    }

    /// Where to look for a node: where it is said to be first, then wherever it is known to be. A
    /// process that counts already need not be told from others.
    fn addresses_to_ask(
        &self,
        claim: &Introduction,
        seen: Option<&Seen>,
        said: &str,
    ) -> Vec<String> {
        let mut addresses = vec![said.to_owned()];
        let mut add = |address: Option<String>| {
            let new = address.filter(|it| !it.is_empty() && !addresses.contains(it));
            addresses.extend(new);
        };
        add(seen.map(|seen| seen.address.clone()));
        if seen.is_some_and(|seen| seen.incarnation == claim.incarnation) {
            return addresses;
        }
        let links = self.inner.links.read();
        let links = links.unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.by_name.get(&claim.name) {
            let known = link.addresses.borrow().clone();
            add(known.configured);
            add(known.introduced);
        }
        drop(links);
        let known = self.introduction(NodeId(claim.node));
        add(known.map(|known| known.peer_address));
        addresses
    }

    /// Where a node is known to be, by the book or the operator.
    fn known_address(&self, claim: &Introduction) -> Option<String> {
        if let Some(known) = self.introduction(NodeId(claim.node)) {
            return Some(known.peer_address);
        }
        let links = self.inner.links.read();
        let links = links.unwrap_or_else(PoisonError::into_inner);
        let link = links.by_name.get(&claim.name)?;
        let address = link.addresses.borrow().pick(0);
        Some(address)
    }

    fn confirmation(&self, session: bytes::Bytes) -> ConfirmRequest {
        ConfirmRequest {
            asking: self.inner.name.clone(),
            session,
        }
    }

    async fn decide(
        &self,
        claim: &Introduction,
        said: &str,
        sightings: &[Sighting],
        source: Source,
    ) -> Result<(), Refusal> {
        // Looked at after the answers: the one that counted may have gone meanwhile.
        let seen = self.contacts().seen(NodeId(claim.node));
        match judge(claim, seen.as_ref(), said, sightings) {
            Ok(address) => self.settle(claim, &address, source).await,
            Err(refusal) => {
                // One that came from the same place and was not told yet has most likely ended.
                // That one was set aside is remembered of whoever says so where the node is known to be:
                // others could say it of the process that counts.
                let places = || self.addresses_to_ask(claim, seen.as_ref(), "");
                if let Refusal::Duplicate { known, came, .. } = &refusal
                    && (known != came || (claim.set_aside && places().contains(came)))
                    && self.contacts().refuse(claim, known, came)
                {
                    self.inner.duplicates.fetch_add(1, Ordering::Relaxed);
                    error!(peer = %claim.name, known, came, %refusal, "a second process is refused");
                }
                Err(refusal)
            }
        }
    }

    /// Takes a node in that was found.
    async fn settle(
        &self,
        found: &Introduction,
        address: &str,
        source: Source,
    ) -> Result<(), Refusal> {
        let before = self.introduction(NodeId(found.node));
        let transport = self.clone();
        let learnt = found.clone();
        let learning = tokio::task::spawn_blocking(move || transport.book().learn(&learnt, source));
        match learning.await {
            Ok(learnt) => {
                if let Err(error) = learnt? {
                    // The identity is checked all the same; it is met again after a restart.
                    error!(peer = %found.name, %error, "the address book is not written");
                }
            }
            Err(error) => warn!(peer = %found.name, %error, "the address book is not written"),
        }
        self.contacts().accept(found, address);
        let Some(now) = self.introduction(NodeId(found.node)) else {
            // Forgotten meanwhile.
            return Ok(());
        };
        self.dial_introduced(&now);
        if before.is_none_or(|before| before.peer_address != now.peer_address) {
            self.spread();
        }
        Ok(())
    }

    /// Who this process is, and whether it opened a session to the node that asks.
    pub(crate) fn confirm(&self, request: &ConfirmRequest) -> ConfirmReply {
        ConfirmReply {
            introduction: Some(self.me()),
            confirmed: self
                .inner
                .sessions
                .is_open(&request.session, &request.asking),
        }
    }

    /// Refuses a node whose name or id belongs to another.
    pub(crate) fn check_known(&self, other: &Introduction) -> Result<(), Refusal> {
        self.book().check(other)
    }

    /// Looks into what a third says of a node, if it is news: goes there and takes the node in if it
    /// is found. Returns at once.
    pub(crate) fn hear_of(&self, other: Introduction) {
        let news = self.book().is_worth_a_look(&other) && !self.is_connected(NodeId(other.node));
        if !news || self.is_set_aside() || !self.begin_rumour(&other.name) {
            return;
        }
        let transport = self.clone();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                looked = transport.look_into(&other) => {
                    if let Err(why) = looked {
                        debug!(peer = %other.name, why, "what is said of a node is not taken");
                    }
                }
                () = transport.finishing() => {}
            }
            transport.rumours().remove(&other.name);
        });
    }

    fn begin_rumour(&self, name: &str) -> bool {
        let mut rumours = self.rumours();
        rumours.len() < RUMOURS_MAX && rumours.insert(name.to_owned())
    }

    async fn look_into(&self, other: &Introduction) -> Result<(), String> {
        let address = other.peer_address.clone();
        let request = self.confirmation(bytes::Bytes::new());
        let found = probe::ask_all(vec![address.clone()], &request).await;
        let found = found.into_iter().next().ok_or("nobody was asked")?;
        let answer = found.answer.map_err(|why| why.to_string())?;
        let there = answer.introduction.unwrap_or_default();
        if (&there.name, there.node) != (&other.name, other.node) {
            return Err(format!("node {:?} answers at {address}", there.name));
        }
        let met = self.meet(&there, &address, Source::Hearsay).await;
        met.map_err(|refusal| refusal.to_string())
    }

    /// Every node that this one knows, itself included, and whom it was told to forget.
    pub(crate) fn address_book(&self) -> AddressBook {
        let book = self.book();
        AddressBook {
            nodes: book.nodes().chain([book.me()]).cloned().collect(),
            forgotten: book.forgotten().to_vec(),
        }
    }

    /// Takes in what a caller says of nodes: where to look, no more.
    pub(crate) fn take_hints(&self, heard: AddressBook) {
        for other in heard.nodes.into_iter().take(book::NODES_MAX) {
            self.hear_of(other);
        }
    }

    /// Takes in what a node says that was called: also where it knows this node to be, and, if its
    /// word counts for that, whom it was told to forget.
    pub(crate) async fn take_in(&self, link: &Link, mut heard: AddressBook) {
        let forgotten = std::mem::take(&mut heard.forgotten).into_iter();
        for gone in forgotten.filter(|_| self.heeds(link)) {
            self.hear_forgotten(gone).await;
        }
        let own = heard.nodes.iter().find(|it| it.node == self.inner.node.0);
        if let Some(own) = own.cloned() {
            self.outdo(own).await;
        }
        self.take_hints(heard);
    }

    /// A node that is connected has come back since it was forgotten elsewhere.
    async fn hear_forgotten(&self, gone: ForgottenNode) {
        if self.is_connected(NodeId(gone.node)) {
            return;
        }
        let transport = self.clone();
        let name = gone.name.clone();
        let hearing =
            tokio::task::spawn_blocking(move || transport.book().hear_forgotten(&gone)).await;
        match hearing {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => {
                warn!(peer = %name, "forgotten, as other nodes were told");
                self.unlink(&name);
            }
            Ok(Err(error)) => error!(%error, "the address book is not written"),
            Err(error) => warn!(%error, "the address book is not written"),
        }
    }

    /// Others may know later addresses of this node than it gave itself.
    async fn outdo(&self, heard: Introduction) {
        let transport = self.clone();
        let outdoing = tokio::task::spawn_blocking(move || transport.book().outdo(&heard));
        match outdoing.await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => {
                warn!("others know later addresses of this node: was its data restored?");
                self.spread();
            }
            Ok(Err(error)) => error!(%error, "the own introduction is not written"),
            Err(error) => warn!(%error, "the own introduction is not written"),
        }
    }

    /// The node of that name or id, asked for among the other nodes if it is not known here. A node
    /// that has just joined may be known to one of them only.
    pub(crate) async fn search(&self, name_or_id: &str, limit: Duration) -> Option<Introduction> {
        if let Some(known) = self.find(name_or_id) {
            return Some(known);
        }
        let until = Instant::now() + limit;
        self.spread();
        while Instant::now() < until {
            tokio::time::sleep(SEARCH_POLL).await;
            if let Some(found) = self.find(name_or_id) {
                return Some(found);
            }
        }
        None
    }
}

/// Refuses a caller that names a process which, where the node is known to be, does not know of the
/// connection. Which process is a node anybody can ask; only the process itself knows its sessions.
fn disowned(claim: &Introduction, sightings: &[Sighting]) -> Result<(), Refusal> {
    let mut there = sightings.iter();
    match there.find(|it| it.is_process(claim) && !it.confirms(claim)) {
        None => Ok(()),
        Some(there) => Err(Refusal::Unconfirmed {
            name: claim.name.clone(),
            address: there.address.clone(),
            why: there.why_not(claim),
        }),
    }
}

/// Whether the process that `claim` came from is the node, and where it was found.
fn judge(
    claim: &Introduction,
    seen: Option<&Seen>,
    said: &str,
    sightings: &[Sighting],
) -> Result<String, Refusal> {
    let name = claim.name.clone();
    let duplicate = |known: &str| Refusal::Duplicate {
        name: claim.name.clone(),
        known: known.to_owned(),
        came: said.to_owned(),
    };
    let counted = seen.map(|seen| seen.incarnation);
    let mut others = sightings.iter();
    if let Some(other) = others.find(|it| it.contradicts(claim, counted)) {
        return Err(duplicate(&other.address));
    }
    let Some(found) = sightings.iter().find(|it| it.confirms(claim)) else {
        let at = sightings.iter().find(|it| it.address == said);
        return Err(Refusal::Unconfirmed {
            name,
            address: said.to_owned(),
            why: at.map_or_else(String::new, |at| at.why_not(claim)),
        });
    };
    let earlier = seen.filter(|seen| seen.incarnation != claim.incarnation);
    if claim.set_aside {
        let known = earlier.map_or("another address", |seen| &seen.address);
        return Err(duplicate(known));
    }
    let is_new = seen.is_none_or(|seen| seen.incarnation != claim.incarnation);
    let silent = sightings.iter().find(|it| it.is_silent());
    if let Some(silent) = silent.filter(|_| is_new) {
        return Err(Refusal::Unsure {
            name,
            known: silent.address.clone(),
            came: said.to_owned(),
        });
    }
    // Whoever listens where the earlier one did has taken its place.
    let replaced = |seen: &Seen| {
        let there = sightings.iter().find(|it| it.address == seen.address);
        there.is_some_and(|there| there.confirms(claim))
    };
    match earlier.filter(|seen| seen.is_streaming && !replaced(seen)) {
        Some(seen) => Err(Refusal::StillConnected {
            name,
            known: seen.address.clone(),
            came: said.to_owned(),
        }),
        None => Ok(found.address.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe::NoAnswer;
    use super::*;

    const P: &str = "p:1";
    const Q: &str = "q:1";

    fn process(incarnation: u64) -> Introduction {
        Introduction {
            node: 2,
            name: "n2".into(),
            incarnation,
            ..Introduction::default()
        }
    }

    fn at(address: &str, introduction: Introduction, confirmed: bool) -> Sighting {
        Sighting {
            address: address.into(),
            answer: Ok(ConfirmReply {
                introduction: Some(introduction),
                confirmed,
            }),
        }
    }

    fn nobody(address: &str) -> Sighting {
        Sighting {
            address: address.into(),
            answer: Err(NoAnswer::Nobody("refused".into())),
        }
    }

    fn seen(incarnation: u64, is_streaming: bool) -> Seen {
        Seen {
            incarnation,
            address: P.into(),
            is_streaming,
        }
    }

    fn judged(seen: Option<Seen>, sightings: &[Sighting]) -> Result<String, Refusal> {
        judge(&process(7), seen.as_ref(), Q, sightings)
    }

    #[test]
    fn whoever_stands_by_its_word_where_it_says_it_is_is_believed() {
        let stands = at(Q, process(7), true);
        assert_eq!(judged(None, std::slice::from_ref(&stands)).unwrap(), Q);
        // It has moved, or was restored elsewhere.
        assert_eq!(
            judged(Some(seen(5, false)), &[stands, nobody(P)]).unwrap(),
            Q
        );
        // Another node may have come to its old place.
        let other = Introduction {
            name: "n3".into(),
            ..process(9)
        };
        let met = judged(None, &[at(Q, process(7), true), at(P, other, false)]);
        assert_eq!(met.unwrap(), Q);
        // What it says of its address is wrong, but where it is known to be it stands by its word.
        assert_eq!(
            judged(None, &[nobody(Q), at(P, process(7), true)]).unwrap(),
            P
        );
    }

    /// Which process is a node is no secret.
    #[test]
    fn who_names_the_process_that_counts_is_believed_only_if_it_knows_of_the_connection() {
        let claim = process(7);
        let stands = at(Q, process(7), true);
        let refused = disowned(&claim, &[stands.clone(), at(P, process(7), false)]).unwrap_err();
        assert!(
            matches!(&refused, Refusal::Unconfirmed { address, .. } if address == P),
            "{refused}"
        );
        let fine = [
            vec![stands.clone(), nobody(P)],
            vec![stands.clone(), at(P, process(7), true)],
            vec![stands, at(P, process(5), false)],
        ];
        for sightings in fine {
            disowned(&claim, &sightings).unwrap();
        }
    }

    #[test]
    fn whoever_is_not_found_is_not_believed() {
        let other = Introduction {
            node: 3,
            ..process(7)
        };
        for sighting in [nobody(Q), at(Q, process(7), false), at(Q, other, true)] {
            let refused = judged(None, &[sighting]).unwrap_err();
            assert!(matches!(refused, Refusal::Unconfirmed { .. }), "{refused}");
        }
    }

    #[test]
    fn a_second_process_is_refused_and_both_are_named() {
        let both = [at(Q, process(7), true), at(P, process(5), false)];
        for seen in [None, Some(seen(5, true)), Some(seen(5, false))] {
            let refused = judged(seen, &both).unwrap_err();
            let text = refused.to_string();
            assert!(refused.is_duplicate() && text.contains(P) && text.contains(Q));
        }
        // One that was set aside contradicts nobody, and is believed by nobody.
        let aside = |incarnation| Introduction {
            set_aside: true,
            ..process(incarnation)
        };
        let met = judged(None, &[at(Q, process(7), true), at(P, aside(5), false)]);
        assert_eq!(met.unwrap(), Q);
        // But where it counted, nobody takes its place while it runs.
        let both = [at(Q, process(7), true), at(P, aside(5), false)];
        let refused = judged(Some(seen(5, false)), &both).unwrap_err();
        assert!(refused.is_duplicate(), "{refused}");
        let claim = aside(7);
        let refused = judge(&claim, None, Q, &[at(Q, aside(7), true)]).unwrap_err();
        assert!(refused.is_duplicate(), "{refused}");
    }

    /// The original may be paused, or have no time to answer: its copy must not be taken in meanwhile.
    #[test]
    fn while_somebody_listens_where_it_was_and_says_nothing_it_is_not_taken_for_gone() {
        let silent = Sighting {
            address: P.into(),
            answer: Err(NoAnswer::Silent),
        };
        let sightings = [at(Q, process(7), true), silent];
        let refused = judged(None, &sightings).unwrap_err();
        assert!(matches!(refused, Refusal::Unsure { .. }), "{refused}");
        assert!(refused.to_string().contains(P));
        // The process that counts already, on a connection that it makes anew.
        assert_eq!(judged(Some(seen(7, true)), &sightings).unwrap(), Q);
    }

    #[test]
    fn while_a_connection_lasts_its_process_is_not_taken_for_gone() {
        let sightings = [at(Q, process(7), true), nobody(P)];
        let refused = judged(Some(seen(5, true)), &sightings).unwrap_err();
        assert!(matches!(refused, Refusal::StillConnected { .. }));
        // The same place: whoever was there is gone, whether or not the connection says so.
        let here = [at(P, process(7), true)];
        let met = judge(&process(7), Some(&seen(5, true)), P, &here);
        assert_eq!(met.unwrap(), P);
    }
}
