//! A connection of our own to somebody who is asked now and then: no pool knows him.

use std::net::SocketAddr;
use std::time::Duration;

use pingora::connectors::http::Connector;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, OrErr, Result};

use crate::config::ServerUrl;

/// Connects to a server by its name. `patience`: for each of its addresses.
///
/// # Errors
/// If no address can be connected.
pub(super) async fn dial(
    connector: &Connector,
    url: &ServerUrl,
    patience: Duration,
) -> Result<HttpSession> {
    let found = tokio::net::lookup_host((url.host.as_str(), url.port))
        .await
        .or_err(ErrorType::ConnectError, "its name does not resolve")?;
    let mut found: Vec<SocketAddr> = found.collect();
    // `localhost` is both ::1 and 127.0.0.1, and most programs listen on one of them
    found.sort_by_key(SocketAddr::is_ipv6);
    let mut failed = Error::explain(ErrorType::ConnectError, "its name has no address");
    for address in found {
        let mut peer = HttpPeer::new(address, url.tls, url.host.clone());
        // nobody else gets this connection
        peer.group_key = fastrand::u64(1..);
        peer.options.connection_timeout = Some(patience);
        peer.options.total_connection_timeout = Some(patience);
        match connector.get_http_session(&peer).await {
            Ok((session, _)) => return Ok(session),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}
