//! Many commands over one stream, answered in order, across changes of leader.

use crate::call::{Answered, Safety, Sending, backoff};
use crate::client::client_service;
use crate::error::{Error, Leader, Outcome, Reason, Result};
use crate::failure::Failure;
use crate::proto::{ApplyError, ApplyStreamReply, ApplyStreamRequest, apply_stream_reply};
use crate::reply::Reply;
use crate::{Address, Client, Code};
use backon::ExponentialBackoff;
use bytes::Bytes;
use futures_util::future::{FutureExt, OptionFuture};
use futures_util::{Stream, StreamExt};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// How many commands are on their way at a time.
const WINDOW: usize = 256;

/// Replies to a stream of commands, in their order. Dropping it stops sending; what was sent by then
/// may or may not be applied.
#[derive(Debug)]
pub struct Replies {
    replies: mpsc::Receiver<Result<Reply>>,
    driver: JoinHandle<()>,
}

impl Stream for Replies {
    type Item = Result<Reply>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.replies.poll_recv(cx)
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

pub(crate) fn start<S>(
    client: Client,
    group: String,
    expected_term: Option<u64>,
    commands: S,
) -> Replies
where
    S: Stream<Item = Bytes> + Send + Unpin + 'static,
{
    let (out, replies) = mpsc::channel(WINDOW);
    let driver = Driver {
        client,
        group,
        expected_term,
        commands: Some(commands),
        window: Window::default(),
        out,
        backoff: backoff(),
    };
    Replies {
        replies,
        driver: tokio::spawn(driver.run()),
    }
}

/// Commands taken and not yet answered to the caller, oldest first.
#[derive(Debug, Default)]
struct Window {
    slots: VecDeque<Slot>,
    /// How many left at the front so far: the number of the first slot.
    base: u64,
}

#[derive(Debug)]
struct Slot {
    command: Bytes,
    taken: Instant,
    state: SlotState,
}

#[derive(Debug)]
enum SlotState {
    /// To be sent, perhaps again.
    Waiting,
    Sent,
    Done(Result<Reply>),
}

impl Window {
    fn push(&mut self, command: Bytes) -> u64 {
        self.slots.push_back(Slot {
            command,
            taken: Instant::now(),
            state: SlotState::Sent,
        });
        self.base + self.slots.len() as u64 - 1
    }

    fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        let at = usize::try_from(number.checked_sub(self.base)?).ok()?;
        self.slots.get_mut(at)
    }

    fn finish(&mut self, number: u64, result: Result<Reply>) {
        if let Some(slot) = self.slot(number) {
            slot.state = SlotState::Done(result);
        }
    }

    /// Marks everything that waits as sent; its numbers and commands in order.
    fn send_waiting(&mut self) -> Vec<(u64, Bytes)> {
        let numbered = (self.base..).zip(&mut self.slots);
        let waiting = numbered.filter(|(_, slot)| matches!(slot.state, SlotState::Waiting));
        waiting
            .map(|(number, slot)| {
                slot.state = SlotState::Sent;
                (number, slot.command.clone())
            })
            .collect()
    }

    fn pop_done(&mut self) -> Option<Result<Reply>> {
        if !matches!(self.slots.front()?.state, SlotState::Done(_)) {
            return None;
        }
        self.base += 1;
        match self.slots.pop_front()?.state {
            SlotState::Done(result) => Some(result),
            SlotState::Waiting | SlotState::Sent => None,
        }
    }
}

struct Driver<S> {
    client: Client,
    group: String,
    expected_term: Option<u64>,
    /// None once exhausted.
    commands: Option<S>,
    window: Window,
    out: mpsc::Sender<Result<Reply>>,
    backoff: ExponentialBackoff,
}

/// One gRPC stream to one node.
struct Session {
    requests: Option<mpsc::Sender<ApplyStreamRequest>>,
    replies: Streaming<ApplyStreamReply>,
    from: Address,
    /// Numbers of the commands sent and unanswered, oldest first.
    sent: VecDeque<u64>,
    /// Something is to be sent again on another stream: send nothing more on this one.
    closing: bool,
    progressed: bool,
}

enum Event {
    Reply(ApplyStreamReply),
    Command(Option<Bytes>),
    Ended(Option<tonic::Status>),
    Late,
}

