//! The memory of a route on the request path: what was said before in a session is put before what
//! its client says now, and what is answered is remembered for its next request.
//!
//! Only whole exchanges are remembered: nothing of an answer that failed, broke off or was filtered.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::body::Upload;
use super::connection::Answer;
use super::deliver::Standing;
use super::exchange::{Exchange, Stop};
use super::session::Session;
use super::{bound, cached};
use crate::cache::key::Hasher;
use crate::config::{Memory, SessionBounds, SessionBy};
use crate::inspect::answer::is_events;
use crate::inspect::endpoint::Operation;
use crate::inspect::{Body, Form, Shape};
use crate::reply;
use crate::session::{self, Hearing, Key, Messages, Sessions};
use crate::state::State;
use crate::transform::fields::Edits;

/// Longest name of a session, in bytes.
const LONGEST_ID: usize = 256;
/// Largest list of messages that is looked into, in bytes, as it has to be in memory for that.
const LARGEST: u64 = 8 * 1024 * 1024;
/// How often it is tried to be the only one who adds to a session.
const TRIES: usize = 8;
/// Larger ones are read beside the threads that move bytes.
const MUCH: usize = 256 * 1024;

/// What is to be remembered of a request.
pub(super) struct Remembering {
    sessions: Arc<Sessions>,
    key: Key,
    bounds: SessionBounds,
    said: Messages,
    /// What was said before, and where in the body it goes.
    before: Option<(u64, Bytes)>,
    /// Hears the answer, once it has begun.
    hearing: Option<Hearing>,
    /// What other edges are to be told.
    untold: Option<Messages>,
}

impl Remembering {
    /// What goes before a copy of the request; nothing of that one is remembered.
    pub(super) fn copy(&self) -> Self {
        Remembering {
            sessions: self.sessions.clone(),
            key: self.key,
            bounds: self.bounds,
            said: Messages::default(),
            before: self.before.clone(),
            hearing: None,
            untold: None,
        }
    }
}

/// Looks up what was said before in the session of a request, if it is one of a session.
pub(super) async fn recall(
    session: &Session,
    x: &mut Exchange,
    route: usize,
    upload: &Upload,
    body: Option<&Body>,
) -> Result<(), Stop> {
    let snapshot = x.snapshot.clone();
    let gateway = &snapshot.gateway;
    let settings = &gateway.config.routes[route];
    let (Some(rule), Some(sessions), Some(body)) = (&settings.memory, &gateway.sessions, body)
    else {
        return Ok(());
    };
    let head = session.req_header();
    let chats = x.operation == Some(Operation::Chat) && head.method == Method::POST && !x.upgrade;
    let list = body.field("messages").filter(|f| f.shape == Shape::List);
    let (true, Form::Json, Some(list)) = (chats, &body.form, list) else {
        return Ok(());
    };
    let Some(id) = id(rule, &head.headers, body)? else {
        return Ok(());
    };
    let Some(said) = said(upload, list.value.clone(), rule.bounds.bytes).await? else {
        return Ok(());
    };
    let key = key(x, &settings.name, rule, &head.headers, &id);
    let remembered = remembered(gateway.state.as_deref(), sessions, &key, rule).await;
    let mut stays = session::front(&remembered.messages, &said.messages).stays;
    let before = session::listed(&remembered.messages[..stays]);
    let before = bound::bind_again(x, route, before).unwrap_or_else(|| {
        stays = 0;
        Bytes::new()
    });
    x.record.memory = Some(stays as u64);
    tell(x, "x-memory", stays as u64);
    if remembered.dropped > 0 {
        tell(x, "x-memory-dropped", remembered.dropped);
    }
    x.memory = Some(Box::new(Remembering {
        sessions: sessions.clone(),
        key,
        bounds: rule.bounds,
        said: said.messages,
        before: (stays > 0).then(|| (list.value.start + said.at, before)),
        hearing: None,
        untold: None,
    }));
    Ok(())
}

/// What was said before, here and at other edges.
async fn remembered(
    state: Option<&State>,
    sessions: &Sessions,
    key: &Key,
    rule: &Memory,
) -> session::Remembered {
    let known = match state {
        Some(state) => Box::pin(state.session(&key.0)).await,
        None => None,
    };
    let known = known.and_then(|known| session::Remembered::heard(&known.text));
    let Some(mut known) = known else {
        return sessions.load(key, Instant::now());
    };
    for said in sessions.untold(key).unwrap_or_default() {
        known.join(said, &rule.bounds);
    }
    known
}

/// The name of the session; `None` if the client gives none.
fn id(rule: &Memory, headers: &HeaderMap, body: &Body) -> Result<Option<Vec<u8>>, Stop> {
    let (what, id) = match &rule.by {
        SessionBy::Header(name) => {
            let value = headers.get(name).map(|value| value.as_bytes().to_vec());
            (format!("header {name}"), value)
        }
        SessionBy::User => {
            let user = body.field("user").filter(|f| f.shape == Shape::Text);
            // one that is longer than what is kept of a field is too long in any case
            let text = user.map(|field| match &field.text {
                Some(text) => text.clone().into_bytes(),
                None => vec![0; LONGEST_ID + 1],
            });
            ("field `user`".to_owned(), text)
        }
    };
    let id = id.filter(|id| !id.trim_ascii().is_empty());
    if id.as_ref().is_some_and(|id| id.len() > LONGEST_ID) {
        let message =
            format!("The {what} names the session here, and takes {LONGEST_ID} bytes at most.");
        return Err(reply::invalid_request(&message).into());
    }
    Ok(id)
}

