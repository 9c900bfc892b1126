//! Lists of what lives on several servers: each is asked for its own, and the client sees one.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use pingora::http::RequestHeader;

use super::account::{account, outcome_of};
use super::body::Upload;
use super::bound::{Bound, full_name, refusal};
use super::connection::Answer;
use super::exchange::{Exchange, Stop};
use super::leg::Failed;
use super::relay::{Asked, Ground, note, stopped};
use super::session::Session;
use super::side::{Side, while_client_stays};
use super::taken::Scope;
use super::words::Words;
use super::{Edge, Snapshot, alarm};
use crate::affinity::Maker;
use crate::affinity::list::{Merge, Unlisted, Wanted};
use crate::config::affinity::{List, may_hold};
use crate::gateway::Gateway;
use crate::plan::{Attempt, Outcome, Step};
use crate::reply;

/// Servers that are asked at once.
const AT_ONCE: usize = 16;
/// Times that servers are read on for one page; a list that is longer ends there.
const ROUNDS: usize = 100;
/// Longest answer that is read, in bytes.
const LONGEST: usize = 16 * 1024 * 1024;
/// How long the body of an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a server said.
struct Told {
    status: StatusCode,
    content_type: Option<HeaderValue>,
    body: Bytes,
}

/// Why there is no list.
enum Refusal {
    /// This is what servers say to it.
    Told(Told),
    /// None said anything.
    Nobody,
}

/// How a server was asked, and what it said, if it did.
struct Heard {
    asked: Option<Asked>,
    outcome: Outcome,
    told: Option<Told>,
}

impl Heard {
    const NOT_ASKED: Heard = Heard {
        asked: None,
        outcome: Outcome::ConnectFailed,
        told: None,
    };
}

/// The servers that a list is on, if there are several.
pub(super) fn makers(gateway: &Gateway, route: usize, home: bool) -> Option<Vec<Maker>> {
    let reachable = gateway.reachable(route, home);
    let targets = gateway.config.routes[route].targets.iter();
    let makers: Vec<Maker> = targets
        .filter(|target| {
            let pool = gateway.pool(target.pool);
            may_hold(&pool.config) && reachable.iter().any(|other| Arc::ptr_eq(other, pool))
        })
        .flat_map(|target| {
            let pool = target.pool;
            let servers = 0..gateway.config.pool(pool).servers.len();
            servers.map(move |server| Maker { pool, server })
        })
        .collect();
    (makers.len() > 1).then_some(makers)
}

/// Answers with the lists of all servers as one.
pub(super) async fn serve(
    edge: &Arc<Edge>,
    session: &mut Session,
    x: &mut Exchange,
    route: usize,
    upload: &Upload,
    (list, makers): (List, Vec<Maker>),
) -> Result<(), Stop> {
    let snapshot = x.snapshot.clone();
    let gateway = &snapshot.gateway;
    let query = session.req_header().uri.query();
    let affinity = arc_swap::Guard::into_inner(gateway.affinity());
    let wanted = Wanted::read(&affinity, list, query).map_err(unlisted)?;
    let words = Words::new(
        gateway,
        &gateway.config.routes[route],
        &session.req_header().method,
        x,
    );
    let mut asking = Asking {
        edge,
        snapshot: &snapshot,
        session,
        upload,
        words: &words,
        route,
    };
    // answers have to be readable
    x.bound = Some(Box::new(Bound {
        marks: true,
        ..Bound::default()
    }));
    x.began_attempts(&edge.metrics);
    let time = asking.time_of_cursor(x, &wanted, &makers).await?;
    let mut merge = Merge::new(wanted, &makers, time);
    if let Some(refused) = asking.read(x, &mut merge, &makers).await? {
        return Err(match refused {
            Refusal::Told(told) => reply::no_list(told.status, told.content_type, told.body),
            Refusal::Nobody if let Some(exceeded) = x.exceeded_of_pool() => {
                reply::rate_limited(Scope::Pool.label(), &exceeded)
            }
            Refusal::Nobody => reply::list_failed(&gateway.pool_names(route, x.home)),
        }
        .into());
    }
    let missing: Vec<String> = merge.missing().map(|m| full_name(gateway, m)).collect();
    Err(reply::list(merge.told(&affinity), &missing.join(", ")).into())
}