impl<S> Driver<S>
where
    S: Stream<Item = Bytes> + Send + Unpin + 'static,
{
    async fn run(mut self) {
        while self.fill_first().await {
            match self.open().await {
                Ok(session) => {
                    if self.pump(session).await {
                        self.backoff = backoff();
                    } else {
                        sleep(self.backoff.next().unwrap_or_default()).await;
                    }
                }
                Err(error) => self.fail_sent(&error),
            }
            if !self.deliver().await {
                return;
            }
        }
    }

    /// Makes sure that there is something to send; false if there never will be.
    async fn fill_first(&mut self) -> bool {
        if self.window.slots.is_empty() {
            let Some(commands) = &mut self.commands else {
                return false;
            };
            match commands.next().await {
                Some(command) => {
                    let number = self.window.push(command);
                    if let Some(slot) = self.window.slot(number) {
                        slot.state = SlotState::Waiting;
                    }
                }
                None => return false,
            }
        }
        true
    }

    /// Opens a stream and sends all that waits on it.
    async fn open(&mut self) -> Result<Session> {
        let waiting = self.window.send_waiting();
        let (numbers, commands): (VecDeque<u64>, Vec<Bytes>) = waiting.into_iter().unzip();
        let (group, expected_term) = (self.group.clone(), self.expected_term);
        let requests = Arc::new(Mutex::new(None));
        let kept = requests.clone();
        let send = move |to: Sending| {
            let (sender, receiver) = mpsc::channel(2 * WINDOW);
            for command in &commands {
                let request = ApplyStreamRequest {
                    group: group.clone(),
                    command: command.clone(),
                    expected_term,
                };
                // Never full: the channel holds more than the window.
                drop(sender.try_send(request));
            }
            *kept
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(sender);
            // A stream has no deadline; each of its commands has one, kept here.
            let request = tonic::Request::new(ReceiverStream::new(receiver));
            async move { client_service(to.channel).apply_stream(request).await }.boxed()
        };
        let Answered {
            message: replies,
            address: from,
            ..
        } = self
            .client
            .call(Safety::Write, Some(&self.group))
            .run(send)
            .await?;
        let requests = requests
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        let sent = numbers;
        Ok(Session {
            requests,
            replies,
            from,
            sent,
            closing: false,
            progressed: false,
        })
    }

    /// Runs one stream until it ends; true if any command was answered on it.
    async fn pump(&mut self, mut session: Session) -> bool {
        loop {
            if session.sent.is_empty() && (session.closing || self.commands.is_none()) {
                return session.progressed;
            }
            match self.next_event(&mut session).await {
                Event::Reply(reply) => self.take_reply(&mut session, reply),
                Event::Command(Some(command)) => self.send_command(&mut session, command),
                Event::Command(None) => {
                    self.commands = None;
                    session.requests = None;
                }
                Event::Ended(status) => self.end(&mut session, status),
                Event::Late => {
                    let error = late(&session.from, self.client.timeout());
                    self.lose(&mut session, &error);
                }
            }
            if !self.deliver().await {
                session.closing = true;
                session.sent.clear();
            }
        }
    }

    async fn next_event(&mut self, session: &mut Session) -> Event {
        let room = self.window.slots.len() < WINDOW && !session.closing;
        let command: OptionFuture<_> = self
            .commands
            .as_mut()
            .filter(|_| room)
            .map(StreamExt::next)
            .into();
        let oldest = session
            .sent
            .front()
            .and_then(|number| self.window.slot(*number));
        let due = oldest.map(|slot| slot.taken + self.client.timeout());
        let late: OptionFuture<_> = due.map(sleep_until).into();
        tokio::select! {
            message = session.replies.message() => match message {
                Ok(Some(reply)) => Event::Reply(reply),
                Ok(None) => Event::Ended(None),
                Err(status) => Event::Ended(Some(status)),
            },
            Some(command) = command => Event::Command(command),
            Some(()) = late => Event::Late,
        }
    }

    fn send_command(&mut self, session: &mut Session, command: Bytes) {
        let request = ApplyStreamRequest {
            group: self.group.clone(),
            command: command.clone(),
            expected_term: self.expected_term,
        };
        let number = self.window.push(command);
        let sent = session
            .requests
            .as_ref()
            .is_some_and(|r| r.try_send(request).is_ok());
        if sent {
            session.sent.push_back(number);
        } else {
            session.closing = true;
            if let Some(slot) = self.window.slot(number) {
                slot.state = SlotState::Waiting;
            }
        }
    }

    fn take_reply(&mut self, session: &mut Session, reply: ApplyStreamReply) {
        let Some(number) = session.sent.pop_front() else {
            return;
        };
        let result = match reply.outcome {
            Some(apply_stream_reply::Outcome::Reply(reply)) => {
                Reply::applied(reply, session.from.clone())
            }
            Some(apply_stream_reply::Outcome::Error(error)) => {
                return self.take_error(session, number, error);
            }
            None => Err(bad_reply(&session.from)),
        };
        session.progressed = true;
        self.window.finish(number, result);
    }

    fn take_error(&mut self, session: &mut Session, number: u64, error: ApplyError) {
        let limit = self.client.timeout();
        let retry = is_retryable(&error);
        let in_time = self
            .window
            .slot(number)
            .is_some_and(|slot| slot.taken.elapsed() < limit);
        let leader = error.leader_address.parse().ok().map(|address| Leader {
            id: None,
            name: String::new(),
            address,
            term: None,
        });
        if retry {
            session.closing = true;
            session.requests = None;
            let mut routes = self.client.shared.routes();
            routes.forget(&self.group, &session.from);
            if let Some(hint) = leader.as_ref().filter(|hint| hint.address != session.from) {
                routes.learn(&self.group, hint);
            }
        }
        match self.window.slot(number) {
            Some(slot) if retry && in_time => slot.state = SlotState::Waiting,
            _ => self.window.finish(number, Err(stated(error, leader))),
        }
    }

    /// The stream is over. A server that says with the end that what it did not answer was not
    /// taken, since it shuts down say, leaves nothing in doubt: that is sent elsewhere.
    fn end(&mut self, session: &mut Session, status: Option<tonic::Status>) {
        let judged = status.map(|status| Failure::judge(&status, Safety::Write, &session.from));
        let Some(failure) = judged else {
            return self.lose(session, &ended_early(&session.from));
        };
        let limit = self.client.timeout();
        for number in std::mem::take(&mut session.sent) {
            match self.window.slot(number) {
                Some(slot) if failure.retry && slot.taken.elapsed() < limit => {
                    slot.state = SlotState::Waiting;
                }
                _ => self.window.finish(number, Err(failure.error.clone())),
            }
        }
        self.lose(session, &failure.error);
    }

    /// The stream is gone, and what was sent on it is in doubt.
    fn lose(&mut self, session: &mut Session, error: &Error) {
        session.closing = true;
        session.requests = None;
        self.client
            .shared
            .routes()
            .forget(&self.group, &session.from);
        for number in session.sent.drain(..) {
            self.window.finish(number, Err(error.clone()));
        }
    }

    /// The stream could not be opened: its commands share that fate.
    fn fail_sent(&mut self, error: &Error) {
        for slot in &mut self.window.slots {
            if matches!(slot.state, SlotState::Sent) {
                slot.state = SlotState::Done(Err(error.clone()));
            }
        }
    }

    /// Hands out what is done, in order; false if nobody listens.
    async fn deliver(&mut self) -> bool {
        while let Some(result) = self.window.pop_done() {
            if self.out.send(result).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// Reasons that pass: the server says UNAVAILABLE or RESOURCE_EXHAUSTED to a call for them.
const PASSING: [(&str, Code); 9] = [
    ("NOT_LEADER", Code::Unavailable),
    ("NO_LEADER", Code::Unavailable),
    ("NO_MEMBER", Code::Unavailable),
    ("LEADER_UNREACHABLE", Code::Unavailable),
    ("TRANSFERRING", Code::Unavailable),
    ("SHUTTING_DOWN", Code::Unavailable),
    ("GROUP_LOADING", Code::Unavailable),
    ("REPLICA_FAILED", Code::Unavailable),
    ("BUSY", Code::ResourceExhausted),
];

fn passing(reason: &str) -> Option<Code> {
    PASSING
        .iter()
        .find(|(known, _)| *known == reason)
        .map(|(_, code)| *code)
}

fn is_retryable(error: &ApplyError) -> bool {
    error.outcome == Outcome::NotApplied.as_str() && passing(&error.reason).is_some()
}

fn stated(error: ApplyError, leader: Option<Leader>) -> Error {
    let outcome = Outcome::parse(&error.outcome).unwrap_or(Outcome::Unknown);
    let code = match error.reason.as_str() {
        "DEADLINE_EXCEEDED" => Code::DeadlineExceeded,
        "TERM_MISMATCH" => Code::Aborted,
        "TOO_LARGE" | "INVALID_ARGUMENT" => Code::InvalidArgument,
        "PLUGIN_FAULT" | "STORAGE_FAILED" | "INTERNAL" => Code::Internal,
        reason if reason.ends_with("_NOT_FOUND") => Code::NotFound,
        reason => passing(reason).unwrap_or(match outcome {
            Outcome::Unknown => Code::Aborted,
            Outcome::Applied | Outcome::NotApplied => Code::FailedPrecondition,
        }),
    };
    Error::new(Reason::from(error.reason), code, outcome, error.message).with_leader(leader)
}

fn ended_early(from: &Address) -> Error {
    let message = format!("{from} ended the stream before the answer came");
    Error::new(
        Reason::CONNECTION_LOST,
        Code::Unavailable,
        Outcome::Unknown,
        message,
    )
}

fn late(from: &Address, limit: Duration) -> Error {
    let message = format!(
        "{from} did not answer within {}",
        crate::pool::seconds(limit)
    );
    Error::new(
        Reason::DEADLINE_EXCEEDED,
        Code::DeadlineExceeded,
        Outcome::Unknown,
        message,
    )
}

fn bad_reply(from: &Address) -> Error {
    let message = format!("the reply of {from} is incomplete: is it of another version?");
    Error::new(Reason::BAD_REPLY, Code::Internal, Outcome::Unknown, message)
}
