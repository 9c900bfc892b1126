//! Servers that speak another dialect: their words for a request are found when their turn comes,
//! and their answer is told in the client's.
//!
//! A route may have servers of several dialects, and each attempt is made in its own. What has no
//! words in a dialect is not asked there: the plan goes on to the next pool, and if nobody is left
//! the client hears what could not be said.

use std::pin::pin;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderValue, Method, StatusCode, header};

use super::body::Upload;
use super::connection::Connection;
use super::exchange::{Exchange, Stop};
use super::leg::{Begun, Failed, Leg};
use super::relay::Ground;
use super::side::{Bound, Side};
use crate::config::Route;
use crate::config::kind::Dialect;
use crate::dialect::ollama::{self, Stream};
use crate::dialect::{Broken, Refused, Stamp, Translated};
use crate::gateway::Gateway;
use crate::inspect::endpoint::Operation;
use crate::plan::{Outcome, Wording};
use crate::reply::{self, Reply};

/// Larger bodies are translated beside the threads that move bytes.
const MUCH: usize = 256 * 1024;
/// Most bytes of a server's body that is translated in one go, as it has to be in memory for that.
const MOST: usize = 64 * 1024 * 1024;

/// The words of the targets of a route, in their order; none at all where every server speaks the
/// client's dialect.
#[derive(Default)]
pub(super) struct Words(Vec<Option<OnceLock<Result<Translated, Unsaid>>>>);

/// Why there are no words.
enum Unsaid {
    Endpoint,
    Request(Refused),
}

impl Words {
    pub(super) fn new(gateway: &Gateway, route: &Route, method: &Method, x: &Exchange) -> Self {
        let foreign = |target: usize| {
            let pool = gateway.pool(route.targets[target].pool);
            (pool.config.dialect() != Dialect::OpenAi).then_some(&pool.config)
        };
        let targets = 0..route.targets.len();
        if targets.clone().all(|target| foreign(target).is_none()) {
            return Words::default();
        }
        let wanted = match x.operation {
            Some(Operation::Models) => Method::GET,
            _ => Method::POST,
        };
        let words = targets.map(|target| {
            let served = foreign(target)?.own_path(&x.record.path).is_some() && *method == wanted;
            Some(match served {
                true => OnceLock::new(),
                false => OnceLock::from(Err(Unsaid::Endpoint)),
            })
        });
        Words(words.collect())
    }

    /// The words of a target, if they were found.
    pub(super) fn of(&self, target: usize) -> Option<&Translated> {
        self.0.get(target)?.as_ref()?.get()?.as_ref().ok()
    }

    pub(super) fn wording(&self, target: usize) -> Wording {
        match self.0.get(target) {
            None | Some(None) => Wording::Ready,
            Some(Some(cell)) => match cell.get() {
                None => Wording::Wanted,
                Some(Ok(_)) => Wording::Ready,
                Some(Err(_)) => Wording::Impossible,
            },
        }
    }

    /// The reply if no target has words; `None` if one has, and is only not there.
    pub(super) fn refusal(&self, x: &Exchange, pools: &str) -> Option<Reply> {
        let unsaid: Option<Vec<&Unsaid>> = (self.0.iter())
            .map(|cell| cell.as_ref()?.get()?.as_ref().err())
            .collect();
        let unsaid = unsaid?;
        let refused = unsaid.iter().find_map(|unsaid| match unsaid {
            Unsaid::Request(refused) => Some(refused),
            Unsaid::Endpoint => None,
        });
        Some(match refused {
            Some(refused) => reply::not_said(&refused.message, refused.param, pools),
            None => reply::not_served(&x.record.method, &x.record.path, pools),
        })
    }
}

impl Ground<'_> {
    /// Finds the words of a target; the body is here.
    pub(super) async fn translate(
        &self,
        x: &Exchange,
        upload: &Upload,
        target: usize,
    ) -> Result<(), Stop> {
        let (Some(Some(cell)), Some(operation)) = (self.words.0.get(target), x.operation) else {
            return Ok(());
        };
        let edits = self.rewritten(x, target).edits;
        let mut body = Vec::with_capacity(upload.received() as usize);
        let mut offset = 0;
        while let Some(piece) = upload.again(offset).await? {
            let start = offset;
            offset += piece.len() as u64;
            for piece in edits.splice(start, piece) {
                body.extend_from_slice(&piece);
            }
        }
        let public = self.body.and_then(|body| body.text("model"));
        let said = if body.len() < MUCH {
            ollama::request(operation, &body, public)
        } else {
            let public = public.map(str::to_owned);
            let work = move || ollama::request(operation, &body, public.as_deref());
            tokio::task::spawn_blocking(work)
                .await
                .map_err(|_| reply::internal_error("The request could not be translated."))?
        };
        let _ = cell.set(said.map_err(Unsaid::Request));
        Ok(())
    }
}