fn unlisted(why: Unlisted) -> reply::Reply {
    match why {
        Unlisted::Limit(most) => {
            reply::invalid_request(&format!("`limit` is a number from 1 to {most}."))
        }
        Unlisted::Order => reply::invalid_request("`order` is `asc` or `desc`."),
        Unlisted::Before => reply::invalid_request(
            "`before` is not taken here, as this list is put together from several servers: page with `after`, or the other way round with `order`.",
        ),
        Unlisted::After => reply::invalid_request(
            "`after` is no id of this list: take the `last_id` of the page before.",
        ),
        Unlisted::Refused(refused) => refusal(refused),
    }
}

/// What the servers of a route are asked with.
struct Asking<'a> {
    edge: &'a Arc<Edge>,
    snapshot: &'a Snapshot,
    session: &'a mut Session,
    upload: &'a Upload,
    words: &'a Words,
    route: usize,
}

impl Asking<'_> {
    /// When the object was made that the page begins behind, if it begins behind one.
    async fn time_of_cursor(
        &mut self,
        x: &mut Exchange,
        wanted: &Wanted,
        makers: &[Maker],
    ) -> Result<Option<f64>, Stop> {
        let Some((id, maker)) = wanted.after() else {
            return Ok(None);
        };
        if !makers.contains(&maker) {
            return Err(reply::maker_not_here().into());
        }
        let path = |path| {
            let mut bound = Bound {
                marks: true,
                ..Bound::default()
            };
            bound.asked.path = path;
            Some(Box::new(bound))
        };
        x.bound = path(Some(format!("{}/{id}", x.record.path)));
        let heard = self.ask(x, vec![(maker, String::new())], true).await;
        x.bound = path(None);
        let told = heard?.pop().and_then(|heard| heard.told);
        match told {
            Some(told) if told.status == StatusCode::NOT_FOUND => {
                Err(reply::cursor_not_found().into())
            }
            Some(told) if told.status.is_success() => {
                let time = wanted.time_of(&told.body);
                let name = || full_name(&self.snapshot.gateway, maker);
                time.map(Some)
                    .ok_or_else(|| reply::list_failed(&name()).into())
            }
            Some(told) if told.status.is_client_error() => {
                Err(reply::no_list(told.status, told.content_type, told.body).into())
            }
            _ => Err(reply::maker_is_down(&full_name(&self.snapshot.gateway, maker)).into()),
        }
    }

    /// Reads the lists as far as the page needs, and says why there is none if nobody told one.
    async fn read(
        &mut self,
        x: &mut Exchange,
        merge: &mut Merge,
        makers: &[Maker],
    ) -> Result<Option<Refusal>, Stop> {
        let (mut listed, mut refused) = (false, None);
        for round in 0.. {
            let due = merge.go_on();
            if due.is_empty() {
                break;
            }
            if round == ROUNDS {
                due.iter().for_each(|n| merge.fail(*n));
                continue;
            }
            for due in due.chunks(AT_ONCE) {
                let questions = due.iter().map(|n| (makers[*n], merge.query(*n)));
                let heard = self.ask(x, questions.collect(), round == 0).await?;
                for (n, heard) in due.iter().zip(heard) {
                    listed |= take(merge, *n, heard.told, &mut refused);
                }
            }
        }
        let refused = refused.map_or(Refusal::Nobody, Refusal::Told);
        Ok((!listed).then_some(refused))
    }

    /// Asks servers, each with a query of its own, all at once. `noted`: each is worth a word in the
    /// log, and not only those that fail.
    async fn ask(
        &mut self,
        x: &mut Exchange,
        questions: Vec<(Maker, String)>,
        noted: bool,
    ) -> Result<Vec<Heard>, Stop> {
        let gateway = &self.snapshot.gateway;
        let ground = Ground {
            edge: self.edge,
            snapshot: self.snapshot,
            settings: &gateway.config.routes[self.route],
            route: self.route,
            body: None,
            words: self.words,
        };
        let (head, upload) = (self.session.req_header().clone(), self.upload);
        let asked: &Exchange = x;
        let questions: Vec<Question<'_>> = questions
            .into_iter()
            .map(|(maker, query)| -> Question<'_> {
                let head = with_query(&head, &asked.record.path, &query);
                Box::pin(async move { one(&ground, asked, head, upload, maker).await })
            })
            .collect();
        let heard = while_client_stays(self.edge, Some(self.session), together(questions)).await;
        let heard = stopped(heard)?;
        for heard in &heard {
            if let Some(asked) = &heard.asked
                && (noted || heard.told.is_none())
            {
                note(&ground, x, asked, heard.outcome.brief());
            }
        }
        Ok(heard)
    }
}

