//! How many connections a node lets in, and who makes room for a newcomer.
//!
//! Every connection costs a descriptor, and the store needs some of its own: without a limit a few
//! hundred connections that say nothing would keep it from opening a file. One address may hold most
//! places but not all. Where there is no place, the oldest connection that has not said a word gives
//! its place up; else the newcomer is refused.

use crate::node::context::lock;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;

/// The places of a node. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    refused: AtomicU64,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    /// Everybody who has a place, by age.
    present: HashMap<u64, IpAddr>,
    by_source: HashMap<IpAddr, usize>,
    /// Those who have not said a word, oldest first.
    silent: BTreeMap<u64, CancellationToken>,
}

/// One connection's place; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Inner>,
    number: u64,
    given_up: CancellationToken,
}

impl Places {
    /// At least one place.
    pub(crate) fn new(max: usize) -> Self {
        Self(Arc::new(Inner {
            max: max.max(1),
            refused: AtomicU64::new(0),
            taken: Mutex::default(),
        }))
    }

    /// How many there are.
    pub(crate) fn max(&self) -> usize {
        self.0.max
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        lock(&self.0.taken).present.len()
    }

    /// Connections that were refused so far.
    pub(crate) fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// A place for a connection from `source`; none if it is to be refused.
    pub(crate) fn take(&self, source: IpAddr) -> Option<Place> {
        let (max, of_one_max) = (self.0.max, (self.0.max - self.0.max / 4).max(1));
        let mut taken = lock(&self.0.taken);
        if taken.of(source) >= of_one_max {
            taken.free_one(|from| from == source);
        } else if taken.present.len() >= max {
            taken.free_one(|_| true);
        }
        if taken.of(source) >= of_one_max || taken.present.len() >= max {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let number = taken.next;
        taken.next += 1;
        taken.present.insert(number, source);
        *taken.by_source.entry(source).or_default() += 1;
        let given_up = CancellationToken::new();
        taken.silent.insert(number, given_up.clone());
        drop(taken);
        Some(Place {
            places: Arc::clone(&self.0),
            number,
            given_up,
        })
    }
}

impl Place {
    /// Whoever has it has said something: nobody takes it away any more.
    pub(crate) fn spoke(&self) {
        lock(&self.places.taken).silent.remove(&self.number);
    }

    /// Cancelled when another has got the place.
    pub(crate) fn given_up(&self) -> &CancellationToken {
        &self.given_up
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.places.taken).leave(self.number);
    }
}

impl Taken {
    fn of(&self, source: IpAddr) -> usize {
        self.by_source.get(&source).copied().unwrap_or_default()
    }

    /// Takes the place of the oldest that is silent.
    fn free_one(&mut self, may: impl Fn(IpAddr) -> bool) {
        let mut silent = self.silent.iter();
        let oldest = silent.find(|(number, _)| self.present.get(number).is_some_and(|at| may(*at)));
        if let Some((number, given_up)) = oldest.map(|(number, token)| (*number, token.clone())) {
            given_up.cancel();
            self.leave(number);
        }
    }

    /// Harmless if its place was taken before.
    fn leave(&mut self, number: u64) {
        self.silent.remove(&number);
        let Some(source) = self.present.remove(&number) else {
            return;
        };
        if let Some(count) = self.by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn who_says_nothing_makes_room() {
        let places = Places::new(4);
        let early: Vec<_> = (1..=4).map(|n| places.take(from(n)).unwrap()).collect();
        early[0].spoke();
        let late = places.take(from(9)).unwrap();
        let gone: Vec<_> = early
            .iter()
            .map(|place| place.given_up().is_cancelled())
            .collect();
        assert_eq!(gone, [false, true, false, false]);
        for place in early[2..].iter().chain([&late]) {
            place.spoke();
        }
        assert!(places.take(from(10)).is_none(), "nobody is silent");
        assert_eq!((places.taken(), places.refused()), (4, 1));
        drop(early);
        assert_eq!(places.taken(), 1);
    }

    #[test]
    fn one_address_cannot_hold_every_place() {
        let places = Places::new(8);
        let greedy: Vec<_> = (0..6).map(|_| places.take(from(1)).unwrap()).collect();
        for place in &greedy {
            place.spoke();
        }
        assert!(places.take(from(1)).is_none());
        let other = places.take(from(2)).unwrap();
        other.spoke();
        let silent = places.take(from(3)).unwrap();
        assert!(places.take(from(1)).is_none(), "not at another's expense");
        assert!(!silent.given_up().is_cancelled());
        drop(greedy);
        assert!(places.take(from(1)).is_some());
    }
}
