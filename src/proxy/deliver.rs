//! An answer on its way to the client: head, first piece, then piece by piece as they come.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Version, header};
use pingora::Error;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession as Session;

use super::body::Upload;
use super::exchange::{Exchange, Stop};
use super::leg::{Answer, Failed, wait};
use super::{Edge, relay};
use crate::gateway::Gateway;
use crate::observe::metrics::PoolMetrics;
use crate::observe::record::Termination;
use crate::observe::usage::Tail;
use crate::plan::{Outcome, Phase};
use crate::reply;
use crate::transform::headers;

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
    Server(Outcome),
}

/// Passes an answer on and counts how that ended.
pub(super) async fn deliver(
    edge: &Arc<Edge>,
    session: &mut Session,
    x: &mut Exchange,
    mut answer: Answer,
    gateway: &Gateway,
    standing: Standing,
    upload: &Upload,
) -> Result<(), Stop> {
    let name = answer.pool.server(&answer.lease).name.clone();
    x.target = Some(answer.target);
    x.record.server = Some((answer.pool.config.name.clone(), name));
    x.record.status = answer.status();
    let route = x.route.expect("a relayed request has a route");
    let pool_id = gateway.config.routes[route].targets[answer.target].pool.0;
    let metrics = &gateway.pool_metrics[pool_id];
    let streaming = Instant::now();
    let mut tail = Tail::default();
    let passed = pass_on(
        edge,
        session,
        x,
        &mut answer,
        metrics,
        standing,
        upload,
        &mut tail,
    )
    .await;
    metrics.stream.observe(streaming.elapsed().as_secs_f64());
    x.record.usage = tail.usage();
    let account = |outcome| {
        if standing == Standing::Good {
            relay::account(
                gateway,
                pool_id,
                &answer.pool,
                answer.lease.member(),
                outcome,
            );
        }
    };
    match passed {
        Ok(()) => {
            account(Outcome::Answered(answer.status()));
            x.record.termination = Termination::Complete;
            answer.connection.release(edge).await;
            Ok(())
        }
        Err(Cut::Client) => {
            account(Outcome::Answered(answer.status()));
            // openai-python closes right behind `[DONE]`, which is no abort
            if tail.is_done() {
                x.record.termination = Termination::Complete;
            }
            Err(Stop::ClientGone)
        }
        Err(Cut::Server(outcome)) => {
            account(outcome);
            broken(session, x, &answer, outcome).await
        }
    }
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
    tail: &mut Tail,
) -> Result<(), Cut> {
    let head = response_head(session, x, answer, standing);
    session
        .write_response_header(Box::new(head))
        .await
        .map_err(|_| Cut::Client)?;
    let received = &metrics.servers[answer.lease.server].bytes_received;
    let mut next = answer.first.take();
    if next.is_some() {
        x.first_byte();
    }
    loop {
        // asked before the piece goes out: behind the last one the client may send its next
        // request, which nobody must read here
        let done = next.is_none() || answer.connection.session.response_done();
        if let Some(piece) = &next {
            received.inc_by(piece.len() as u64);
            x.record.bytes_out += piece.len() as u64;
            tail.push(piece);
        }
        session
            .write_response_body(next.take().unwrap_or_default(), done)
            .await
            .map_err(|_| Cut::Client)?;
        if done {
            return Ok(());
        }
        let bound = idle_bound(answer);
        let reading = answer.connection.session.read_response_body();
        next = match wait(edge, session, upload, bound, reading).await {
            Ok(piece) => piece,
            Err(Failed::Outcome(outcome)) => return Err(Cut::Server(outcome)),
            Err(Failed::Stop(_)) => return Err(Cut::Client),
        };
    }
}

fn idle_bound(answer: &Answer) -> super::leg::Bound {
    let idle = answer
        .pool
        .config
        .timeouts
        .idle
        .map(|idle| Instant::now() + idle);
    match (idle, answer.deadline) {
        (Some(idle), Some(total)) if total < idle => (Some(total), Phase::Total),
        (None, Some(total)) => (Some(total), Phase::Total),
        (idle, _) => (idle, Phase::Idle),
    }
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
            &answer.pool.server(&answer.lease).name,
        );
        let (code, what) = match outcome {
            Outcome::TimedOut(phase) => ("upstream_timeout", reply::late(phase)),
            _ => ("upstream_reset", "broke off in the middle of its answer"),
        };
        let frame = reply::stream_error(code, &format!("`{server}` of pool `{pool}` {what}."));
        x.record.bytes_out += frame.len() as u64;
        let sent = session.write_response_body(frame, true).await;
        return sent.map_err(|_: Box<Error>| Stop::Cut);
    }
    Err(Stop::Cut)
}