/// Whose session it is, and which. What stays at home is not told to others in a later turn.
fn key(x: &Exchange, route: &str, rule: &Memory, headers: &HeaderMap, id: &[u8]) -> Key {
    let mut hasher = Hasher::new("session");
    hasher.part(route.as_bytes()).part(&[u8::from(x.home)]);
    match &x.record.key {
        Some(name) => hasher.part(b"key").part(name.as_bytes()),
        None => hasher.part(b"shown").part(&cached::shown(headers)),
    };
    hasher.part(rule.by.to_string().as_bytes()).part(id);
    Key(hasher.finish())
}

/// What the client says; `None` if that cannot be read.
async fn said(upload: &Upload, list: Range<u64>, most: u64) -> Result<Option<session::Said>, Stop> {
    if !upload.is_complete() || list.end - list.start > LARGEST {
        return Ok(None);
    }
    let mut text = BytesMut::with_capacity((list.end - list.start) as usize);
    let mut at = list.start;
    while at < list.end
        && let Some(piece) = upload.again(at).await?
    {
        let piece = &piece[..piece.len().min((list.end - at) as usize)];
        at += piece.len() as u64;
        text.extend_from_slice(piece);
    }
    if text.len() < MUCH {
        return Ok(session::said(&text, most));
    }
    let read = tokio::task::spawn_blocking(move || session::said(&text, most)).await;
    read.map_err(|_| reply::internal_error("The messages could not be read.").into())
}

fn tell(x: &mut Exchange, name: &'static str, count: u64) {
    let name = HeaderName::from_static(name);
    x.answer_headers.push((name, HeaderValue::from(count)));
}

/// Puts what was said before into a request.
pub(super) fn put_before(x: &Exchange, edits: &mut Edits) {
    if let Some((at, messages)) = x.memory.as_ref().and_then(|memory| memory.before.as_ref()) {
        edits.insert(*at, messages.clone());
    }
}

/// An answer has begun that goes to the client.
pub(super) fn begin(x: &mut Exchange, answer: &Answer, standing: Standing) {
    let Some(memory) = &mut x.memory else {
        return;
    };
    let headers = &answer.head.headers;
    let packed = headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    if standing != Standing::Good || answer.status() != 200 || packed {
        return;
    }
    memory.hearing = Some(Hearing::new(is_events(headers), memory.bounds.bytes));
}

pub(super) fn push(x: &mut Exchange, piece: &Bytes) {
    let hearing = x.memory.as_mut().and_then(|memory| memory.hearing.as_mut());
    // its client may ask again, or close, as soon as it has read this
    if hearing.is_some_and(|hearing| hearing.push(piece)) {
        whole(x);
    }
}

/// All of the answer is here.
pub(super) fn whole(x: &mut Exchange) {
    let Some(memory) = &mut x.memory else {
        return;
    };
    let message = memory.hearing.take().and_then(Hearing::message);
    if let Some(message) = message {
        let mut said = std::mem::take(&mut memory.said);
        said.push(Arc::new(message));
        let (key, bounds, now) = (memory.key, &memory.bounds, Instant::now());
        match x.snapshot.gateway.state.is_some() {
            true => {
                memory.untold = Some(said.clone());
                memory.sessions.append_untold(key, said, bounds, now);
            }
            false => memory.sessions.append(key, said, bounds, now),
        }
    }
}

/// Tells other edges what was remembered just now, if something was. To be called before the client
/// has all of the answer: the next thing it says may be said to one of them.
pub(super) async fn tell_others(x: &mut Exchange) {
    let untold = x.memory.as_mut().and_then(|memory| memory.untold.take());
    if let (Some(said), Some(state)) = (untold, x.snapshot.gateway.state.clone())
        && let Some(memory) = &x.memory
    {
        Box::pin(memory.tell(&state, said)).await;
    }
}

impl Remembering {
    /// Adds what was said to what all know. Whoever was faster is heard first.
    async fn tell(&self, state: &State, said: Messages) {
        let (key, bounds) = (&self.key.0, &self.bounds);
        for _ in 0..TRIES {
            let Some(known) = state.session(key).await else {
                return;
            };
            // what could not be told before is told now
            let untold = match self.sessions.untold(&self.key) {
                Some(untold) if untold.is_empty() => return,
                Some(untold) => untold,
                None => vec![said.clone()],
            };
            let count = untold.len();
            let remembered = match session::Remembered::heard(&known.text) {
                Some(mut remembered) => {
                    for said in untold {
                        remembered.join(said, bounds);
                    }
                    remembered
                }
                // it has none, or lost it: all that is known here is told
                None => self.sessions.load(&self.key, Instant::now()),
            };
            let told = remembered.told();
            match state
                .replace_session(key, known.version, &told, bounds.ttl)
                .await
            {
                Some(false) => {}
                Some(true) => {
                    let now = Instant::now();
                    let (key, sessions) = (self.key, &self.sessions);
                    return sessions.replace(key, remembered, count, bounds, now);
                }
                None => return,
            }
        }
    }
}
