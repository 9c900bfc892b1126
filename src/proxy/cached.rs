//! The cache on the request path: asked before a server is, told what a server answers.
//!
//! A hit is an answer like any other, only that nobody was asked for it. Who asks what somebody
//! else is asking already gets that answer piece by piece as it comes.

use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

use std::sync::Arc;

use bytes::Bytes;

use super::body::Upload;
use super::connection::Answer;
use super::deliver::head_of;
use super::exchange::{Exchange, Stop};
use super::relay::stopped;
use super::session::Session;
use super::side::{while_client_stays, within};
use super::{Edge, slow};
use crate::cache::key::{Caller, Digest, Hasher, Key, Question, RouteKey};
use crate::cache::{
    self, Begun, Cache, First, Follower, Found, Headers, Lead, Next, Stored, Terms, Wish,
};
use crate::config::RouteCache;
use crate::inspect::endpoint::Operation;
use crate::inspect::{Body, Form};
use crate::observe::record::{Cached, Termination};
use crate::plan::Phase;
use crate::reply;
use crate::state::State;
use crate::transform::headers::CREDENTIALS;

/// Largest JSON body whose answer is kept: what of a body is in memory anyway.
const LARGEST_JSON: u64 = 1024 * 1024;

/// What takes an answer, and what was asked for it.
pub(super) struct Keeping {
    lead: Box<Lead>,
    route: RouteKey,
    shared: bool,
    headers: HeaderMap,
}

/// All that a client shows of itself. Whoever shows nothing is one and the same.
pub(super) fn shown(headers: &HeaderMap) -> Digest {
    let mut shown = Hasher::new("caller");
    for name in CREDENTIALS {
        for value in headers.get_all(*name) {
            shown.part(name.as_bytes()).part(value.as_bytes());
        }
    }
    shown.finish()
}

/// Whose answer it is: that of who shows the same. Where tokens stand for keys, that of the key and of
/// what else is shown: a token is another one every hour.
fn caller(x: &Exchange, headers: &HeaderMap) -> Digest {
    let gateway = &x.snapshot.gateway;
    let (Some(key), Some(_)) = (&x.record.key, gateway.keyring.identities()) else {
        return shown(headers);
    };
    let mut caller = Hasher::new("caller of a key");
    caller.part(key.as_bytes());
    let ours = |value: &[u8]| gateway.keyring.knows(&gateway.config.keys, value);
    for name in CREDENTIALS {
        let values = headers.get_all(*name).iter().map(|value| value.as_bytes());
        for value in values.filter(|value| !ours(value)) {
            caller.part(name.as_bytes()).part(value);
        }
    }
    caller.finish()
}

fn question<'a>(
    x: &'a Exchange,
    route: &'a RouteKey,
    operation: Operation,
    shared: bool,
    query: Option<&'a str>,
    headers: &'a HeaderMap,
) -> Question<'a> {
    Question {
        route,
        caller: match shared {
            true => Caller::Any,
            false => Caller::Own(caller(x, headers)),
        },
        operation,
        path: &x.record.path,
        query,
        headers,
        credentials: CREDENTIALS,
        form: operation.hears(),
        home: x.home,
        origins: !x.cors,
    }
}

/// Answers a request with what is kept or on its way; says whether it did. If not, what a server
/// answers is kept, if it may be.
pub(super) async fn served(
    edge: &Arc<Edge>,
    session: &mut Session,
    x: &mut Exchange,
    route: usize,
    upload: &mut Upload,
    body: Option<&Body>,
) -> Result<bool, Stop> {
    let snapshot = x.snapshot.clone();
    let gateway = &snapshot.gateway;
    let rule = gateway.config.routes[route].cache;
    let (Some(rule), Some(cache), Some(own)) = (rule, &gateway.cache, gateway.cache_key(route))
    else {
        return Ok(false);
    };
    let wish = Wish::of(&session.req_header().headers);
    let key = match wish {
        Wish::NoStore => None,
        _ => key(session, x, own, rule, upload, body).await?,
    };
    let Some(key) = key else {
        note(x, Cached::Bypass);
        return Ok(false);
    };
    let ttl = match wish {
        Wish::Cached(Some(oldest)) => rule.ttl.min(oldest),
        _ => rule.ttl,
    };
    let terms = Terms {
        ttl,
        max_object: rule.max_object,
        disk: x.operation == Some(Operation::Speech),
    };
    let asked = Asked {
        cache,
        key,
        terms,
        fresh: wish == Wish::Fresh,
    };
    let Some(lead) = asked.answer(edge, session, x, upload).await? else {
        return Ok(true);
    };
    note(x, Cached::Miss);
    x.lead = Some(Box::new(Keeping {
        lead,
        route: own.clone(),
        shared: rule.shared,
        headers: session.req_header().headers.clone(),
    }));
    Ok(false)
}