impl Leg<'_> {
    /// Waits until the answer has begun, and tells what there is of it in the client's dialect. An
    /// answer in one piece is here with its last byte.
    pub(super) async fn first_words(
        &self,
        connection: &mut Connection,
        side: &mut Side<'_>,
        bound: Bound,
        head: Parts,
        words: &Translated,
    ) -> Result<Begun, Failed> {
        // it was not asked for, and is not unpacked
        if head.headers.contains_key(header::CONTENT_ENCODING) {
            return Err(Outcome::Invalid.into());
        }
        let good = head.status.is_success();
        let stamp = stamp();
        if good && words.expected.stream {
            let stream = Stream::new(words.expected.clone(), &stamp);
            return self
                .first_events(connection, side, bound, head, stream)
                .await;
        }
        let mut body = Vec::new();
        while let Some(piece) = self.piece_of_answer(connection, side, bound).await? {
            body.extend_from_slice(&piece);
            if body.len() > MOST {
                return Err(Outcome::Invalid.into());
            }
        }
        if !good {
            let error = ollama::error(head.status.as_u16(), &body);
            return Ok(whole(head, body.len(), error));
        }
        match ollama::whole(&words.expected, &stamp, &body) {
            Ok(told) => Ok(whole(head, body.len(), told)),
            Err(broken) => self.unfit(head, body.len(), broken),
        }
    }

    async fn first_events(
        &self,
        connection: &mut Connection,
        side: &mut Side<'_>,
        bound: Bound,
        mut head: Parts,
        mut stream: Stream,
    ) -> Result<Begun, Failed> {
        let mut told = Vec::new();
        let mut received = 0;
        loop {
            let piece = self.piece_of_answer(connection, side, bound).await?;
            received += piece.as_ref().map_or(0, Bytes::len);
            let over = piece.is_none() || connection.talk.is_over();
            let fed = stream.feed(&piece.unwrap_or_default(), &mut told);
            let fed = match over {
                true => fed.and_then(|()| stream.finish(&mut told)),
                false => fed,
            };
            match fed {
                Ok(()) if stream.has_begun() => break,
                Ok(()) => {}
                Err(Broken::Cut) if received == 0 => return Err(Outcome::Empty.into()),
                // nothing of it was passed on, so that somebody else may still be asked
                Err(broken) => return self.unfit(head, received, broken),
            }
        }
        let event_stream = HeaderValue::from_static("text/event-stream");
        head.headers.insert(header::CONTENT_TYPE, event_stream);
        let no_cache = HeaderValue::from_static("no-cache");
        head.headers.insert(header::CACHE_CONTROL, no_cache);
        head.headers.remove(header::CONTENT_LENGTH);
        Ok(Begun {
            head,
            first: Some(told.into()),
            received,
            stream: Some(Box::new(stream)),
        })
    }

    /// What becomes of a 200 that is none. Where Ollama says why, it is the error that newer ones
    /// answer in the first place (server/routes.go, `streamResponse`).
    fn unfit(&self, mut head: Parts, received: usize, broken: Broken) -> Result<Begun, Failed> {
        log::debug!("pool {}: {broken}", self.pool.config.name);
        match broken {
            Broken::Said(message) => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                head.status = status;
                Ok(whole(
                    head,
                    received,
                    ollama::said(status.as_u16(), &message),
                ))
            }
            Broken::Garbled(_) => Err(Outcome::Invalid.into()),
            Broken::Cut => Err(Outcome::Reset.into()),
        }
    }

    async fn piece_of_answer(
        &self,
        connection: &mut Connection,
        side: &mut Side<'_>,
        bound: Bound,
    ) -> Result<Option<Bytes>, Failed> {
        let reading = pin!(connection.talk.read_body());
        side.wait(self.edge, bound, reading).await
    }
}

/// An answer that is here as a whole.
fn whole(mut head: Parts, received: usize, body: Vec<u8>) -> Begun {
    let json = HeaderValue::from_static("application/json");
    head.headers.insert(header::CONTENT_TYPE, json);
    let length = HeaderValue::from(body.len());
    head.headers.insert(header::CONTENT_LENGTH, length);
    Begun {
        head,
        first: Some(body.into()),
        received,
        stream: None,
    }
}

fn stamp() -> Stamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Stamp {
        id: crate::unit::new_request_id(),
        now: now.unwrap_or_default().as_secs(),
    }
}
