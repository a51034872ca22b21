//! Runs that are spoilt on purpose: what only a whole world can break.

use super::calm::check_nothing_left;
pub(crate) use super::ghosts::tests::a_late_message_that_raises_the_term_is_found;
use super::limits::Limits;
use super::{Mode, Setup, Words, World, numbers};
use crate::oracle::{Answer, Ask, Check, Invariant, assert_breaks};
use kontiki_raft::{Instant, Status};

/// A cluster that has worked for a while without faults: at least three voters, of which one
/// leads, and clients that also read.
fn working() -> World {
    let fit = |plan: &crate::plan::Plan| {
        let reads = plan.read_ppm > 0 && plan.settings.cache_size_bytes_max == 2 << 10;
        plan.voters >= 3 && reads && !plan.lose_majority
    };
    for seed in 1.. {
        let setup = Setup {
            seed,
            steps: 4_000,
            mode: Mode::Calm,
            bug: None,
        };
        let mut world = World::new(setup, Words::None).unwrap();
        if !fit(&world.plan) {
            continue;
        }
        while world.steps() < setup.steps {
            world.step().unwrap();
        }
        if world.leader().is_some_and(|n| world.oracle.has_started(n)) {
            return world;
        }
    }
    unreachable!("one seed of a few fits");
}

/// A cluster whose members agree after the faults.
fn settled() -> (World, usize) {
    let mut world = working();
    world.begin_calm().unwrap();
    world.settle().unwrap();
    let leader = world.settled_leader().unwrap();
    (world, leader)
}

#[test]
pub(crate) fn a_core_that_cannot_talk_is_not_live() {
    let mut world = working();
    world.begin_calm().unwrap();
    for n in numbers(world.core_nodes) {
        for other in numbers(world.core_nodes & !(1 << n)) {
            world.network.set_cut(n, other, true);
        }
    }
    assert_breaks(world.settle(), Invariant::Liveness);
}

#[test]
pub(crate) fn a_leader_that_is_deposed_afterwards_is_found() {
    let (mut world, leader) = settled();
    world.keeps_leader(leader).unwrap();
    let others = world.voters() & world.core_nodes & !(1 << leader);
    let rival = numbers(others).next().unwrap();
    world.campaign_at(rival).unwrap();
    assert_breaks(world.keeps_leader(leader), Invariant::Stability);
}

#[test]
pub(crate) fn leadership_that_goes_back_and_forth_is_found() {
    let (mut world, _) = settled();
    world.becomes_rightful().unwrap();
    world.counters.takeovers += 1_000;
    assert_breaks(world.becomes_rightful(), Invariant::Rightful);
}

#[test]
pub(crate) fn a_stale_value_is_found_by_values_and_times_alone() {
    let mut world = working();
    world.judge_history().unwrap();
    let requests = world.oracle.requests();
    let acknowledged = |of: u8, before: u64| {
        requests.iter().any(|request| {
            request.ask == Ask::Write { key: of }
                && matches!(request.answer, Some(Answer::Applied(_)))
                && request.answered_us < before
        })
    };
    let late = requests.iter().position(|request| match request.ask {
        Ask::Read { key, .. } => {
            matches!(request.answer, Some(Answer::Served(..)))
                && acknowledged(key, request.asked_us)
        }
        _ => false,
    });
    let token = late.unwrap() as u64 + 1;
    world.oracle.spoil_read(token, 0);
    assert_breaks(world.judge_history(), Invariant::Linearizable);
}

fn status(world: &World, n: usize) -> Status {
    let node = &world.nodes[n];
    let local = Instant(node.clock.local(world.now));
    node.core.as_ref().unwrap().status(local)
}

#[test]
pub(crate) fn every_limit_that_is_exceeded_is_found() {
    let world = working();
    let leader = world.leader().unwrap();
    let settings = world.plan.settings.clone();
    let limits = Limits::of(&world.plan);
    let volatile = 10_000;
    let check = |spoil: &dyn Fn(&mut Status)| -> Check {
        let mut status = status(&world, leader);
        spoil(&mut status);
        limits.check(&status, || volatile, 5)
    };
    check(&|status| {
        status.uncommitted_size_bytes = settings.uncommitted_size_bytes_max;
        status.cache_size_bytes = volatile;
        status.peers[0].inflight_size_bytes = settings.inflight_size_bytes_max;
        status.peers[0].inflight_messages = settings.inflight_messages_max;
        status.reads_pending = 5;
    })
    .unwrap();
    let spoilers: [&dyn Fn(&mut Status); 6] = [
        &|status| status.uncommitted_size_bytes = settings.uncommitted_size_bytes_max + 33,
        &|status| status.cache_size_bytes = volatile + 1,
        &|status| {
            status.peers[0].inflight_size_bytes = 2 * settings.inflight_size_bytes_max + (1 << 20)
        },
        &|status| status.peers[1].inflight_messages = settings.inflight_messages_max + 1,
        &|status| status.reads_pending = 6,
        &|status| {
            status.applying_index.0 =
                status.applied_index.0 + settings.apply_inflight_entries_max as u64 + 1;
        },
    ];
    for spoil in spoilers {
        assert_breaks(check(spoil), Invariant::Bounded);
    }
}

#[test]
pub(crate) fn what_is_left_when_all_is_settled_is_found() {
    let (world, leader) = settled();
    world.nothing_is_left().unwrap();
    let node = &world.nodes[leader];
    let mut left = status(&world, leader);
    check_nothing_left(&left, node.id).unwrap();
    left.reads_pending = 1;
    let found = check_nothing_left(&left, node.id);
    assert_breaks(found, Invariant::Bounded);
}
