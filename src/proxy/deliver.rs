//! An answer on its way to the client: head, first piece, then piece by piece as they come.

use std::pin::pin;
use std::time::Instant;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use pingora::Error;
use prometheus::IntCounter;

use super::account::{account, outcome_of};
use super::body::Upload;
use super::connection::Answer;
use super::exchange::{Exchange, Stop};
use super::leg::Failed;
use super::relay::Ground;
use super::session::Session;
use super::side::{Bound, earliest, while_client_stays, within};
use super::slow::{self, NotTaken};
use super::usage::Events;
use super::{Edge, bound, cached, memory, outcome};
use crate::affinity::Marker;
use crate::dialect::Broken;
use crate::inspect::Body;
use crate::inspect::answer::is_events;
use crate::inspect::audio::AudioMeter;
use crate::inspect::endpoint::Operation;
use crate::observe::metrics::PoolMetrics;
use crate::observe::record::Termination;
use crate::observe::usage::{Tail, Usage};
use crate::plan::{Outcome, Phase};
use crate::pool::Conduct;
use crate::reply;
use crate::transform::events::WithoutUsage;
use crate::transform::headers;

/// Tells who answered.
const X_BACKEND: HeaderName = HeaderName::from_static("x-backend");

/// What an answer is worth.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// What was asked for.
    Good,
    /// An error that nobody did better than; it was counted already.
    Last,
}

/// Why an answer was not passed on whole.
enum Cut {
    Client,
    /// The client, which takes too little of it.
    Slow,
    Server(Outcome),
}

/// What is read off an answer while it passes by.
struct Passing {
    tail: Tail,
    audio: Option<AudioMeter>,
    /// We asked for what it used, and the client did not.
    without_usage: Option<WithoutUsage>,
    /// Events so far, of a stream whose use is counted.
    events: Option<Events>,
    /// Its ids are to lead back to who made them.
    ids: Option<Box<Marker>>,
}

impl Passing {
    /// Looks at a piece, and takes out of it what the client did not ask for.
    fn look_at(&mut self, piece: &mut Bytes, last: bool) {
        self.tail.push(piece);
        if let Some(events) = &mut self.events {
            events.feed(piece);
        }
        if let Some(audio) = &mut self.audio {
            audio.feed(piece);
        }
        if let Some(filter) = &mut self.without_usage {
            let mut kept = filter.feed(piece);
            if last {
                kept.append(&mut filter.finish());
            }
            *piece = kept.into();
        }
        if let Some(ids) = &mut self.ids {
            *piece = ids.mark(std::mem::take(piece));
        }
    }
}

