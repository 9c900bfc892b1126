//! Requests that are bound to one server by the ids in them, and answers whose ids bind the next.
//! What ids say, `affinity` knows.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};

use super::body::Upload;
use super::connection::Answer;
use super::exchange::{Exchange, Stop};
use super::session::Session;
use super::{Edge, lists};
use crate::affinity::{self, Asked, BodyIds, Maker, Marker, Reach, Reader, Refused};
use crate::config::PoolId;
use crate::gateway::Gateway;
use crate::inspect::Scanner;
use crate::reply::{self, Reply};
use crate::transform::fields::{Edit, Edits};

/// What the ids of a request say, and what becomes of those of its answer.
#[derive(Default)]
pub(super) struct Bound {
    pub(super) asked: Asked,
    /// Those of the answer get suffixes.
    pub(super) marks: bool,
}

impl Bound {
    /// The path as the server knows it.
    pub(super) fn path<'a>(&'a self, path: &'a str) -> &'a str {
        self.asked.path.as_deref().unwrap_or(path)
    }

    pub(super) fn query<'a>(&'a self, query: Option<&'a str>) -> Option<&'a str> {
        self.asked.query.as_deref().or(query)
    }

    pub(super) fn edits(&self) -> &[Edit] {
        &self.asked.edits
    }

    /// The only server that can be asked.
    pub(super) fn pinned(&self) -> Option<(PoolId, usize)> {
        self.asked.pinned.map(|maker| (maker.pool, maker.server))
    }

    /// Whether it asks for something that lives on one server.
    pub(super) fn names_something(&self) -> bool {
        self.asked != Asked::default()
    }

    pub(super) fn marks(&self) -> bool {
        self.marks
    }
}

/// Whether a request may hold ids that lead somewhere, or will be answered with some.
pub(super) fn concerns(x: &Exchange, route: usize) -> bool {
    let affinity = x.snapshot.gateway.affinity();
    affinity.reach(route) != Reach::Off && affinity.may_be_carried(&x.record.path)
}

/// Reads the ids of a request; one for a list of several servers is answered.
pub(super) async fn bind(
    edge: &std::sync::Arc<Edge>,
    session: &mut Session,
    x: &mut Exchange,
    route: usize,
    upload: &mut Upload,
) -> Result<(), Stop> {
    let snapshot = x.snapshot.clone();
    let gateway = &snapshot.gateway;
    let affinity = arc_swap::Guard::into_inner(gateway.affinity());
    let several = affinity.reach(route) == Reach::Several;
    let path = x.record.path.clone();
    if session.req_header().method == Method::GET
        && several
        && let Some(list) = affinity::list::asked_for(&path)
        && let Some(makers) = lists::makers(gateway, route, x.home)
    {
        return lists::serve(edge, session, x, route, upload, (list, makers)).await;
    }
    let mut reader = Reader::new(&affinity, route);
    let query = session.req_header().uri.query();
    reader.target(&path, query).map_err(refusal)?;
    if upload.length() != Some(0) {
        let started = Instant::now();
        let read = read_body(session, upload, &path, &mut reader).await;
        x.record.times.body += started.elapsed();
        read?;
    }
    let asked = reader.finish();
    if let Some(maker) = asked.pinned
        && !may_go_to(gateway, route, x.home, maker)
    {
        return Err(reply::maker_not_here().into());
    }
    let marks = several && affinity::makes_ids(&path);
    if marks || asked != Asked::default() {
        x.bound = Some(Box::new(Bound { asked, marks }));
    }
    Ok(())
}

/// Binds a request by the ids in what was said before in its session, and gives that as servers know
/// it. `None` if it leads nowhere, or not where the request leads: then it is not to be told again.
pub(super) fn bind_again(x: &mut Exchange, route: usize, before: Bytes) -> Option<Bytes> {
    if before.is_empty() || !concerns(x, route) {
        return Some(before);
    }
    let snapshot = x.snapshot.clone();
    let gateway = &snapshot.gateway;
    let affinity = arc_swap::Guard::into_inner(gateway.affinity());
    let mut ids = BodyIds::default();
    ids.feed(&before);
    let pinned = x.bound.as_ref().and_then(|bound| bound.asked.pinned);
    let mut reader = Reader::bound_to(&affinity, route, pinned);
    reader.body(ids).ok()?;
    let asked = reader.finish();
    let maker = asked.pinned.filter(|_| asked.pinned != pinned);
    if maker.is_some_and(|maker| !may_go_to(gateway, route, x.home, maker)) {
        return None;
    }
    if maker.is_some() {
        x.bound.get_or_insert_default().asked.pinned = maker;
    }
    if asked.edits.is_empty() {
        return Some(before);
    }
    let mut edits = Edits::default();
    edits.add(&asked.edits);
    Some(edits.splice(0, before).concat().into())
}

