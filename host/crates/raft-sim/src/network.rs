//! The simulated network: which links are cut, and how long a message takes.

use crate::plan::Plan;
use crate::random::Random;

/// Links between nodes, by their numbers.
#[derive(Debug)]
pub struct Network {
    /// `cut[from]` has bit `to` where nothing passes.
    cut: Vec<u32>,
    /// Latest delivery per link, for links that keep the order.
    last_at: Vec<u64>,
    nodes_max: usize,
}

impl Network {
    /// A whole network.
    #[must_use]
    pub fn new(nodes_max: usize) -> Self {
        Self {
            cut: vec![0; nodes_max],
            last_at: vec![0; nodes_max * nodes_max],
            nodes_max,
        }
    }

    /// Whether a message may pass now.
    #[must_use]
    pub fn passes(&self, from: usize, to: usize) -> bool {
        self.cut[from] & (1 << to) == 0
    }

    /// Cuts one direction, or mends it.
    pub fn set_cut(&mut self, from: usize, to: usize, cut: bool) {
        if cut {
            self.cut[from] |= 1 << to;
        } else {
            self.cut[from] &= !(1 << to);
        }
    }

    /// Only nodes of the same side can talk; nodes in both masks talk to all.
    pub fn split(&mut self, a: u32, b: u32) {
        for from in 0..self.nodes_max {
            let side = 1 << from;
            let unreachable = match (a & side != 0, b & side != 0) {
                (true, true) | (false, false) => 0,
                (true, false) => b & !a,
                (false, true) => a & !b,
            };
            self.cut[from] = unreachable;
        }
    }

    /// Mends everything.
    pub fn heal(&mut self) {
        self.cut.fill(0);
    }

    /// When a message sent now arrives; none if it is lost.
    pub fn send(
        &mut self,
        plan: &Plan,
        random: &mut Random,
        now: u64,
        from: usize,
        to: usize,
    ) -> Option<u64> {
        if !self.passes(from, to) || random.chance(plan.loss_ppm) {
            return None;
        }
        let mut at = now + random.between(plan.latency_us.0, plan.latency_us.1);
        if random.chance(plan.latency_tail_ppm) {
            at += random.below(plan.latency_tail_us);
        }
        if plan.in_order {
            let last = &mut self.last_at[from * self.nodes_max + to];
            at = at.max(*last);
            *last = at;
        }
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Mode;

    #[test]
    fn a_split_separates_sides_and_a_bridge_joins_them() {
        let mut network = Network::new(5);
        network.split(0b00011, 0b11100);
        assert!(network.passes(0, 1) && !network.passes(0, 2) && !network.passes(4, 1));
        network.split(0b00111, 0b11100);
        assert!(network.passes(0, 2) && network.passes(2, 4) && !network.passes(0, 4));
        network.heal();
        assert!(network.passes(0, 4));
    }

    #[test]
    fn a_cut_has_a_direction() {
        let mut network = Network::new(2);
        network.set_cut(0, 1, true);
        assert!(!network.passes(0, 1) && network.passes(1, 0));
        network.set_cut(0, 1, false);
        assert!(network.passes(0, 1));
    }

    #[test]
    fn an_ordered_link_never_overtakes() {
        let mut random = Random::new(4);
        let mut plan = Plan::draw(&mut random, Mode::Usual);
        plan.in_order = true;
        plan.loss_ppm = 0;
        let mut network = Network::new(2);
        let times: Vec<u64> = (0..200)
            .filter_map(|n| network.send(&plan, &mut random, n, 0, 1))
            .collect();
        assert_eq!(times.len(), 200);
        assert!(times.is_sorted());
    }
}
