//! The leader's side of log replication: what to send to whom, and what the answers say.

use crate::core::Core;
use crate::planted::PlantedBug;
use crate::progress::{Flow, Peer};
use crate::{
    AppendEntries, AppendEntriesReply, Blocked, Effect, Effects, Entry, InstallSnapshot, Instant,
    LogId, LogIndex, Message, MessageBody, NodeId, ReadError, ReadId, Settings, Term,
};
use alloc::vec::Vec;

/// What a message to a peer is made from.
struct Sender<'a> {
    log: &'a crate::log::Log,
    settings: &'a Settings,
    snapshot: Option<&'a crate::SnapshotMeta>,
    term: Term,
    commit: LogIndex,
    now: Instant,
    counter: &'a mut u64,
    /// For a planted fault.
    any_size: bool,
}

impl Sender<'_> {
    /// Sends all that may be sent to `peer` now.
    fn send_all(&mut self, peer: &mut Peer, out: &mut Effects) {
        while self.send_next(peer, out) {}
    }

    /// Sends one message if one may be sent; says whether there may be another.
    fn send_next(&mut self, peer: &mut Peer, out: &mut Effects) -> bool {
        if !self.may_send(peer) {
            return false;
        }
        let prev = peer.next_index.prev();
        let Some(prev_term) = self.log.term(prev) else {
            return self.offer_snapshot(peer, out);
        };
        let prev = LogId::new(prev_term, prev);
        let is_probe = matches!(peer.flow, Flow::Probe { .. });
        let last = self.log.last().index;
        if peer.next_index > last {
            // Nothing new, but a probe, or news of what is committed.
            let news = self.commit.min(last) > peer.commit_sent;
            return (is_probe || news) && self.append(peer, prev, Vec::new(), 0, out);
        }
        let in_memory = peer.next_index >= self.log.cache_first();
        if is_probe && (!in_memory || peer.awaits_entries()) {
            // A probe need not carry entries, so it need not wait for the disk, nor repeat what
            // may be on its way.
            return self.append(peer, prev, Vec::new(), 0, out);
        }
        if !in_memory {
            return self.read_back(peer, out);
        }
        let (entries, size_bytes) = self.slice(peer.next_index, last);
        self.append(peer, prev, entries, size_bytes, out)
    }

    fn slice(&self, first: LogIndex, last: LogIndex) -> (Vec<Entry>, usize) {
        let count = self.settings.append_entries_max as u64;
        let last = last.min(LogIndex(first.0 + count - 1));
        self.log
            .slice(first, last, self.settings.append_size_bytes_max)
    }

    fn may_send(&self, peer: &Peer) -> bool {
        let due = |at: Instant| self.now >= at.plus(self.settings.retry());
        match peer.flow {
            Flow::Probe { outstanding } => outstanding.is_none_or(|(_, at)| due(at)),
            Flow::Snapshot { at, .. } => due(at),
            Flow::Replicate => {
                let any =
                    self.any_size && peer.inflight_messages() < self.settings.inflight_messages_max;
                peer.reading.is_none() && (any || has_room(peer, self.settings))
            }
        }
    }

    /// Always returns whether more may follow: only a stream goes on.
    fn append(
        &mut self,
        peer: &mut Peer,
        prev: LogId,
        entries: Vec<Entry>,
        size_bytes: usize,
        out: &mut Effects,
    ) -> bool {
        let last = entries.last().map_or(prev.index, |entry| entry.id.index);
        *self.counter += 1;
        let sequence = *self.counter;
        peer.sent(sequence, last, size_bytes, self.now);
        // The peer caps it at what this message shows to match.
        peer.commit_sent = peer.commit_sent.max(self.commit.min(last));
        peer.traffic.appends_sent += 1;
        peer.traffic.entries_sent += entries.len() as u64;
        let body = MessageBody::AppendEntries(AppendEntries {
            prev,
            entries,
            commit: self.commit,
            sequence,
        });
        self.push(peer.node, body, out);
        peer.flow == Flow::Replicate
    }

    /// Entries that are not in memory any more are read from disk first.
    fn read_back(&mut self, peer: &mut Peer, out: &mut Effects) -> bool {
        *self.counter += 1;
        let read = ReadId(*self.counter);
        let first = peer.next_index;
        let count = self.settings.append_entries_max as u64;
        let last = LogIndex(first.0 + count - 1).min(self.log.cache_first().prev());
        peer.reading = Some((read, first));
        out.push(Effect::ReadEntries {
            read,
            first,
            last,
            size_bytes_max: self.settings.append_size_bytes_max,
        });
        false
    }

    /// What the peer needs next is compacted away.
    fn offer_snapshot(&mut self, peer: &mut Peer, out: &mut Effects) -> bool {
        let Some(snapshot) = self.snapshot else {
            return false;
        };
        peer.await_snapshot(snapshot.last_included, self.now);
        peer.traffic.installs_sent += 1;
        let body = MessageBody::InstallSnapshot(InstallSnapshot {
            snapshot: snapshot.clone(),
        });
        self.push(peer.node, body, out);
        false
    }

    /// A leader's term is durable since before it was elected, so nothing waits for the disk.
    fn push(&self, to: NodeId, body: MessageBody, out: &mut Effects) {
        let term = self.term;
        let message = Message { term, body };
        out.push(Effect::Send { to, message });
    }
}

