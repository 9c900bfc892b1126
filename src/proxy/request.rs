//! The head of a request as a server gets it.

use http::{HeaderName, HeaderValue, Method, header};
use pingora::http::RequestHeader;

use super::Edge;
use super::exchange::Exchange;
use super::http1::{Opening, Sent};
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

/// A head, as the server's protocol wants it.
pub(super) enum Head {
    Http1(Opening),
    Http2(Box<RequestHeader>),
}

/// Room for a head: the headers of SDKs and ours are some 600 bytes.
const ROOM: usize = 1024;

impl Writing<'_> {
    /// The head, from parsed parts only: one host, one kind of framing, nothing of the client's hop.
    pub(super) fn head(&self, client: &RequestHeader) -> Head {
        let (x, pool, server) = (self.x, self.pool, self.server);
        let query = client.uri.query();
        let query = x.bound.as_ref().map_or(query, |bound| bound.query(query));
        let renamed = x.realtime_query(query, pool);
        let query = renamed.as_deref().or(query);
        let bound = x.bound.as_ref();
        let path = bound.map_or(&*x.record.path, |bound| bound.path(&x.record.path));
        let target = path::to_server(path, query, pool, server, self.auth);
        match self.http2 {
            true => self.http2(client, &target),
            false => self.http1(client, &target),
        }
    }

    fn http1(&self, client: &RequestHeader, target: &str) -> Head {
        let mut bytes = Vec::with_capacity(ROOM);
        let line = [client.method.as_str(), " ", target, " HTTP/1.1\r\nHost: "];
        for part in line
            .into_iter()
            .chain([self.template.authority.as_str(), "\r\n"])
        {
            bytes.extend_from_slice(part.as_bytes());
        }
        self.fields(client, &mut |name, value| {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        });
        bytes.extend_from_slice(b"\r\n");
        Head::Http1(Opening {
            bytes,
            sent: match self.length {
                Some(_) => Sent::Whole,
                None => Sent::Chunked,
            },
            is_head: client.method == Method::HEAD,
            closes: self.pool.keepalive.is_none() && !self.x.upgrade,
        })
    }

    fn http2(&self, client: &RequestHeader, target: &str) -> Head {
        let method = client.method.clone();
        let mut head = RequestHeader::build_no_case(method, target.as_bytes(), Some(16))
            .expect("a path in normal form and a method that came in can go out");
        self.template.address(&mut head, target);
        self.fields(client, &mut |name, value| {
            if let Ok(mut value) = HeaderValue::from_bytes(value) {
                let ruled = self.pool.headers.set.iter().any(|(ruled, _)| ruled == name);
                value.set_sensitive(ruled || *name == header::AUTHORIZATION);
                let _ = head.append_header(name.clone(), value);
            }
        });
        Head::Http2(Box::new(head))
    }

    /// Puts all fields but the host.
    fn fields(&self, client: &RequestHeader, put: &mut dyn FnMut(&HeaderName, &[u8])) {
        let x = self.x;
        // what is packed could not be counted nor remembered, nor could ids be found in it
        let counted = x.counting.is_some() && !x.upgrade;
        let unpacked =
            counted || x.memory.is_some() || x.bound.as_ref().is_some_and(|bound| bound.marks());
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
        headers::to_server(
            &client.headers,
            self.pool,
            self.server,
            self.auth,
            &hop,
            &mut |name, value| {
                let replaced = match *name {
                    header::CONTENT_TYPE => self.translated,
                    header::ACCEPT_ENCODING => self.translated || unpacked,
                    // whatever a rule of the pool says
                    header::HOST | header::CONTENT_LENGTH | header::TRANSFER_ENCODING => true,
                    header::CONNECTION | header::UPGRADE => x.upgrade || self.http2,
                    _ => false,
                };
                if !replaced {
                    put(name, value);
                }
            },
        );
        if self.translated {
            put(&header::CONTENT_TYPE, b"application/json");
        }
        if unpacked {
            put(&header::ACCEPT_ENCODING, b"identity");
        }
        self.frame(&client.method, put);
        if x.upgrade {
            put(&header::CONNECTION, b"upgrade");
            put(&header::UPGRADE, b"websocket");
        } else if self.pool.keepalive.is_none() && !self.http2 {
            put(&header::CONNECTION, b"close");
        }
    }

    fn frame(&self, method: &Method, put: &mut dyn FnMut(&HeaderName, &[u8])) {
        match self.length {
            // whisper.cpp waits ten minutes for the body of a POST that does not say it has none
            Some(0)
                if matches!(
                    *method,
                    Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS
                ) => {}
            Some(length) => {
                let length = self.edits.length(length).to_string();
                put(&header::CONTENT_LENGTH, length.as_bytes());
            }
            None if self.http2 => {}
            None => put(&header::TRANSFER_ENCODING, b"chunked"),
        }
    }
}