/// Passes an answer on and counts how that ended.
pub(super) async fn deliver(
    ground: &Ground<'_>,
    session: &mut Session,
    x: &mut Exchange,
    mut answer: Box<Answer>,
    standing: Standing,
    upload: &Upload,
) -> Result<(), Stop> {
    let gateway = ground.gateway();
    let pool_id = ground.settings.targets[answer.target].pool.0;
    note_server(ground, x, &answer);
    let outcome = outcome_of(&answer);
    if answer.is_trial() && outcome.conduct() == Conduct::Good {
        answer.pool.trial_goes_well(&answer.member);
    }
    let account = |answer: &Answer, outcome, now| {
        if standing == Standing::Good {
            let headers = Some(&answer.head.headers);
            account(
                gateway,
                pool_id,
                &answer.member,
                answer.is_trial(),
                outcome,
                headers,
                now,
            );
        }
    };
    if answer.head.status == StatusCode::SWITCHING_PROTOCOLS {
        account(&answer, Outcome::Answered(101), Instant::now());
        return Err(Stop::Upgraded(answer));
    }
    let metrics = &gateway.pool_metrics[pool_id];
    let streaming = Instant::now();
    let spoken = x.operation == Some(Operation::Speech) && answer.head.status.is_success();
    let mut passing = Passing {
        tail: Tail::default(),
        audio: spoken.then(|| AudioMeter::new(pcm_rate(ground.body))),
        events: (x.counting.is_some() && is_event_stream(&answer.head)).then(Events::default),
        without_usage: (x.asks_usage && is_event_stream(&answer.head)).then(WithoutUsage::default),
        ids: bound::marker(x, pool_id, &mut answer),
    };
    let passed = pass_on(
        ground.edge,
        session,
        x,
        &mut answer,
        metrics,
        standing,
        upload,
        &mut passing,
    )
    .await;
    let ended = Instant::now();
    metrics.stream.observe((ended - streaming).as_secs_f64());
    x.record.usage = passing.tail.usage();
    x.passed_events(passing.events.map_or(0, |events| events.count));
    // a translated stream knows it even where the client did not ask
    if let Some(tokens) = answer.stream.as_ref().and_then(|stream| stream.tokens()) {
        x.record.usage = Usage {
            input: Some(tokens.input),
            output: Some(tokens.output),
        };
    }
    if let Some(audio) = passing.audio {
        x.record.audio = audio.duration();
    }
    match passed {
        Ok(()) => {
            account(&answer, outcome, ended);
            x.record.termination = Termination::Complete;
            x.record.times.total = ended - x.started;
            answer.connection.release(ground.edge, ended);
            Ok(())
        }
        Err(Cut::Client) => {
            account(&answer, outcome, ended);
            // openai-python closes right behind `[DONE]`, which is no abort
            if passing.tail.is_done() {
                x.record.termination = Termination::Complete;
            }
            Err(Stop::ClientGone)
        }
        Err(Cut::Slow) => {
            account(&answer, outcome, ended);
            x.record.termination = Termination::SlowClient;
            Err(Stop::ClientGone)
        }
        Err(Cut::Server(outcome)) => {
            account(&answer, outcome, ended);
            broken(session, x, &answer, outcome).await
        }
    }
}

/// Notes who answers, and with which voice.
fn note_server(ground: &Ground<'_>, x: &mut Exchange, answer: &Answer) {
    let pool = &answer.pool.config.name;
    let server = answer.pool.server(&answer.member);
    x.target = Some(answer.target);
    x.record.server = Some((pool.clone(), server.name.clone()));
    x.record.status = answer.status();
    x.record.span.answered(answer.first.as_deref());
    x.record.times.connect = answer.connection.made_in.unwrap_or_default();
    if let Some(voice) = &answer.voice
        && answer.head.status.is_success()
    {
        ground.edge.metrics.mapped_voice(pool, voice);
        x.record.voice_served = Some(voice.clone());
    }
}

/// Bytes a second of audio without a header, if that is what was asked for: 24 kHz, 16 bit, one
/// channel (API reference, "Create speech"; the same in Kokoro-FastAPI).
fn pcm_rate(body: Option<&Body>) -> Option<u32> {
    let format = body?.text("response_format")?;
    (format == "pcm").then_some(48_000)
}

