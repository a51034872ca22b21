//! One call: where it is sent, how often, and when it is given up.

use crate::client::Shared;
use crate::error::{Attempt, Error, Leader, Outcome, Phase, Reason, Result};
use crate::failure::Failure;
use crate::pool::{ConnectFailure, Connection, seconds};
use crate::{Address, Code};
use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use futures_util::future::BoxFuture;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// Whether a call may be sent again when nobody knows what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Safety {
    /// It has no effect, or doing it twice is doing it once.
    Read,
    /// Doing it twice is not doing it once.
    Write,
}

/// One attempt, as the sender sees it.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) channel: Channel,
    /// Ask for a redirection rather than forwarding.
    pub(crate) no_forward: bool,
    time_left: Duration,
}

impl Sending {
    /// Wraps a message with the deadline for the server.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.time_left);
        request
    }
}

/// A call that was answered.
#[derive(Debug)]
pub(crate) struct Answered<T> {
    pub(crate) message: T,
    pub(crate) address: Address,
    /// The node did not forward the call.
    pub(crate) direct: bool,
}

/// How many redirections one call follows without a pause; more means that nodes contradict each
/// other, and a pause lets them settle.
const HINTS_MAX: u32 = 5;
/// After how many connections that broke under it a call is not sent again: then it is likely the
/// answer that breaks them.
const LOST_MAX: u32 = 4;
/// How many attempts an error lists.
const ATTEMPTS_MAX: usize = 16;

