//! From events to a response: streamed, or whole.
//!
//! The key decision: one loop drives every streaming face. A [`Face`] turns events into text and knows nothing
//! of sockets; the loop sends what is ready in one piece, keeps idle connections alive, stores what must
//! be durable before the client is told of it, and stops when every answer has ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::Response;
use futures_util::stream::unfold;
use tokio::time::timeout;
use yushan_abi::{Call, Counts, Disk, Document, Event, Finish, Logprob};

use crate::Server;
use crate::agent::Step;
use crate::events::{Events, blocking, together};
use crate::fault::Fault;

/// Silence after which a comment is sent, so that nothing between here and the client hangs up.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A way to write the events of a request.
pub(crate) trait Face: Send + 'static {
    /// What stands in the header of the response.
    const MEDIA: &'static str;
    /// What is sent when there is nothing to say; empty: nothing.
    const IDLE: &'static str;

    /// Writes an event of one of the answers.
    fn event(&mut self, choice: usize, event: Event, out: &mut String);

    /// Writes the end, when every answer has ended.
    fn end(&mut self, out: &mut String);

    /// What must be stored before what was written last is sent.
    fn document(&mut self) -> Option<Document> {
        None
    }

    /// Writes that something failed on our side; nothing follows.
    fn fault(&mut self, fault: Fault, out: &mut String);
}

/// A response whose body is written while the events come.
pub(crate) fn streamed<F: Face>(server: &Server, events: Events, face: F) -> Response {
    let disk = server.disk.clone();
    let state = Some((events, face, disk));
    let body = unfold(state, |state| async move {
        let (mut events, mut face, disk) = state?;
        let mut out = String::new();
        let more = loop {
            match timeout(KEEP_ALIVE, events.next()).await {
                Err(_) => out.push_str(F::IDLE),
                Ok(Some(first)) => {
                    for (choice, event) in together(&mut events, first) {
                        face.event(choice, event, &mut out);
                    }
                }
                Ok(None) => {
                    face.end(&mut out);
                    break false;
                }
            }
            // An event may write nothing; an empty chunk would end the body.
            if !out.is_empty() {
                break true;
            }
        };
        let mut kept = true;
        if let Some(document) = face.document()
            && let Err(fault) = put(disk.clone(), document).await
        {
            out.clear();
            face.fault(fault, &mut out);
            kept = false;
        }
        let chunk = Ok::<_, std::convert::Infallible>(Bytes::from(out));
        Some((chunk, (more && kept).then_some((events, face, disk))))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(F::MEDIA));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache"));
    response
}

async fn put(disk: Arc<dyn Disk>, document: Document) -> Result<(), Fault> {
    Ok(blocking(move || disk.put(&document)).await??)
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Of the prompt, with `echo`.
    pub(crate) echo: Vec<(String, Option<Logprob>)>,
    pub(crate) text: String,
    /// Its pieces; kept only where there are log-probabilities.
    pub(crate) pieces: Vec<(String, Logprob)>,
    pub(crate) calls: Vec<Call>,
    /// What tools of the system did before the text was said.
    pub(crate) steps: Vec<Step>,
    pub(crate) embedding: Vec<f32>,
    pub(crate) finish: Finish,
    pub(crate) counts: Counts,
    pub(crate) times: Times,
}

/// When things happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    begun: Instant,
    first: Option<Instant>,
}

impl Times {
    /// It begins now.
    pub(crate) fn now() -> Times {
        Times { begun: Instant::now(), first: None }
    }

    /// An event came.
    pub(crate) fn saw(&mut self, event: &Event) {
        if !matches!(event, Event::Started(_) | Event::Echo { .. }) {
            self.first.get_or_insert_with(Instant::now);
        }
    }

    /// Nanoseconds: in all, until the first token, from then on.
    pub(crate) fn nanoseconds(&self) -> (u64, u64, u64) {
        let now = Instant::now();
        let first = self.first.unwrap_or(now);
        let of = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        (of(now - self.begun), of(first - self.begun), of(now - first))
    }
}

/// Waits for all answers.
pub(crate) async fn whole(mut events: Events) -> Result<Vec<Answer>, Fault> {
    let unfinished = Answer {
        echo: Vec::new(),
        text: String::new(),
        pieces: Vec::new(),
        calls: Vec::new(),
        steps: Vec::new(),
        embedding: Vec::new(),
        finish: Finish::Cancelled,
        counts: Counts::default(),
        times: Times::now(),
    };
    let mut answers = vec![unfinished; events.choices()];
    while let Some((choice, event)) = events.next().await {
        let answer = &mut answers[choice];
        answer.times.saw(&event);
        match event {
            Event::Started(counts) => answer.counts = counts,
            Event::Echo { text, logprob } => answer.echo.push((text, logprob)),
            Event::Text { text, logprob } => {
                answer.text.push_str(&text);
                answer.pieces.extend(logprob.map(|logprob| (text, logprob)));
            }
            // They come whole at the end.
            Event::Call { .. } => {}
            Event::Answered { call, result } => {
                let said = std::mem::take(&mut answer.text);
                answer.steps.extend((!said.is_empty()).then_some(Step::Said(said)));
                answer.steps.push(Step::answered(call, result));
            }
            Event::Asks { key, call } => answer.steps.push(Step::asks(key, call)),
            Event::Verified(verdict) => answer.steps.push(Step::checked(verdict)),
            Event::Embedding(vector) => answer.embedding = vector,
            Event::Done { finish, counts, calls } => {
                (answer.finish, answer.counts, answer.calls) = (finish, counts, calls);
            }
            Event::Failed(refusal) => return Err(refusal.into()),
        }
    }
    Ok(answers)
}