/// What a request asks the cache for.
struct Asked<'a> {
    cache: &'a Arc<Cache>,
    key: Key,
    terms: Terms,
    /// Nothing old will do.
    fresh: bool,
}

impl Asked<'_> {
    /// Answers the request, or says who takes what a server answers it.
    async fn answer(
        &self,
        edge: &Edge,
        session: &mut Session,
        x: &mut Exchange,
        upload: &Upload,
    ) -> Result<Option<Box<Lead>>, Stop> {
        let alone = || self.cache.lead_alone(self.key, self.terms);
        if self.fresh {
            return Ok(Some(alone()));
        }
        loop {
            match self.cache.look(self.key, self.terms) {
                Found::Hit(stored) => {
                    hit(session, x, &stored).await?;
                    return Ok(None);
                }
                Found::Lead(lead) => {
                    let lead = match from_disk(session, x, lead).await? {
                        Some(lead) => lead,
                        None => return Ok(None),
                    };
                    return match x.snapshot.gateway.state.clone() {
                        Some(state) => Box::pin(from_state(&state, session, x, lead)).await,
                        None => Ok(Some(lead)),
                    };
                }
                Found::Follow(mut follower) => {
                    match first(edge, session, x, upload, &mut follower).await? {
                        First::Begun(begun) => {
                            follow(edge, session, x, &begun, &mut follower).await?;
                            return Ok(None);
                        }
                        First::Alone => return Ok(Some(alone())),
                        First::Again => {}
                    }
                }
            }
        }
    }
}

/// Answers with what is on disk, or gives the lead back.
async fn from_disk(
    session: &mut Session,
    x: &mut Exchange,
    lead: Box<Lead>,
) -> Result<Option<Box<Lead>>, Stop> {
    let Some(look) = lead.look_on_disk() else {
        return Ok(Some(lead));
    };
    match tokio::task::spawn_blocking(look).await {
        Ok(Some(stored)) => {
            let stored = lead.found(stored);
            hit(session, x, &stored).await?;
            Ok(None)
        }
        _ => Ok(Some(lead)),
    }
}

/// Answers with what another edge has kept, or gives the lead back.
async fn from_state(
    state: &State,
    session: &mut Session,
    x: &mut Exchange,
    lead: Box<Lead>,
) -> Result<Option<Box<Lead>>, Stop> {
    let terms = lead.terms();
    let kept = state.answer(&lead.key().0).await;
    let stored = kept.and_then(|kept| {
        let stored = cache::format::decode(kept, terms.max_object);
        let stored = stored.inspect_err(|error| log::warn!("state: a kept answer: {error}"));
        stored.ok().filter(|stored| stored.age() < terms.ttl)
    });
    let Some(stored) = stored else {
        return Ok(Some(lead));
    };
    let stored = lead.found(stored);
    hit(session, x, &stored).await?;
    Ok(None)
}

/// The key of a request; `None` if nothing is kept for it.
async fn key(
    session: &Session,
    x: &Exchange,
    route: &RouteKey,
    rule: RouteCache,
    upload: &Upload,
    body: Option<&Body>,
) -> Result<Option<Key>, Stop> {
    let head = session.req_header();
    let operation = x.operation.filter(|operation| operation.may_be_kept());
    let (Some(operation), Some(body)) = (operation, body) else {
        return Ok(None);
    };
    // a part of an answer, or one on a condition
    let partial = ["range", "if-match", "if-none-match", "if-modified-since"];
    let partial = partial.iter().any(|name| head.headers.contains_key(*name));
    if head.method != Method::POST || partial || x.upgrade || !upload.is_complete() {
        return Ok(None);
    }
    let said = match body.form {
        Form::Json => json(route, operation, rule, upload).await?,
        Form::Multipart { .. } => Some(form(route, upload, body).await?),
    };
    let question = question(
        x,
        route,
        operation,
        rule.shared,
        head.uri.query(),
        &head.headers,
    );
    Ok(said.map(|said| question.key(said)))
}

async fn json(
    route: &RouteKey,
    operation: Operation,
    rule: RouteCache,
    upload: &Upload,
) -> Result<Option<Digest>, Stop> {
    if upload.received() > LARGEST_JSON {
        return Ok(None);
    }
    let mut text = upload.again(0).await?.unwrap_or_default();
    if (text.len() as u64) < upload.received() {
        let mut whole = text.to_vec();
        while let Some(piece) = upload.again(whole.len() as u64).await? {
            whole.extend_from_slice(&piece);
        }
        text = whole.into();
    }
    Ok(route.json(&text, operation, rule.chat))
}

