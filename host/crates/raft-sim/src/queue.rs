//! Future events in order of simulated time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A queue of events. Events of the same moment come out in the order in which they went in. The
/// heap holds only small keys; the events lie still in slots that are used again.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    slots: Vec<Option<E>>,
    free: Vec<u32>,
    pushed: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::with_capacity(1_024),
            slots: Vec::with_capacity(1_024),
            free: Vec::with_capacity(1_024),
            pushed: 0,
        }
    }
}

impl<E> Queue<E> {
    /// Puts an event at a moment.
    pub fn push(&mut self, at_us: u64, event: E) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(event);
                slot
            }
            None => {
                self.slots.push(Some(event));
                (self.slots.len() - 1) as u32
            }
        };
        self.pushed += 1;
        self.heap.push(Reverse((at_us, self.pushed, slot)));
    }

    /// When the first event is due; `u64::MAX` if there is none.
    #[must_use]
    pub fn next_at(&self) -> u64 {
        self.heap.peek().map_or(u64::MAX, |Reverse((at, _, _))| *at)
    }

    /// Takes the first event out.
    pub fn pop(&mut self) -> Option<(u64, E)> {
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        let event = self.slots[slot as usize]
            .take()
            .expect("a slot in the heap holds its event");
        Some((at, event))
    }

    /// How many events wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_of_arrival() {
        let mut queue = Queue::default();
        queue.push(5, 'b');
        queue.push(9, 'd');
        queue.push(5, 'c');
        queue.push(1, 'a');
        assert_eq!(queue.next_at(), 1);
        let order: String = std::iter::from_fn(|| queue.pop().map(|(_, e)| e)).collect();
        assert_eq!(order, "abcd");
        queue.push(3, 'e');
        assert_eq!(queue.pop(), Some((3, 'e')));
        assert!(queue.is_empty());
    }
}