/// Whether errors can be told inside of the body: events, not compressed, of no fixed length.
fn is_event_stream(head: &ResponseHeader) -> bool {
    let headers = &head.headers;
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    content_type
        .to_ascii_lowercase()
        .starts_with(b"text/event-stream")
        && !headers.contains_key(header::CONTENT_ENCODING)
        && !headers.contains_key(header::CONTENT_LENGTH)
}

fn response_head(
    session: &mut Session,
    x: &mut Exchange,
    answer: &Answer,
    standing: Standing,
) -> ResponseHeader {
    let passed = headers::to_client(&answer.head.headers, answer.pool.server(&answer.lease));
    let mut head = ResponseHeader::build_no_case(answer.head.status, Some(passed.len() + 8))
        .expect("a status that came in can go out");
    for (name, value) in passed {
        if !(x.cors && name.as_str().starts_with("access-control-")) {
            let _ = head.append_header(name, value);
        }
    }
    let (pool, server) = x.record.server.as_ref().expect("set by the caller");
    let mut own = vec![(
        HeaderName::from_static("x-backend"),
        format!("{pool}/{server}"),
    )];
    if let Some(attempts) = x.record.attempts_header() {
        own.push((HeaderName::from_static("x-attempts"), attempts));
    }
    // a server that says itself when to come back is right about that
    if standing == Standing::Last && !head.headers.contains_key(header::RETRY_AFTER) {
        own.push((HeaderName::from_static("x-should-retry"), "false".into()));
    }
    for (name, text) in own {
        if let Ok(value) = HeaderValue::from_str(&text) {
            let _ = head.insert_header(name, value);
        }
    }
    for (name, value) in &x.answer_headers {
        let _ = match *name == header::VARY {
            true => head.append_header(name.clone(), value.clone()).map(drop),
            false => head.insert_header(name.clone(), value.clone()),
        };
    }
    let length = answer.head.headers.get(header::CONTENT_LENGTH);
    match length {
        Some(length) => {
            let _ = head.insert_header(header::CONTENT_LENGTH, length.clone());
        }
        None if answer.first.is_none()
            && (super::is_head(x) || matches!(answer.status(), 204 | 304)) => {}
        None if answer.first.is_none() => {
            let _ = head.insert_header(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        // HTTP/1.0 has no chunks: the end of the connection is the end of the body
        None if session.req_header().version == Version::HTTP_10 => session.set_keepalive(None),
        None if session.req_header().version == Version::HTTP_11 => {
            let _ = head.insert_header(
                header::TRANSFER_ENCODING,
                HeaderValue::from_static("chunked"),
            );
        }
        None => {}
    }
    head
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
    let mut head = ResponseHeader::build_no_case(reply.status, Some(reply.headers.len() + 6))
        .expect("our statuses are valid");
    let own = [
        (
            HeaderName::from_static("x-backend"),
            HeaderValue::from_static("local"),
        ),
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
        let _ = head.insert_header(name, value);
    }
    if reply.status.as_u16() == 204 {
        head.remove_header(&header::CONTENT_LENGTH);
    }
    session
        .write_response_header(Box::new(head))
        .await
        .map_err(|_| Stop::ClientGone)?;
    x.first_byte();
    let body: Option<Bytes> = (!reply.body.is_empty() && !super::is_head(x)).then_some(reply.body);
    x.record.bytes_out = body.as_ref().map_or(0, |body| body.len() as u64);
    session
        .write_response_body(body.unwrap_or_default(), true)
        .await
        .map_err(|_| Stop::ClientGone)?;
    x.record.termination = match reply.code {
        "upstream_timeout" => Termination::Timeout,
        code if code.starts_with("upstream_") => Termination::UpstreamAbort,
        _ if reply.is_error => Termination::Rejected,
        _ => Termination::Complete,
    };
    // what follows is patience with the client, not work on its request
    x.record.times.total = x.started.elapsed();
    if reply.code == "request_timeout" {
        // it had its time
        session.set_keepalive(None);
    } else if let Some(upload) = upload {
        upload.linger(session).await;
    }
    Ok(())
}
