//! How much a node has in hand at once: past that a request is refused at once instead of waiting without a bound.
//!
//! Two gates. *Requests* are those between their head and the head of their answer. *Streams* are answers that go on until
//! the client leaves, and long polls while they wait: these have left the other gate. Health checks pass without one, or
//! an orchestrator would kill a node for being busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{Request, State};
use axum::http::header::{RETRY_AFTER, VARY};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rand::Rng as _;

use crate::http::App;
use crate::http::problem::{Code, Problem};
use crate::http::read;
use crate::limits;

/// The gates of a node.
#[derive(Debug)]
pub struct Admission {
    requests: Arc<Gate>,
    streams: Arc<Gate>,
}

/// Lets so many in at a time.
#[derive(Debug)]
struct Gate {
    name: &'static str,
    inside: AtomicUsize,
    max: usize,
}

/// A place inside a gate.
#[derive(Debug)]
pub struct Pass(Arc<Gate>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    fn new(name: &'static str, max: usize) -> Arc<Self> {
        Arc::new(Self { name, inside: AtomicUsize::new(0), max })
    }

    fn enter(self: &Arc<Self>) -> Result<Pass, Problem> {
        let before = self.inside.fetch_add(1, Ordering::Relaxed);
        let pass = Pass(Arc::clone(self));
        if before < self.max { Ok(pass) } else { Err(self.full()) }
    }

    fn full(&self) -> Problem {
        let detail = format!("the node has as many {} in hand as it may: limit={}", self.name, self.max);
        Problem::new(Code::Overloaded, detail).with("limit", self.max).with_policy(self.name, self.max)
    }
}

/// A request that waits for news: it counts as a stream meanwhile.
#[derive(Debug)]
pub struct Parked<'a> {
    requests: &'a Gate,
    _stream: Pass,
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        // Back inside, if need be past the limit: its work is as good as done.
        self.requests.inside.fetch_add(1, Ordering::Relaxed);
    }
}

impl Admission {
    /// Lets so many requests and streams in at a time.
    pub fn new(requests: usize, streams: usize) -> Self {
        Self { requests: Gate::new("requests", requests), streams: Gate::new("streams", streams) }
    }

    /// Takes a place for a stream, to be kept as long as it is open.
    ///
    /// # Errors
    /// The problem to answer when there is none.
    pub fn stream(&self) -> Result<Pass, Problem> {
        self.streams.enter()
    }

    /// Takes a place for a request that will wait, and gives back the one that it was let in with.
    ///
    /// # Errors
    /// The problem to answer when there is none.
    pub fn park(&self) -> Result<Parked<'_>, Problem> {
        let stream = self.streams.enter()?;
        self.requests.inside.fetch_sub(1, Ordering::Relaxed);
        Ok(Parked { requests: &self.requests, _stream: stream })
    }
}

/// Lets a request in, or refuses it.
pub(super) async fn admit(State(app): State<App>, request: Request, next: Next) -> Response {
    if matches!(request.uri().path(), "/livez" | "/readyz") {
        return next.run(request).await;
    }
    let asker = Asker::of(&request);
    let mut response = match app.admission.requests.enter() {
        Ok(_pass) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    // The representation of the same URL depends on it; a cache has to know.
    response.headers_mut().append(VARY, HeaderValue::from_static("accept, accept-encoding"));
    asker.refine(&app, response).await
}

/// Refuses a request on a connection past the limit.
pub(super) async fn refuse(app: App, request: Request) -> Response {
    let detail = "the node has as many connections as it may";
    let problem = Problem::new(Code::Overloaded, detail).with_policy("connections", app.connections_max);
    Asker::of(&request).refine(&app, problem.into_response()).await
}

/// Who gets the answer.
#[derive(Debug)]
struct Asker {
    wants_events: bool,
    last_id: Option<String>,
}

impl Asker {
    fn of(request: &Request) -> Self {
        let headers = request.headers();
        let wants_events = request.method() == Method::GET && read::wants_events(headers);
        let last_id = wants_events.then(|| read::place_sent(headers, request.uri()));
        Self { wants_events, last_id: last_id.flatten() }
    }

    /// Spreads the retries of a 429 or 503. A request for events gets 200 and the problem as an event instead: a native
    /// `EventSource` stops for ever on any other status.
    async fn refine(self, app: &App, mut response: Response) -> Response {
        if !matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return response;
        }
        if self.wants_events {
            return read::refusal_as_events(app, response, self.last_id).await;
        }
        if let Some(wait) = response.headers_mut().get_mut(RETRY_AFTER) {
            let least: u64 = wait.to_str().ok().and_then(|wait| wait.parse().ok()).unwrap_or(1);
            let more = app.rng.lock().random_range(0..=limits::RETRY_JITTER_SECS);
            *wait = HeaderValue::from(least.saturating_add(more));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_full_at_its_limit_and_open_again_when_one_leaves() {
        let gate = Gate::new("things", 2);
        let (first, _second) = (gate.enter().unwrap(), gate.enter().unwrap());
        let problem = gate.enter().unwrap_err();
        assert_eq!((problem.code, &problem.extra["limit"]), (Code::Overloaded, &2.into()));
        assert!(gate.enter().is_err(), "those refused leave nothing behind");
        drop(first);
        assert!(gate.enter().is_ok());
    }

    #[test]
    fn who_waits_makes_room_for_a_request_and_takes_that_of_a_stream() {
        let admission = Admission::new(1, 1);
        let pass = admission.requests.enter().unwrap();
        let parked = admission.park().unwrap();
        assert!(admission.stream().is_err());
        drop(admission.requests.enter().unwrap());
        drop(parked);
        assert!(admission.requests.enter().is_err(), "it is back");
        assert!(admission.stream().is_ok());
        drop(pass);
        assert!(admission.requests.enter().is_ok());
    }
}
