//! The first steps of a request, before any server is thought of: who asks, for what, and which
//! route takes it.

use std::time::Instant;

use http::{HeaderName, Method, header};

use super::body::Upload;
use super::exchange::{Exchange, Stop};
use super::session::Session;
use super::{Proxy, head};
use crate::inspect::endpoint::{self, Operation};
use crate::inspect::{self, Body, Scanner, path};
use crate::reply;
use crate::route::{Known, Lookup};
use crate::transform;
use crate::transform::headers::{TRACEPARENT, X_REQUEST_ID};
use crate::unit;

/// Characters that are logged of a path that is refused unread.
const LOGGED: usize = 256;

impl Proxy {
    /// Who asks, for what, and may it go on: all from the head alone.
    pub(super) fn admit(&self, session: &Session, x: &mut Exchange) -> Result<(), Stop> {
        let head = session.req_header();
        let text = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
        let record = &mut x.record;
        record.listener.clone_from(&self.listener);
        record.client = session.client();
        record.method = head.method.as_str().to_owned();
        record.protocol = head::protocol(head.version);
        record.tls = session.tls();
        record.user_agent = text(header::USER_AGENT).map(str::to_owned);
        let given = text(X_REQUEST_ID).filter(|id| unit::is_request_id(id));
        let id = given.map_or_else(unit::new_request_id, str::to_owned);
        let caller = text(TRACEPARENT);
        let caller = caller.and_then(|context| context.parse().ok());
        let (trace, span) = self.edge.tracer.begin(caller, x.started);
        (record.trace, record.span) = (Some(trace), span);
        record.path = head.uri.path().to_owned();
        x.take_request_id(id);
        x.cors = self.cors.is_some();
        if x.cors {
            let origin = head::allowed_origin(head, self.cors.as_ref());
            x.answer_headers.extend(head::cors_headers(origin));
        }
        let limits = x.snapshot.gateway.config.limits.head;
        if let Err(refused) = head::check(session, limits) {
            x.unclear = true;
            x.record.path = x.record.path.chars().take(LOGGED).collect();
            return Err(reply::head_refused(refused).into());
        }
        let normal = path::normalise(head::raw_path(head))
            .map_err(|e| reply::invalid_request(&format!("{e}.")))?;
        x.record.path = endpoint::canonical(normal);
        x.operation = endpoint::operation(&x.record.path);
        x.record.operation = x.operation.map(Operation::label);
        let came_back = head.headers.get_all(header::VIA).iter().any(|via| {
            via.to_str()
                .is_ok_and(|via| via.split(',').any(|hop| hop.trim() == self.edge.via))
        });
        if came_back {
            return Err(reply::loop_detected().into());
        }
        x.upgrade = head::asks_for_websocket(head)?;
        x.home = head::stays_home(head)?;
        x.patience = head::patience(head);
        if x.cors
            && head.method == Method::OPTIONS
            && (head.headers).contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        {
            let headers = head.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
            return Err(reply::preflight(headers).into());
        }
        self.let_in(head, x)
    }