/// Whether the window of what is in flight to `peer` is open.
fn has_room(peer: &Peer, settings: &Settings) -> bool {
    peer.inflight_messages() < settings.inflight_messages_max
        && peer.inflight_size_bytes() < settings.inflight_size_bytes_max
}

/// Why nothing is sent to `peer` now; what is due at the next heartbeat is still blocked.
pub(crate) fn blocked(peer: &Peer, settings: &Settings) -> Option<Blocked> {
    match peer.flow {
        Flow::Probe { outstanding } => outstanding.map(|(sequence, _)| match sequence {
            0 => Blocked::Retry,
            _ => Blocked::Probe,
        }),
        Flow::Snapshot { .. } => Some(Blocked::Snapshot),
        Flow::Replicate if peer.reading.is_some() => Some(Blocked::Disk),
        Flow::Replicate => (!has_room(peer, settings)).then_some(Blocked::Window),
    }
}

impl Core {
    /// Sends everybody what they lack and may be sent.
    pub(crate) fn replicate(&mut self, out: &mut Effects) {
        let Some((mut sender, peers)) = self.sender() else {
            return;
        };
        for peer in peers {
            sender.send_all(peer, out);
        }
    }

    pub(crate) fn replicate_to(&mut self, at: usize, out: &mut Effects) {
        if let Some((mut sender, peers)) = self.sender() {
            sender.send_all(&mut peers[at], out);
        }
    }

    fn sender(&mut self) -> Option<(Sender<'_>, &mut Vec<Peer>)> {
        let any_size = self.bug(PlantedBug::ByteWindowIgnored);
        let leading = self.leading.as_deref_mut()?;
        let sender = Sender {
            log: &self.log,
            settings: &self.settings,
            snapshot: self.snapshots.newest.as_ref(),
            term: self.hard.term,
            commit: self.commit,
            now: self.now,
            counter: &mut self.counter,
            any_size,
        };
        Some((sender, &mut leading.peers))
    }

    pub(crate) fn on_append_reply(
        &mut self,
        from: NodeId,
        reply: &AppendEntriesReply,
        out: &mut Effects,
    ) {
        let (now, log_start) = (self.now, self.log.start().index);
        // Nobody can hold more of this leader's log than there is.
        let impossible = reply.index > self.log.last().index;
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let Some(at) = leading.position(from).filter(|_| !impossible) else {
            return;
        };
        let peer = &mut leading.peers[at];
        if !peer.is_addressed(reply.sequence) {
            return;
        }
        let was_probe = matches!(peer.flow, Flow::Probe { .. });
        let sent_at = peer.answered(reply.sequence);
        peer.heard(now, sent_at);
        peer.promised(sent_at, reply.promise);
        match reply.conflict {
            None => peer.accepted(reply.index, log_start, sent_at.is_some(), now),
            // An answer to a message that is not under way any more says nothing new.
            Some(hint) if sent_at.is_some() => {
                Self::back_off(peer, &self.log, was_probe, reply.index, hint);
            }
            Some(_) => {}
        }
        let advanced = reply.conflict.is_none();
        self.note_read_only(at, reply.read_only);
        if advanced {
            self.advance_leader_commit(out);
            self.after_match(from, out);
        }
        self.replicate_to_node(from, out);
    }