/// Reads the ids of the body, if it is of a kind that has some.
async fn read_body(
    session: &mut Session,
    upload: &mut Upload,
    path: &str,
    reader: &mut Reader<'_>,
) -> Result<(), Stop> {
    let headers = &session.req_header().headers;
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.map_or(&b""[..], HeaderValue::as_bytes);
    let is = |word: &[u8]| {
        let text = content_type.to_ascii_lowercase();
        memchr::memmem::find(&text, word).is_some()
    };
    if is(b"multipart/") {
        return match affinity::may_carry_ids_in_a_form(path) {
            true => read_form(session, upload, reader).await,
            false => Ok(()),
        };
    }
    if !content_type.is_empty() && !is(b"json") {
        return Ok(());
    }
    let (mut ids, mut offset) = (BodyIds::default(), 0);
    while let Some(piece) = upload.next(session, offset).await? {
        offset += piece.len() as u64;
        ids.feed(&piece);
    }
    reader.body(ids).map_err(|refused| refusal(refused).into())
}

async fn read_form(
    session: &mut Session,
    upload: &mut Upload,
    reader: &mut Reader<'_>,
) -> Result<(), Stop> {
    let broken = |broken| Stop::from(reply::invalid_body(&broken));
    let scanner = Scanner::new(&session.req_header().headers).map_err(broken)?;
    match upload.read_ahead(session, Some(scanner)).await? {
        Some(form) => reader
            .form(&form)
            .map_err(|refused| refusal(refused).into()),
        None => Ok(()),
    }
}

pub(super) fn refusal(refused: Refused) -> Reply {
    match refused {
        Refused::Forged => reply::id_not_found(),
        Refused::MakerGone => reply::maker_not_here(),
        Refused::SeveralMakers => reply::several_makers(),
    }
}

fn may_go_to(gateway: &Gateway, route: usize, home: bool, maker: Maker) -> bool {
    let pools = gateway.reachable(route, home);
    let own = gateway.pool(maker.pool);
    pools.iter().any(|pool| std::sync::Arc::ptr_eq(pool, own))
}

/// The full name of the server that a request is bound to, if it is.
pub(super) fn maker_of(gateway: &Gateway, x: &Exchange) -> Option<String> {
    let (pool, server) = x.bound.as_ref()?.pinned()?;
    Some(full_name(gateway, Maker { pool, server }))
}

pub(super) fn full_name(gateway: &Gateway, maker: Maker) -> String {
    let pool = &gateway.pool(maker.pool).config;
    format!("{}/{}", pool.name, pool.servers[maker.server].name)
}

/// What marks the ids of an answer, if they are to lead back. Its head is made fit for that.
pub(super) fn marker(x: &Exchange, pool: usize, answer: &mut Answer) -> Option<Box<Marker>> {
    let marks = x.bound.as_ref().is_some_and(|bound| bound.marks());
    if !marks || !answer.head.status.is_success() {
        return None;
    }
    let maker = Maker {
        pool: PoolId(pool),
        server: answer.member.server,
    };
    let kind = kind(&answer.head.headers);
    let events = kind == Some(Kind::Events);
    let marker = x.snapshot.gateway.affinity().marker(maker, events);
    let place = answer.head.headers.get(header::LOCATION);
    let place = place.and_then(|place| place.to_str().ok());
    if let Some(Ok(place)) = place.map(|place| HeaderValue::try_from(marker.place(place))) {
        answer.head.headers.insert(header::LOCATION, place);
    }
    kind?;
    answer.head.headers.remove(header::CONTENT_LENGTH);
    Some(Box::new(marker))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Events,
}

/// Of what kind a body is that ids are found in.
fn kind(headers: &HeaderMap) -> Option<Kind> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str());
    match text(header::CONTENT_ENCODING) {
        None | Some(Ok("identity")) => {}
        Some(_) => return None,
    }
    let content_type = text(header::CONTENT_TYPE)?.ok()?.to_ascii_lowercase();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    match essence {
        "text/event-stream" => Some(Kind::Events),
        "application/json" => Some(Kind::Json),
        _ => None,
    }
}