    /// Reads as much as the decision needs, and decides.
    pub(super) async fn route(
        &self,
        session: &mut Session,
        x: &mut Exchange,
        upload: &mut Upload,
    ) -> Result<(usize, Option<Body>), Stop> {
        let snapshot = x.snapshot.clone();
        let gateway = &snapshot.gateway;
        let path = x.record.path.clone();
        let html = head::wants_html(session.req_header());
        let query = session.req_header().uri.query();
        let asked = head::asked(session.req_header(), &path);
        let may_ask = |model: &str| x.may_ask(model);
        if let Some(own) = gateway.own_endpoint(&asked, query, html, &may_ask) {
            return Err(own.into());
        }
        let find = |session: &Session, known: Known<'_>| {
            gateway.find(&head::asked(session.req_header(), &path), known)
        };
        if x.operation == Some(Operation::Realtime) && upload.length() == Some(0) {
            let (route, body) = self.route_realtime(session, x, &path)?;
            self.agree(x, route).await?;
            return Ok((route, body));
        }
        let lookup = gateway.find(&asked, Known::Length(upload.length()));
        let mut lookup = gateway.led_back(&asked, lookup);
        // a route of which only the body tells is asked again when it is known
        let wants_fields = |x: &Exchange, route| {
            gateway.rewrites(route, x.operation) || self.must_understand(x, Some(route))
        };
        let fields = match lookup {
            Lookup::Found(route) => upload.length() != Some(0) && wants_fields(x, route),
            Lookup::ReadBody { fields } => fields || self.must_understand(x, None),
            Lookup::Missing { .. } => false,
        };
        let mut limit = gateway.largest_body();
        if let Lookup::Found(route) = lookup {
            limit = gateway.config.routes[route].max_body;
            let audio = x.operation.is_some_and(Operation::hears);
            let length = upload.length().unwrap_or(0);
            if let Some(refusal) = gateway.too_large(route, x.home, audio, length) {
                return Err(refusal.into());
            }
        }
        let mut body = None;
        if fields || matches!(lookup, Lookup::ReadBody { .. }) {
            body = self.understand(session, x, upload, fields, limit).await?;
            if !matches!(lookup, Lookup::Found(_)) {
                let known = Known::All {
                    length: upload.received(),
                    body: body.as_ref(),
                };
                lookup = find(session, known);
            }
            // the length decided, but the fields are to be rewritten: they pass by once more
            if let Lookup::Found(route) = lookup
                && !fields
                && wants_fields(x, route)
            {
                body = self.understand(session, x, upload, true, limit).await?;
            }
        }
        match lookup {
            Lookup::Found(route) => {
                upload.limit(gateway.config.routes[route].max_body)?;
                self.let_through(x, route, upload.length(), body.as_ref())?;
                if let Some(options) = x.doubtful_options(body.as_ref()) {
                    Box::pin(x.ask_in_options(upload, options)).await?;
                }
                self.agree(x, route).await?;
                Ok((route, body))
            }
            Lookup::Missing { model: true } => Err(reply::model_not_found(
                body.as_ref().and_then(|body| body.text("model")),
            )
            .into()),
            _ => Err(reply::no_route(&x.record.method, &x.record.path).into()),
        }
    }

    /// Takes of the limits that are shared with other edges.
    async fn agree(&self, x: &mut Exchange, route: usize) -> Result<(), Stop> {
        let shared = x.snapshot.gateway.state.is_some() && x.taken.is_limited();
        if !shared {
            return Ok(());
        }
        x.route = Some(route);
        Box::pin(x.take_of_all(&self.edge.metrics)).await
    }

    /// A realtime conversation names its model in the query.
    fn route_realtime(
        &self,
        session: &Session,
        x: &mut Exchange,
        path: &str,
    ) -> Result<(usize, Option<Body>), Stop> {
        let head = session.req_header();
        let model = transform::path::parameter(head.uri.query(), "model");
        let body = model.map(|model| Body::of_model(&model));
        let known = Known::All {
            length: 0,
            body: body.as_ref(),
        };
        let snapshot = x.snapshot.clone();
        let gateway = &snapshot.gateway;
        x.record.model = body
            .as_ref()
            .and_then(|b| b.text("model"))
            .map(str::to_owned);
        match gateway.find(&head::asked(head, path), known) {
            Lookup::Found(route) => {
                self.let_through(x, route, None, None)?;
                Ok((route, None))
            }
            Lookup::Missing { model: true } => {
                Err(reply::model_not_found(x.record.model.as_deref()).into())
            }
            _ => Err(reply::no_route(&x.record.method, path).into()),
        }
    }

    /// Reads the body ahead, and its fields if they are wanted.
    async fn understand(
        &self,
        session: &mut Session,
        x: &mut Exchange,
        upload: &mut Upload,
        fields: bool,
        limit: u64,
    ) -> Result<Option<Body>, Stop> {
        let peeked = |result: &str| {
            self.edge
                .metrics
                .body_peek
                .with_label_values(&[result])
                .inc()
        };
        let started = Instant::now();
        let headers = &session.req_header().headers;
        let scanner = match fields && inspect::has_fields(headers, x.operation) {
            true => Some(Scanner::new(headers).map_err(|broken| {
                peeked("invalid");
                reply::invalid_body(&broken)
            })?),
            false => None,
        };
        if let Err(stop) = upload.limit(limit) {
            peeked("too_large");
            return Err(stop);
        }
        let read = upload.read_ahead(session, scanner).await;
        x.record.times.body += started.elapsed();
        let body = read.inspect_err(|stop| {
            if let Stop::Answer(reply) = stop {
                peeked(if reply.status.as_u16() == 413 {
                    "too_large"
                } else {
                    "invalid"
                });
            }
        })?;
        if let Some(body) = &body {
            peeked(if body.text("model").is_some() {
                "found"
            } else {
                "missing"
            });
            x.record.model = body.text("model").map(str::to_owned);
            x.record.voice = body.text("voice").map(str::to_owned);
            x.record.stream = body.field("stream").is_some_and(|field| field.is_true);
            if x.operation == Some(Operation::Speech) {
                let input = body.field("input");
                x.record.characters = input.map(|input| match &input.text {
                    Some(text) => text.chars().count() as u64,
                    // a long text is only located; its bytes stand for its characters
                    None => (input.value.end - input.value.start).saturating_sub(2),
                });
            }
            if let (true, Some(file)) = (x.operation.is_some_and(Operation::hears), &body.file) {
                x.record.audio = upload.audio(file.clone()).await;
            }
        }
        Ok(body)
    }
}