    /// The peer's position may have moved: commits change the list of peers.
    pub(crate) fn replicate_to_node(&mut self, node: NodeId, out: &mut Effects) {
        let at = self.leading.as_ref().and_then(|l| l.position(node));
        if let Some(at) = at {
            self.replicate_to(at, out);
        }
    }

    /// The peer lacks `rejected`. Its hint names the last entry at which its log may agree; what
    /// this log has of later terms is skipped in one step (Raft §5.3, last paragraphs).
    fn back_off(
        peer: &mut Peer,
        log: &crate::log::Log,
        was_probe: bool,
        rejected: LogIndex,
        hint: LogId,
    ) {
        if !was_probe {
            // The message was refused, though by now the peer may hold what came before it: an
            // answer overtook this one. What the message carried must go again.
            peer.probe_from(peer.match_index.next());
        } else if rejected > peer.match_index {
            let agreeing = log.last_agreeing(hint.index.min(rejected.prev()), hint.term);
            peer.probe_from(agreeing.index.next().min(rejected));
        }
    }

    /// What follows once a peer holds more: a member may have caught up, a transfer may go ahead,
    /// one that left may have been told.
    fn after_match(&mut self, from: NodeId, out: &mut Effects) {
        self.check_catch_up(out);
        self.check_transfer(out);
        if let Some(leading) = self.leading.as_deref_mut() {
            leading.retain_peers(|peer| {
                peer.node != from || !peer.leaving.is_some_and(|(upto, _)| peer.knows(upto))
            });
        }
    }

    pub(crate) fn on_entries_read(
        &mut self,
        read: ReadId,
        result: Result<Vec<Entry>, ReadError>,
        out: &mut Effects,
    ) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let wanted = |peer: &Peer| peer.reading.is_some_and(|(id, _)| id == read);
        let Some(at) = leading.peers.iter().position(wanted) else {
            return;
        };
        let Some((_, first)) = leading.peers[at].reading.take() else {
            return;
        };
        match result {
            Ok(entries) if self.is_own_log(first, &entries) => self.send_read(at, entries, out),
            Ok(_) => self.fail("the log on disk is not the log in memory", out),
            Err(ReadError::Compacted) if first <= self.log.start().index => {
                self.replicate_to(at, out);
            }
            // Never a made-up `prev` or a hole instead of what cannot be read (trap 40).
            Err(_) => self.fail("entries of the log cannot be read", out),
        }
    }

    /// Whether `entries` are what the log holds from `first` on.
    fn is_own_log(&self, first: LogIndex, entries: &[Entry]) -> bool {
        let positions = first.0..;
        let is_own = |(index, entry): (u64, &Entry)| {
            let compacted = index <= self.log.start().index.0;
            entry.id.index.0 == index && (compacted || self.log.contains(entry.id))
        };
        !entries.is_empty() && positions.zip(entries).all(is_own)
    }

    /// Sends entries that were read back, if they are still what the peer needs next.
    fn send_read(&mut self, at: usize, entries: Vec<Entry>, out: &mut Effects) {
        let Some((mut sender, peers)) = self.sender() else {
            return;
        };
        let peer = &mut peers[at];
        let fits = entries
            .first()
            .is_some_and(|e| e.id.index == peer.next_index);
        let prev = peer.next_index.prev();
        if let (true, Flow::Replicate, Some(term)) = (fits, peer.flow, sender.log.term(prev)) {
            let size_bytes = entries.iter().map(Entry::size_bytes).sum();
            sender.append(peer, LogId::new(term, prev), entries, size_bytes, out);
        }
        sender.send_all(peer, out);
    }
}