async fn form(route: &RouteKey, upload: &Upload, body: &Body) -> Result<Digest, Stop> {
    let mut parts = Vec::new();
    for field in body.fields.iter().chain(&body.repeated) {
        let mut hasher = Hasher::new("part");
        let mut at = field.value.start;
        while at < field.value.end {
            let Some(piece) = upload.again(at).await? else {
                break;
            };
            let piece = &piece[..piece.len().min((field.value.end - at) as usize)];
            at += piece.len() as u64;
            hasher.more(piece);
        }
        parts.push((field.name.as_str(), hasher.finish()));
    }
    Ok(route.form(parts))
}

/// Notes what the cache had; the client learns it with its answer.
fn note(x: &mut Exchange, result: Cached) {
    x.record.cache = Some(result);
    x.metrics().cached(result);
    let told = match result {
        Cached::Coalesced => Cached::Hit,
        result => result,
    };
    let told = HeaderValue::from_static(told.label());
    x.answer_headers
        .push((HeaderName::from_static("x-cache"), told));
}

/// The head of an answer that no server was asked for.
fn head(
    session: &mut Session,
    x: &mut Exchange,
    kept: &Headers,
    age: u64,
    length: Option<u64>,
) -> Parts {
    let mut headers = HeaderMap::with_capacity(kept.len() + 10);
    for (name, value) in kept {
        headers.append(name, value.clone());
    }
    let mut own = vec![
        (
            HeaderName::from_static("x-backend"),
            HeaderValue::from_static("cache"),
        ),
        (header::AGE, HeaderValue::from(age)),
    ];
    let version = session.req_header().version;
    match length {
        Some(length) => own.push((header::CONTENT_LENGTH, HeaderValue::from(length))),
        None if version == Version::HTTP_10 => session.set_keepalive(false),
        None if version == Version::HTTP_11 => {
            own.push((
                header::TRANSFER_ENCODING,
                HeaderValue::from_static("chunked"),
            ));
        }
        None => {}
    }
    for (name, value) in own.into_iter().chain(x.answer_headers.iter().cloned()) {
        match name == header::VARY {
            true => headers.append(name, value),
            false => headers.insert(name, value).is_some(),
        };
    }
    x.record.status = StatusCode::OK.as_u16();
    head_of(StatusCode::OK, headers)
}

/// Answers with what is kept.
async fn hit(session: &mut Session, x: &mut Exchange, stored: &Stored) -> Result<(), Stop> {
    note(x, Cached::Hit);
    let length = stored.body.len() as u64;
    let head = head(
        session,
        x,
        &stored.headers,
        stored.age().as_secs(),
        Some(length),
    );
    let gone = |_| Stop::ClientGone;
    let mut pace = slow::pace(&x.snapshot.gateway.config.limits);
    let written = slow::write_head(session, &head, length > 0, &mut pace).await;
    written.map_err(gone)?;
    x.first_byte();
    x.leave();
    let written = slow::write_body(session, stored.body.clone(), true, &mut pace).await;
    written.map_err(gone)?;
    x.record.bytes_out = length;
    x.record.termination = Termination::Complete;
    Ok(())
}

/// Waits for the leader, as long as the client does.
async fn first(
    edge: &Edge,
    session: &mut Session,
    x: &mut Exchange,
    upload: &Upload,
    follower: &mut Follower,
) -> Result<First, Stop> {
    let started = std::time::Instant::now();
    let bound = (x.deadline(upload), Phase::Client);
    let waiting = within(bound, follower.first());
    let first = stopped(while_client_stays(edge, Some(session), Box::pin(waiting)).await);
    x.record.times.queue += started.elapsed();
    // who has no time left is told so as if it had asked itself
    Ok(first?.unwrap_or(First::Alone))
}

