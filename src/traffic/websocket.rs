//! Owns the life of one WebSocket: it opens, sends frames that must come back as sent, and closes when its time is up.
//! Must not know when it was due or how it is counted.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::http::{Response, Uri};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::answer::Answer;
use super::check::Trouble;
use super::mix::Request;
use super::plan::Target;
use super::pool::Pool;
use super::report::FailureKind;
use super::stream::Stream;

/// Between two frames of one WebSocket.
const FRAME_INTERVAL: Duration = Duration::from_millis(200);

/// How a WebSocket's opening was answered, what became of it, and the frames that came back.
pub struct Life {
    pub opened: Option<(Answer, Instant)>,
    pub frames: u64,
    pub trouble: Option<Trouble>,
}

/// Lives a WebSocket's life; it is shorter once `ending` is true.
pub async fn live(
    pool: &Pool,
    target: &Target,
    request: &Request,
    (id, cookies): (&str, Option<&str>),
    ending: watch::Receiver<bool>,
) -> Life {
    let fail = |kind, detail: String| Life { opened: None, frames: 0, trouble: Some(Trouble { kind, detail }) };
    let stream = match pool.open().await {
        Ok(connection) => connection.stream,
        Err(error) => return fail(FailureKind::Connect, error.to_string()),
    };
    let opening = match opening(target, request, id, cookies) {
        Ok(opening) => opening,
        Err(error) => return fail(FailureKind::WebSocket, error),
    };
    match tokio_tungstenite::client_async(opening, stream).await {
        Ok((socket, response)) => {
            let opened = Some((answer(&response), Instant::now()));
            let mut conversation = Conversation { id, sent: 0, awaited: VecDeque::new(), echoed: 0 };
            let trouble = conversation.hold(socket, request.lifetime(), ending).await.err();
            Life { opened, frames: conversation.echoed, trouble }
        }
        Err(Error::Http(response)) => {
            Life { opened: Some((answer(&response), Instant::now())), frames: 0, trouble: None }
        }
        Err(error) => fail(FailureKind::WebSocket, format!("it did not open: {error}")),
    }
}

fn opening(
    target: &Target,
    request: &Request,
    id: &str,
    cookies: Option<&str>,
) -> Result<ClientRequestBuilder, String> {
    let host = target.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let authority = host.map_or_else(|| target.url.authority(), |(_, value)| value.clone());
    let scheme = if target.url.secure { "wss" } else { "ws" };
    let url = format!("{scheme}://{authority}{}", target.url.join(&request.path));
    let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
    let ids = [("X-Request-Id", id), ("X-Traffic-Id", id)];
    let mut opening = ClientRequestBuilder::new(uri);
    for (name, value) in ids.into_iter().chain(cookies.map(|cookies| ("Cookie", cookies))) {
        opening = opening.with_header(name, value);
    }
    for (name, value) in target.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
        opening = opening.with_header(name, value);
    }
    Ok(opening)
}

fn answer<B>(response: &Response<B>) -> Answer {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Answer {
        status: response.status().as_u16(),
        version: header("neap-version").or_else(|| header("x-version")),
        traffic_id: header("x-traffic-id"),
        retry_after: header("retry-after"),
        ..Answer::default()
    }
}

/// The frames of one WebSocket.
struct Conversation<'a> {
    id: &'a str,
    sent: u64,
    /// Sent, and not yet back. Bounded by the lifetime over the interval.
    awaited: VecDeque<String>,
    echoed: u64,
}

fn early(detail: impl Into<String>) -> Trouble {
    Trouble::new(FailureKind::ClosedEarly, detail)
}

impl Conversation<'_> {
    async fn hold(
        &mut self,
        mut socket: WebSocketStream<Stream>,
        lifetime: Duration,
        mut ending: watch::Receiver<bool>,
    ) -> Result<(), Trouble> {
        let end = Instant::now() + lifetime;
        self.send(&mut socket).await?;
        let mut tick = interval_at(Instant::now() + FRAME_INTERVAL, FRAME_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = sleep_until(end) => break,
                () = async { let _ = ending.wait_for(|ending| *ending).await; } => break,
                _ = tick.tick() => self.send(&mut socket).await?,
                message = socket.next() => self.receive(message)?,
            }
        }
        // What was sent must come back before the end is asked for.
        while !self.awaited.is_empty() {
            let message = socket.next().await;
            self.receive(message)?;
        }
        socket.close(None).await.map_err(|error| early(error.to_string()))?;
        while let Some(Ok(_)) = socket.next().await {}
        Ok(())
    }

    async fn send(&mut self, socket: &mut WebSocketStream<Stream>) -> Result<(), Trouble> {
        let frame = format!("{} {}", self.id, self.sent);
        self.sent += 1;
        self.awaited.push_back(frame.clone());
        socket.send(Message::text(frame)).await.map_err(|error| early(error.to_string()))
    }

    fn receive(&mut self, message: Option<Result<Message, Error>>) -> Result<(), Trouble> {
        match message {
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(()),
            Some(Ok(Message::Text(text))) if self.awaited.front().is_some_and(|due| *due == text.as_str()) => {
                self.awaited.pop_front();
                self.echoed += 1;
                Ok(())
            }
            Some(Ok(Message::Close(None))) => Err(early("closed by the other side, without a reason")),
            Some(Ok(Message::Close(Some(close)))) => Err(early(format!("closed by the other side: {close}"))),
            Some(Ok(message)) => {
                let due = self.awaited.front().map_or("nothing", String::as_str);
                let came: String = message.to_string().chars().take(100).collect();
                Err(Trouble::new(FailureKind::WebSocket, format!("a frame \"{came}\" came, expected {due}")))
            }
            Some(Err(error)) => Err(early(error.to_string())),
            None => Err(early("the connection ended")),
        }
    }
}
