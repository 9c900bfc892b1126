//! A server as Pingora connects to it.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{HeaderValue, Uri};
use pingora::http::RequestHeader;
use pingora::protocols::ALPN;
use pingora::upstreams::peer::{HttpPeer, Peer, Scheme};
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};

use super::idle::{Shelf, Shelves};
use crate::config::{Pool, Server};

/// Requests that share one HTTP/2 connection at most; nginx and hyper allow 128 and 200 by default.
const H2_STREAMS: usize = 100;
/// Addresses of a server that are kept at most.
const ADDRESSES: usize = 16;

/// A server at one of its addresses.
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) peer: HttpPeer,
    /// Connections of HTTP/1.1 to it.
    pub(super) shelf: Arc<Shelf>,
}

/// A server of a pool, to be connected to at one of its addresses.
#[derive(Clone)]
pub(crate) struct PeerTemplate {
    peer: HttpPeer,
    /// Those that were asked for: a peer is some thirty fields to copy for each attempt.
    known: Arc<ArcSwap<Vec<Arc<Place>>>>,
    /// The `Host` its requests carry.
    pub(crate) authority: String,
    /// What `x-backend` says of its answers.
    pub(super) backend: HeaderValue,
}

impl PeerTemplate {
    /// `group` keeps the connections of pools apart that reach one address with different
    /// certificates or names: Pingora's own pool key has no word for those.
    pub(crate) fn new(pool: &Pool, server: &Server, group: u64) -> Self {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let sni = match server.url.tls {
            true => pool
                .tls
                .sni
                .clone()
                .unwrap_or_else(|| server.url.host.clone()),
            false => String::new(),
        };
        let mut peer = HttpPeer::new(nowhere, server.url.tls, sni);
        peer.group_key = group;
        peer.options.connection_timeout = pool.timeouts.connect;
        peer.options.total_connection_timeout = pool.timeouts.connect;
        peer.options.verify_cert = pool.tls.verify;
        peer.options.verify_hostname = pool.tls.verify;
        if !pool.tls.authorities.is_empty() {
            let authorities = pool.tls.authorities.iter();
            let wrapped: Vec<_> = authorities
                .map(|der| WrappedX509::new(der.clone(), parse_x509))
                .collect();
            peer.options.ca = Some(wrapped.into());
        }
        if let Some(identity) = &pool.tls.identity {
            let pair = CertKey::new(identity.chain.clone(), identity.key.0.clone());
            peer.client_cert_key = Some(Arc::new(pair));
        }
        if pool.http2 {
            peer.options.alpn = match server.url.tls {
                true => ALPN::H2H1,
                // prior knowledge (RFC 9113, section 3.3)
                false => ALPN::H2,
            };
            peer.options.max_h2_streams = H2_STREAMS;
        }
        debug_assert_eq!(peer.scheme, Scheme::from_tls_bool(server.url.tls));
        PeerTemplate {
            peer,
            known: Arc::default(),
            authority: server.url.authority(),
            backend: HeaderValue::from_str(&format!("{}/{}", pool.name, server.name))
                .unwrap_or(HeaderValue::from_static("?")),
        }
    }

    /// Says in a head where it goes, as HTTP/2 wants it: with scheme and authority beside the path
    /// (RFC 9113, section 8.3.1). Pingora would take every server for one of TLS.
    pub(crate) fn address(&self, head: &mut RequestHeader, target: &str) {
        let scheme = match self.peer.scheme {
            Scheme::HTTP => "http",
            Scheme::HTTPS => "https",
        };
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(self.authority.as_str())
            .path_and_query(target)
            .build();
        head.set_uri(uri.expect("a checked URL and a path in normal form make a URI"));
        head.set_version(http::Version::HTTP_2);
    }

    /// Whether HTTP/1.1 is spoken on bare TCP with it, also where that becomes another protocol.
    pub(super) fn is_plain(&self, upgrade: bool) -> bool {
        let h1 = upgrade || self.peer.options.alpn.get_min_http_version() == 1;
        self.peer.scheme == Scheme::HTTP && h1
    }

    /// The server at one address.
    pub(super) fn place(&self, address: SocketAddr, shelves: &Shelves) -> Arc<Place> {
        let known = self.known.load();
        if let Some(place) = known.iter().find(|place| place.address == address) {
            return place.clone();
        }
        let peer = self.at(address, false, false);
        let place = Arc::new(Place {
            address,
            shelf: shelves.shelf(peer.reuse_hash()),
            peer,
        });
        // names may lead elsewhere every minute: what is not asked for any more goes some time
        let kept = known.iter().take(ADDRESSES - 1).cloned();
        let mut more = vec![place.clone()];
        more.extend(kept);
        self.known.store(Arc::new(more));
        place
    }

    /// The peer at one address. A `fresh` one shares no connections with those before, for when a
    /// kept one turned out to be dead; one that becomes another protocol is asked in HTTP/1.1.
    pub(crate) fn at(&self, address: SocketAddr, fresh: bool, upgrade: bool) -> HttpPeer {
        let mut peer = self.peer.clone();
        peer._address = address.into();
        if upgrade {
            peer.options.alpn = ALPN::H1;
        }
        if fresh {
            peer.group_key ^= fastrand::u64(1..);
        }
        peer
    }
}