/// Head, first piece, and every piece as it comes.
#[expect(
    clippy::too_many_arguments,
    reason = "the loop of `deliver`, with all it has"
)]
async fn pass_on(
    edge: &Edge,
    session: &mut Session,
    x: &mut Exchange,
    answer: &mut Answer,
    metrics: &PoolMetrics,
    standing: Standing,
    upload: &Upload,
    passing: &mut Passing,
) -> Result<(), Cut> {
    let theirs = cached::wants_headers(x).then(|| answer.head.headers.clone());
    tell_client(session, x, answer, standing);
    cached::begin(x, answer, theirs.as_ref());
    memory::begin(x, answer, standing);
    let mut told = false;
    let mut client = Ok(());
    let mut pace = slow::pace(&x.snapshot.gateway.config.limits);
    let received = &metrics.servers[answer.member.server].bytes_received;
    let mut next = answer.first.take();
    received.inc_by(answer.received as u64);
    if next.is_some() {
        x.first_byte();
    }
    loop {
        // asked before the piece goes out: behind the last one the client may send its next
        // request, which nobody must read here
        let done = next.is_none() || answer.is_over();
        if done && next.is_none() && passing.without_usage.is_some() {
            next = Some(Bytes::new());
        }
        if let Some(piece) = &mut next {
            passing.look_at(piece, done);
            cached::push(x, piece);
            if client.is_ok() {
                memory::push(x, piece);
                x.record.bytes_out += piece.len() as u64;
            }
        }
        // it goes out together with the piece behind it, if there is one
        if !told {
            told = true;
            let more = next.as_ref().is_some_and(|piece| !piece.is_empty());
            let written = slow::write_head(session, &answer.head, more, &mut pace).await;
            client = written.map_err(Cut::from);
        }
        // an empty piece would end the body
        if !done && next.as_ref().is_some_and(Bytes::is_empty) {
            next = next_piece(edge, session, x, answer, received, upload).await?;
            continue;
        }
        // who has all of it and asks again finds it kept
        if done {
            cached::whole(x);
            x.leave();
            if client.is_ok() {
                memory::whole(x);
            }
        }
        if x.memory.is_some() {
            memory::tell_others(x).await;
        }
        if client.is_ok() {
            let piece = next.take().unwrap_or_default();
            let written = slow::write_body(session, piece, done, &mut pace).await;
            client = written.map_err(Cut::from);
        }
        if done {
            return client;
        }
        // who reads along is not to suffer from a client that leaves
        if client.is_err() && !cached::is_followed(x) {
            return client;
        }
        next = next_piece(edge, session, x, answer, received, upload).await?;
    }
}

impl From<NotTaken> for Cut {
    fn from(why: NotTaken) -> Self {
        match why {
            NotTaken::Gone => Cut::Client,
            NotTaken::Slow => Cut::Slow,
        }
    }
}

/// The next piece, as the server sends it, or told in the client's dialect.
async fn next_piece(
    edge: &Edge,
    session: &mut Session,
    x: &Exchange,
    answer: &mut Answer,
    received: &IntCounter,
    upload: &Upload,
) -> Result<Option<Bytes>, Cut> {
    loop {
        if let Some(broken) = &answer.broken {
            return Err(Cut::Server(match broken {
                Broken::Garbled(_) => Outcome::Invalid,
                Broken::Said(_) | Broken::Cut => Outcome::Reset,
            }));
        }
        let watched = upload.is_complete().then_some(&mut *session);
        let piece = read_piece(edge, watched, x, answer).await?;
        received.inc_by(piece.as_ref().map_or(0, Bytes::len) as u64);
        let over = piece.is_none() || answer.connection.talk.is_over();
        let Some(stream) = &mut answer.stream else {
            return Ok(piece);
        };
        let mut told = Vec::new();
        let fed = stream.feed(&piece.unwrap_or_default(), &mut told);
        let fed = match over {
            true => fed.and_then(|()| stream.finish(&mut told)),
            false => fed,
        };
        // what came before it is passed on first
        answer.broken = fed.err();
        match told.is_empty() {
            false => return Ok(Some(told.into())),
            // an empty piece would end the body
            true if over && answer.broken.is_none() => return Ok(None),
            true => {}
        }
    }
}

async fn read_piece(
    edge: &Edge,
    watched: Option<&mut Session>,
    x: &Exchange,
    answer: &mut Answer,
) -> Result<Option<Bytes>, Cut> {
    let bound = idle_bound(answer);
    let reading = pin!(answer.connection.talk.read_body());
    let mut reading = pin!(within(bound, reading));
    let read = match while_client_stays(edge, watched, reading.as_mut()).await {
        Err(Failed::Stop(_)) if cached::is_followed(x) => {
            while_client_stays(edge, None, reading).await
        }
        read => read,
    };
    match read {
        Ok(Ok(Ok(piece))) => Ok(piece),
        Ok(Ok(Err(error))) => Err(Cut::Server(outcome::of_talking(&error))),
        Ok(Err(phase)) => Err(Cut::Server(Outcome::TimedOut(phase))),
        Err(Failed::Outcome(outcome)) => Err(Cut::Server(outcome)),
        Err(Failed::Stop(_)) => Err(Cut::Client),
    }
}