/// Passes on what the leader gets.
async fn follow(
    edge: &Edge,
    session: &mut Session,
    x: &mut Exchange,
    begun: &Begun,
    follower: &mut Follower,
) -> Result<(), Stop> {
    note(x, Cached::Coalesced);
    let head = head(
        session,
        x,
        &begun.headers,
        begun.age.as_secs(),
        begun.length,
    );
    let gone = |_| Stop::ClientGone;
    let mut pace = slow::pace(&x.snapshot.gateway.config.limits);
    let written = slow::write_head(session, &head, false, &mut pace).await;
    written.map_err(gone)?;
    loop {
        let next = while_client_stays(edge, Some(session), Box::pin(follower.next())).await;
        let piece = match stopped(next) {
            Ok(Next::Piece(piece)) => piece,
            Ok(Next::End) => break,
            Ok(Next::Broken) => return broken(session, x, &begun.headers).await,
            // the head is out: what ends here has to be cut
            Err(Stop::Answer(_)) => {
                x.record.termination = Termination::Timeout;
                return Err(Stop::Cut);
            }
            Err(stop) => return Err(stop),
        };
        x.first_byte();
        x.record.bytes_out += piece.len() as u64;
        let written = slow::write_body(session, piece, false, &mut pace).await;
        written.map_err(gone)?;
    }
    x.leave();
    let written = slow::write_body(session, Bytes::new(), true, &mut pace).await;
    written.map_err(gone)?;
    x.record.termination = Termination::Complete;
    Ok(())
}

/// The leader's server broke off: nobody may take the part for the whole.
async fn broken(session: &mut Session, x: &mut Exchange, kept: &Headers) -> Result<(), Stop> {
    x.record.termination = Termination::UpstreamAbort;
    if !cache::is_event_stream(kept) {
        return Err(Stop::Cut);
    }
    let frame = reply::stream_error(
        "upstream_reset",
        "The server broke off in the middle of its answer.",
    );
    x.record.bytes_out += frame.len() as u64;
    let sent = session.write_body(frame, true).await;
    sent.map_err(|_| Stop::Cut)
}

/// Whether [`begin`] looks at what a server said before it is told to the client.
pub(super) fn wants_headers(x: &Exchange) -> bool {
    x.lead.is_some()
}

/// Keeps an answer that begins and goes to the client, or says that nobody may. `theirs`: the headers as its server sent them.
pub(super) fn begin(x: &mut Exchange, answer: &Answer, theirs: Option<&HeaderMap>) {
    let (Some(mut keeping), Some(theirs)) = (x.lead.take(), theirs) else {
        return;
    };
    let ours = &answer.head.headers;
    // the end of the connection may be that of the answer, or not
    let framed = theirs.contains_key(header::CONTENT_LENGTH)
        || theirs.contains_key(header::TRANSFER_ENCODING)
        || answer.connection.is_h2()
        || answer.stream.is_some();
    let kept = match (
        x.operation,
        answer.first.is_some() && framed && answer.status() == 200,
    ) {
        (Some(operation), true) => {
            let (route, headers) = (&keeping.route, &keeping.headers);
            let question = question(x, route, operation, keeping.shared, None, headers);
            // what a server forbids stands in its own head, what is kept in ours
            cache::may_be_kept(theirs, &question).then(|| cache::kept_headers(ours))
        }
        _ => None,
    };
    match kept {
        Some(mut kept) => {
            // our word about origins is for this client
            let of_origins = |name: &HeaderName| {
                *name == header::VARY || name.as_str().starts_with("access-control-")
            };
            kept.retain(|(name, _)| !(x.cors && of_origins(name)));
            let length = ours.get(header::CONTENT_LENGTH);
            let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
            keeping.lead.begin(kept, length);
            x.lead = Some(keeping);
        }
        None => keeping.lead.refuse(),
    }
}

pub(super) fn push(x: &mut Exchange, piece: &Bytes) {
    if let Some(keeping) = &mut x.lead {
        keeping.lead.push(piece);
    }
}

/// Whether somebody else reads the answer along.
pub(super) fn is_followed(x: &Exchange) -> bool {
    x.lead
        .as_ref()
        .is_some_and(|keeping| keeping.lead.is_followed())
}

/// All of the answer is here.
pub(super) fn whole(x: &mut Exchange) {
    let Some(Keeping { lead, .. }) = x.lead.take().map(|keeping| *keeping) else {
        return;
    };
    let (key, ttl) = (*lead.key(), lead.terms().ttl);
    let kept = lead.whole(cache::is_sound);
    if let (Some(stored), Some(state)) = (kept, x.snapshot.gateway.state.clone()) {
        tokio::spawn(async move {
            let bytes = cache::format::encode(&stored);
            state.keep_answer(&key.0, bytes, ttl).await;
        });
    }
}

/// The request is over. Whoever waits still does it itself; if only the client left, one of them
/// does it for all.
pub(super) fn ended(x: &mut Exchange, relayed: &Result<(), Stop>) {
    if let Some(mut keeping) = x.lead.take()
        && !matches!(relayed, Err(Stop::ClientGone))
        && !keeping.lead.has_begun()
    {
        keeping.lead.refuse();
    }
}