/// Takes what a server said; says whether it was a list.
fn take(merge: &mut Merge, n: usize, told: Option<Told>, refused: &mut Option<Told>) -> bool {
    let Some(told) = told else {
        merge.fail(n);
        return false;
    };
    if told.status.is_success() {
        let is_page = merge.take(n, &told.body);
        if !is_page {
            merge.fail(n);
        }
        return is_page;
    }
    match told.status.as_u16() {
        // it has no such lists at all
        404 | 405 | 501 => merge.has_none(n),
        _ => merge.fail(n),
    }
    if told.status.is_client_error() {
        refused.get_or_insert(told);
    }
    false
}

type Question<'a> = Pin<Box<dyn Future<Output = Heard> + Send + 'a>>;

/// What all of them give, in their order.
async fn together(mut questions: Vec<Question<'_>>) -> Vec<Heard> {
    let mut heard: Vec<Option<Heard>> = questions.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (question, heard) in questions.iter_mut().zip(&mut heard) {
            if heard.is_none()
                && let Poll::Ready(done) = question.as_mut().poll(context)
            {
                *heard = Some(done);
            }
        }
        match heard.iter().all(Option::is_some) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    heard.into_iter().flatten().collect()
}

/// The client's head with another query, for an answer that is there whatever it has already.
fn with_query(head: &RequestHeader, path: &str, query: &str) -> RequestHeader {
    let mut head = head.clone();
    let target = match query {
        "" => path.to_owned(),
        query => format!("{path}?{query}"),
    };
    // what came in as a path and a query is one still
    if let Ok(uri) = target.parse() {
        head.set_uri(uri);
    }
    for name in [
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::RANGE,
    ] {
        head.remove_header(&name);
    }
    head
}

/// Asks one server.
async fn one(
    ground: &Ground<'_>,
    x: &Exchange,
    head: RequestHeader,
    upload: &Upload,
    maker: Maker,
) -> Heard {
    let gateway = ground.gateway();
    let targets = &ground.settings.targets;
    let target = targets.iter().position(|target| target.pool == maker.pool);
    let lease = gateway.pool(maker.pool).aside(maker.server, Instant::now());
    let (Some(target), Some(lease)) = (target, lease) else {
        return Heard::NOT_ASKED;
    };
    if !(x.take_of_pool(maker.pool, Some(0), &ground.edge.metrics)).await {
        return Heard::NOT_ASKED;
    }
    let attempt = Attempt {
        target,
        lease,
        step: Step::First,
        pause: Duration::ZERO,
    };
    let asked = ground.asked(x, &attempt);
    let leg = ground.leg(x, &asked, false);
    let side = Side::Kept {
        head: &head,
        upload,
    };
    let (outcome, told) = match leg.ask(side, attempt.lease).await {
        Ok(answer) => {
            let outcome = outcome_of(&answer);
            let told = whole(ground, answer).await;
            match told {
                Some(told) => (outcome, Some(told)),
                None => (Outcome::Invalid, None),
            }
        }
        Err(Failed::Outcome(outcome)) => (outcome, None),
        Err(Failed::Stop(_)) => (Outcome::Reset, None),
    };
    let now = Instant::now();
    account(
        gateway,
        maker.pool.0,
        &asked.member,
        false,
        outcome,
        None,
        now,
    );
    x.left_pool(maker.pool);
    Heard {
        asked: Some(asked),
        outcome,
        told,
    }
}

/// All of an answer, if it can be read and is not too long.
async fn whole(ground: &Ground<'_>, mut answer: Box<Answer>) -> Option<Told> {
    let mut body = BytesMut::from(answer.first.as_deref().unwrap_or_default());
    let packed = answer.head.headers.get(header::CONTENT_ENCODING);
    if packed.is_some_and(|coding| coding.as_bytes() != b"identity") {
        return None;
    }
    let rest = async {
        while !answer.connection.talk.is_over() {
            match answer.connection.talk.read_body().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => break,
                Err(_) => return false,
            }
            if body.len() > LONGEST {
                return false;
            }
        }
        true
    };
    if alarm::within(PATIENCE, rest).await != Some(true) {
        return None;
    }
    let metrics = &ground.gateway().pool_metrics;
    let pool = ground.settings.targets[answer.target].pool.0;
    metrics[pool].servers[answer.member.server]
        .bytes_received
        .inc_by(body.len() as u64);
    let told = Told {
        status: answer.head.status,
        content_type: answer.head.headers.get(header::CONTENT_TYPE).cloned(),
        body: body.freeze(),
    };
    answer.connection.release(ground.edge, Instant::now());
    Some(told)
}