fn idle_bound(answer: &Answer) -> Bound {
    let idle = answer.pool.config.timeouts.idle;
    let idle = idle.map(|idle| (Instant::now() + idle, Phase::Idle));
    let total = answer.deadline.map(|total| (total, Phase::Total));
    earliest(&[idle, total], Phase::Idle)
}

/// The server broke off. An event stream ends with an error that its reader understands; every
/// other body is cut, so that nobody takes the part for the whole.
async fn broken(
    session: &mut Session,
    x: &mut Exchange,
    answer: &Answer,
    outcome: Outcome,
) -> Result<(), Stop> {
    let timed_out = matches!(outcome, Outcome::TimedOut(_));
    x.record.termination = if timed_out {
        Termination::Timeout
    } else {
        Termination::UpstreamAbort
    };
    if is_event_stream(&answer.head) {
        let (pool, server) = (
            &answer.pool.config.name,
            &answer.pool.server(&answer.member).name,
        );
        let broke_off = "broke off in the middle of its answer";
        let (code, what) = match (outcome, &answer.broken) {
            (Outcome::TimedOut(phase), _) => ("upstream_timeout", reply::late(phase).to_owned()),
            (_, Some(Broken::Said(why))) => ("upstream_reset", format!("{broke_off}: {why}")),
            (_, Some(Broken::Garbled(why))) => ("upstream_invalid", format!("{broke_off}: {why}")),
            _ => ("upstream_reset", broke_off.to_owned()),
        };
        let frame = reply::stream_error(code, &format!("`{server}` of pool `{pool}` {what}."));
        x.record.bytes_out += frame.len() as u64;
        let sent = session.write_body(frame, true).await;
        return sent.map_err(|_: Box<Error>| Stop::Cut);
    }
    Err(Stop::Cut)
}

/// Whether errors can be told inside of the body: events, not compressed, of no fixed length.
fn is_event_stream(head: &Parts) -> bool {
    let headers = &head.headers;
    is_events(headers)
        && !headers.contains_key(header::CONTENT_ENCODING)
        && !headers.contains_key(header::CONTENT_LENGTH)
}