/// A call under way.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    shared: &'a Shared,
    safety: Safety,
    group: Option<&'a str>,
    pinned: Option<Address>,
    started: Instant,
    deadline: Instant,
    backoff: ExponentialBackoff,
    /// Addresses not tried since the last pause.
    round: Vec<Address>,
    /// Addresses in vain since the last pause: a hint to them is not worth following again.
    vain: Vec<Address>,
    hints_left: u32,
    /// A hint led nowhere, so let the node forward.
    forward: bool,
    tried: Vec<Attempt>,
    last: Option<Error>,
    /// Some node was reached, whatever it said.
    reached: bool,
    /// How often a connection broke after the call had been sent.
    lost: u32,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        shared: &'a Shared,
        safety: Safety,
        group: Option<&'a str>,
        limit: Duration,
        pinned: Option<Address>,
    ) -> Self {
        let started = Instant::now();
        let mut call = Self {
            shared,
            safety,
            group,
            pinned,
            started,
            deadline: started + limit,
            backoff: backoff(),
            round: vec![],
            vain: vec![],
            hints_left: HINTS_MAX,
            forward: false,
            tried: vec![],
            last: None,
            reached: false,
            lost: 0,
        };
        call.new_round();
        call
    }

    /// Sends until there is an answer, a final refusal, or no time.
    pub(crate) async fn run<T, S>(mut self, send: S) -> Result<Answered<T>>
    where
        S: Fn(Sending) -> BoxFuture<'static, std::result::Result<Response<T>, Status>>,
    {
        loop {
            let Some(address) = self.next_address() else {
                self.pause().await?;
                continue;
            };
            let Some(connection) = self.connect(&address).await? else {
                continue;
            };
            let sent = Instant::now();
            match self.send_once(&connection, &send).await {
                Ok(message) => {
                    self.shared.routes().answered(&address);
                    return Ok(Answered {
                        message,
                        address,
                        direct: !self.forward,
                    });
                }
                Err(failure) => self.after(failure, &connection, sent).await?,
            }
        }
    }

    /// The leader if it is known and was not in vain just now; else the next node of the round.
    fn next_address(&mut self) -> Option<Address> {
        if self.pinned.is_some() {
            return self.round.pop();
        }
        let leader = self.group.and_then(|group| {
            let routes = self.shared.routes();
            routes.leader(group).map(|leader| leader.address.clone())
        });
        let next = match leader {
            Some(leader) if !self.vain.contains(&leader) => Some(leader),
            _ => self.round.first().cloned(),
        };
        if let Some(next) = &next {
            self.round.retain(|address| address != next);
        }
        next
    }

    fn new_round(&mut self) {
        self.vain.clear();
        self.hints_left = HINTS_MAX;
        self.round = match &self.pinned {
            Some(only) => vec![only.clone()],
            None => self.shared.routes().addresses(),
        };
    }

    async fn connect(&mut self, address: &Address) -> Result<Option<Connection>> {
        let began = Instant::now();
        let left = self.deadline.saturating_duration_since(began);
        let failure = match timeout(left, self.shared.pool.connection(address)).await {
            Ok(Ok(connection)) => {
                self.reached = true;
                return Ok(Some(connection));
            }
            Ok(Err(failure)) => failure,
            Err(_) => ConnectFailure {
                phase: Phase::Connect,
                problem: format!("no answer within {}", seconds(left)),
            },
        };
        self.note(address, failure.phase, failure.problem, began);
        self.in_vain(address);
        Ok(None)
    }

    async fn send_once<T, S>(
        &self,
        connection: &Connection,
        send: &S,
    ) -> std::result::Result<T, Failure>
    where
        S: Fn(Sending) -> BoxFuture<'static, std::result::Result<Response<T>, Status>>,
    {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let sending = Sending {
            channel: connection.channel.clone(),
            no_forward: self.group.is_some() && self.pinned.is_none() && !self.forward,
            time_left: left,
        };
        let judge = |status| Failure::judge(&status, self.safety, &connection.address);
        match timeout(left, send(sending)).await {
            Ok(answer) => answer.map(Response::into_inner).map_err(judge),
            Err(_) => Err(judge(Status::deadline_exceeded("no answer"))),
        }
    }

    /// Decides what follows a failed attempt; an error ends the call.
    async fn after(
        &mut self,
        failure: Failure,
        connection: &Connection,
        sent: Instant,
    ) -> Result<()> {
        let address = &connection.address;
        if failure.broken {
            self.shared.pool.discard(connection);
        }
        let ask_others = *failure.error.reason() == Reason::GROUP_NOT_FOUND
            && self.round.iter().any(|other| !self.vain.contains(other));
        self.note(
            address,
            failure.phase,
            failure.error.message().to_owned(),
            sent,
        );
        self.lost += u32::from(*failure.error.reason() == Reason::CONNECTION_LOST);
        if (!failure.retry && !ask_others) || self.lost > LOST_MAX {
            if failure.broken || *failure.error.reason() == Reason::DEADLINE_EXCEEDED {
                // Whoever did not answer may be cut off: the next call need not begin there.
                self.in_vain(address);
                self.shared.routes().suspect(address);
            }
            return Err(self.finish(failure.error));
        }
        self.in_vain(address);
        let hint = failure.error.leader().cloned();
        self.last = Some(failure.error);
        if let Some(hint) = hint {
            self.follow(&hint, connection).await;
        }
        Ok(())
    }

    /// Goes where a refusal points, if that is a member and worth a try.
    async fn follow(&mut self, hint: &Leader, connection: &Connection) {
        let Some(group) = self.group else { return };
        if self.hints_left == 0 || self.vain.contains(&hint.address) || self.pinned.is_some() {
            return;
        }
        self.hints_left -= 1;
        if !self.shared.routes().knows(&hint.address) {
            self.shared.refresh_members(connection).await;
        }
        let mut routes = self.shared.routes();
        if routes.knows(&hint.address) {
            routes.learn(group, hint);
        } else {
            // The node knows its leader by an address that is none of a member's: let it forward.
            self.forward = true;
            self.round.push(connection.address.clone());
        }
    }

    fn in_vain(&mut self, address: &Address) {
        self.vain.push(address.clone());
        let mut routes = self.shared.routes();
        match self.group {
            Some(group) => routes.forget(group, address),
            None => routes.forget("", address),
        }
    }

    /// Waits before the next round; an error if there will be none.
    async fn pause(&mut self) -> Result<()> {
        let delay = self.backoff.next().unwrap_or(PAUSE_MAX).min(PAUSE_MAX);
        let now = Instant::now();
        let left = self.deadline.saturating_duration_since(now);
        let unreached = !self.reached && now - self.started >= self.shared.options.patience;
        let unknown = self
            .last
            .as_ref()
            .is_some_and(|error| *error.reason() == Reason::GROUP_NOT_FOUND);
        if unreached || unknown || left < LAST_ROUND {
            return Err(self.give_up());
        }
        // One more round just before the end beats giving up early.
        let delay = delay.min(left - LAST_ROUND / 2);
        sleep(delay).await;
        self.new_round();
        Ok(())
    }

    fn give_up(&mut self) -> Error {
        let waited = seconds(self.started.elapsed());
        let error = match self.last.take() {
            Some(last) if *last.reason() == Reason::GROUP_NOT_FOUND => last,
            Some(last) => {
                let message = format!("{} (tried for {waited})", last.message());
                last.with_message(message)
            }
            None => Error::new(
                Reason::UNREACHABLE,
                Code::Unavailable,
                Outcome::NotApplied,
                format!("no node could be reached within {waited}"),
            ),
        };
        self.finish(error)
    }

    fn finish(&mut self, error: Error) -> Error {
        let error = error
            .with_tried(std::mem::take(&mut self.tried))
            .of_group(self.group);
        match self
            .group
            .filter(|_| *error.reason() == Reason::GROUP_NOT_FOUND)
        {
            // Each node speaks for itself only; here all have been asked.
            Some(group) => error.with_message(format!("no reachable node has a group {group:?}")),
            None => error,
        }
    }

    fn note(&mut self, address: &Address, phase: Phase, problem: String, began: Instant) {
        let elapsed = began.elapsed();
        let same = |a: &&mut Attempt| a.address == *address && a.phase == phase;
        if let Some(again) = self.tried.iter_mut().find(same) {
            again.times += 1;
            again.problem = problem;
            again.elapsed = elapsed;
            return;
        }
        if self.tried.len() == ATTEMPTS_MAX {
            self.tried.remove(0);
        }
        let address = address.clone();
        self.tried.push(Attempt {
            address,
            phase,
            problem,
            elapsed,
            times: 1,
        });
    }
}

const PAUSE_MAX: Duration = Duration::from_secs(1);
/// What must be left of a call's time for another round to make sense.
const LAST_ROUND: Duration = Duration::from_millis(50);

/// Pauses between rounds: 10 ms doubling to 1 s, each with as much again of jitter at most.
pub(crate) fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(10))
        .with_max_delay(PAUSE_MAX)
        .without_max_times()
        .with_jitter()
        .build()
}
