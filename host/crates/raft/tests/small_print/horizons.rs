//! How old a state is.

use crate::support::{Image, Seen, Solo, id, say, voters};
use kontiki_raft::{
    Echo, Effect, ElectionTurn, Heartbeat, HorizonNews, Instant, LogIndex, MessageBody,
};
use std::time::Duration;

/// A follower of node 2, and the echo of its latest answer.
fn follower() -> (Solo, Echo) {
    let mut node = Solo::open(voters([1, 2, 3]), Image::default());
    let effects = node.receive(2, 1, say::heartbeat(0));
    let echo = |effect: &Effect| match effect {
        Effect::Send { message, .. } => match &message.body {
            MessageBody::HeartbeatReply(reply) => reply.echo,
            _ => None,
        },
        _ => None,
    };
    assert_eq!(effects.sent().len(), 1);
    let echo = effects.iter().find_map(echo);
    (node, echo.expect("every answer has one"))
}

fn tell(node: &mut Solo, echo: Echo, commit: u64) -> Option<(Instant, u64)> {
    let news = HorizonNews {
        commit: LogIndex(commit),
        age: Duration::ZERO,
        echo,
    };
    let body = MessageBody::Heartbeat(Heartbeat {
        commit: LogIndex(0),
        round: 2,
        horizon: Some(news),
        turn: ElectionTurn::Any,
    });
    node.receive(2, 1, body);
    node.core
        .horizon()
        .map(|known| (known.as_of, known.commit.0))
}

#[test]
fn only_the_echo_of_an_answer_of_ones_own_proves_anything() {
    let (mut node, echo) = follower();
    assert_eq!(node.last_id(), id(0, 0));
    let other_process = Echo {
        incarnation: echo.incarnation + 1,
        ..echo
    };
    assert_eq!(tell(&mut node, other_process, 5), None);
    let to_come = Echo {
        at: echo.at.plus(Duration::from_secs(1)),
        ..echo
    };
    assert_eq!(tell(&mut node, to_come, 5), None);
    assert_eq!(tell(&mut node, echo, 5), Some((echo.at, 5)));
}

#[test]
fn news_of_a_moment_that_is_known_changes_nothing() {
    let (mut node, echo) = follower();
    tell(&mut node, echo, 5);
    assert_eq!(tell(&mut node, echo, 9), Some((echo.at, 5)));
}