/// The head that tells a client that its connection is a WebSocket from here on.
pub(super) fn switching_head(x: &Exchange, answer: &mut Answer) -> Parts {
    let mut headers = std::mem::take(&mut answer.head.headers);
    headers::to_client(&mut headers, answer.pool.server(&answer.member));
    headers.remove(header::CONTENT_LENGTH);
    for (name, value) in &x.answer_headers {
        headers.append(name, value.clone());
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(X_BACKEND, answer.backend.clone());
    head_of(answer.head.status, headers)
}

/// The head of an answer.
pub(super) fn head_of(status: StatusCode, headers: HeaderMap) -> Parts {
    let (mut head, ()) = http::Response::new(()).into_parts();
    head.status = status;
    head.headers = headers;
    head
}

/// Makes of the head of a server's answer what the client is told.
fn tell_client(session: &mut Session, x: &mut Exchange, answer: &mut Answer, standing: Standing) {
    let (status, has_body) = (answer.status(), answer.first.is_some());
    let server = answer.pool.server(&answer.member);
    let fields = &mut answer.head.headers;
    headers::to_client(fields, server);
    if x.cors {
        let theirs = |name: &&HeaderName| name.as_str().starts_with("access-control-");
        let theirs: Vec<HeaderName> = fields.keys().filter(theirs).cloned().collect();
        theirs.iter().for_each(|name| drop(fields.remove(name)));
    }
    fields.insert(X_BACKEND, answer.backend.clone());
    let mut own = Vec::new();
    if let Some(attempts) = x.record.attempts_header() {
        own.push((HeaderName::from_static("x-attempts"), attempts));
    }
    if let Some(voice) = &x.record.voice_served {
        let asked_for = x.record.voice.as_deref();
        let told = asked_for.map_or_else(
            || voice.clone(),
            |asked_for| format!("{voice}; requested={asked_for}"),
        );
        own.push((HeaderName::from_static("x-voice"), told));
    }
    // a server that says itself when to come back is right about that
    if standing == Standing::Last && !fields.contains_key(header::RETRY_AFTER) {
        own.push((HeaderName::from_static("x-should-retry"), "false".into()));
    }
    for (name, text) in own {
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(text)) {
            fields.insert(name, value);
        }
    }
    // a server that refuses says by which limit of its own
    let theirs = status == 429;
    for (name, value) in std::mem::take(&mut x.answer_headers) {
        if theirs && name.as_str().starts_with("x-ratelimit-") && fields.contains_key(&name) {
            continue;
        }
        match name == header::VARY {
            true => fields.append(name, value),
            false => fields.insert(name, value).is_some(),
        };
    }
    let version = session.req_header().version;
    match has_body {
        _ if fields.contains_key(header::CONTENT_LENGTH) => {}
        false if super::is_head(x) || matches!(status, 204 | 304) => {}
        false => {
            fields.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        // HTTP/1.0 has no chunks: the end of the connection is the end of the body
        true if version == Version::HTTP_10 => session.set_keepalive(false),
        true if version == Version::HTTP_11 => {
            let chunked = HeaderValue::from_static("chunked");
            fields.insert(header::TRANSFER_ENCODING, chunked);
        }
        true => {}
    }
}

/// Sends an answer of our own.
pub(super) async fn answer_locally(
    session: &mut Session,
    x: &mut Exchange,
    reply: reply::Reply,
    upload: Option<&Upload>,
) -> Result<(), Stop> {
    x.record.local = Some(reply.code);
    x.record.status = reply.status.as_u16();
    if x.unclear {
        session.set_keepalive(false);
    }
    let mut headers = HeaderMap::with_capacity(reply.headers.len() + 6);
    let own = [
        (X_BACKEND, HeaderValue::from_static("local")),
        (header::CONTENT_LENGTH, HeaderValue::from(reply.body.len())),
    ];
    let attempts = x.record.attempts_header();
    let attempts = attempts.and_then(|text| HeaderValue::from_str(&text).ok());
    let attempts = attempts.map(|value| (HeaderName::from_static("x-attempts"), value));
    let extra = x.answer_headers.iter().cloned();
    for (name, value) in reply
        .headers
        .into_iter()
        .chain(own)
        .chain(attempts)
        .chain(extra)
    {
        headers.insert(name, value);
    }
    if reply.status.as_u16() == 204 {
        headers.remove(header::CONTENT_LENGTH);
    }
    let head = head_of(reply.status, headers);
    let body: Option<Bytes> = (!reply.body.is_empty() && !super::is_head(x)).then_some(reply.body);
    let mut pace = slow::pace(&x.snapshot.gateway.config.limits);
    let gone = |_| Stop::ClientGone;
    let written = slow::write_head(session, &head, body.is_some(), &mut pace).await;
    written.map_err(gone)?;
    x.first_byte();
    x.leave();
    x.record.bytes_out = body.as_ref().map_or(0, |body| body.len() as u64);
    let written = slow::write_body(session, body.unwrap_or_default(), true, &mut pace).await;
    written.map_err(gone)?;
    x.record.termination = match reply.code {
        "upstream_timeout" => Termination::Timeout,
        code if code.starts_with("upstream_") => Termination::UpstreamAbort,
        _ if reply.is_error => Termination::Rejected,
        _ => Termination::Complete,
    };
    // what follows is patience with the client, not work on its request
    x.record.times.total = x.started.elapsed();
    if matches!(reply.code, "request_timeout" | "request_too_slow") {
        // it had its time
        session.set_keepalive(false);
    } else if let Some(upload) = upload {
        upload.linger(session).await;
    }
    Ok(())
}
