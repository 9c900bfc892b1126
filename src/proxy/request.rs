//! The head of a request as a server gets it.

use http::{HeaderValue, Method, header};
use pingora::http::RequestHeader;

use super::Edge;
use super::exchange::Exchange;
use super::peer::PeerTemplate;
use crate::config::{Auth, Pool, Server};
use crate::transform::fields::Edits;
use crate::transform::{headers, path};
use crate::unit::TraceContext;

/// What a head is written from, besides the client's own.
pub(super) struct Writing<'a> {
    pub(super) edge: &'a Edge,
    pub(super) x: &'a Exchange,
    pub(super) trace: Option<TraceContext>,
    pub(super) pool: &'a Pool,
    pub(super) server: &'a Server,
    /// What becomes of the client's credentials.
    pub(super) auth: Auth,
    pub(super) template: &'a PeerTemplate,
    pub(super) edits: &'a Edits,
    /// Of the body as it arrives, if it is known.
    pub(super) length: Option<u64>,
    pub(super) http2: bool,
    /// The body is not the client's: its server speaks another dialect.
    pub(super) translated: bool,
}

impl Writing<'_> {
    /// The head, from parsed parts only: one host, one kind of framing, nothing of the client's hop.
    pub(super) fn head(&self, client: &RequestHeader) -> RequestHeader {
        let (x, pool, server) = (self.x, self.pool, self.server);
        let query = client.uri.query();
        let query = x.bound.as_ref().map_or(query, |bound| bound.query(query));
        let renamed = x.realtime_query(query, pool);
        let query = renamed.as_deref().or(query);
        let bound = x.bound.as_ref();
        let path = bound.map_or(&*x.record.path, |bound| bound.path(&x.record.path));
        let target = path::to_server(path, query, pool, server, self.auth);
        let gateway = &x.snapshot.gateway;
        let hop = headers::Hop {
            request_id: &x.record.request_id,
            trace: self.trace,
            via: &self.edge.via,
            client: x.record.client,
            host: super::head::host(client),
            secure: x.record.tls.is_some(),
            is_ours: &|credential| gateway.keyring.knows(&gateway.config.keys, credential),
        };
        let sent = headers::to_server(&client.headers, pool, server, self.auth, &hop);
        let method = client.method.clone();
        let mut head =
            RequestHeader::build_no_case(method, target.as_bytes(), Some(sent.len() + 4))
                .expect("a path in normal form and a method that came in can go out");
        match self.http2 {
            true => self.template.address(&mut head, &target),
            false => set(&mut head, header::HOST, &self.template.authority),
        }
        for (name, value) in sent {
            let _ = head.append_header(name, value);
        }
        if self.translated {
            set(&mut head, header::CONTENT_TYPE, "application/json");
            // what is packed could not be translated
            head.remove_header(&header::ACCEPT_ENCODING);
        }
        // what is packed could not be counted nor remembered, nor could ids be found in it
        let counted = x.counting.is_some() && !x.upgrade;
        if counted || x.memory.is_some() || x.bound.as_ref().is_some_and(|bound| bound.marks()) {
            set(&mut head, header::ACCEPT_ENCODING, "identity");
        }
        self.frame(&mut head, &client.method);
        if x.upgrade {
            set(&mut head, header::CONNECTION, "upgrade");
            set(&mut head, header::UPGRADE, "websocket");
        } else if pool.keepalive.is_none() && !self.http2 {
            set(&mut head, header::CONNECTION, "close");
        }
        head
    }

    fn frame(&self, head: &mut RequestHeader, method: &Method) {
        match self.length {
            // whisper.cpp waits ten minutes for the body of a POST that does not say it has none
            Some(0)
                if matches!(
                    *method,
                    Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS
                ) => {}
            Some(length) => {
                let length = self.edits.length(length).to_string();
                set(head, header::CONTENT_LENGTH, &length);
            }
            None if self.http2 => {}
            None => set(head, header::TRANSFER_ENCODING, "chunked"),
        }
    }
}

fn set(head: &mut RequestHeader, name: http::HeaderName, text: &str) {
    let value = HeaderValue::from_str(text).expect("hosts and lengths can stand in a header");
    head.insert_header(name, value)
        .expect("one header more fits");
}
