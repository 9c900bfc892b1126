//! What the tests are made of: fake servers, the real binary, a plain HTTP client.
//!
//! Everything blocks and everything is a real socket. A test reads as: servers, gateway, client,
//! assertions.

pub mod browser;
pub mod client;
pub mod gateway;
pub mod http2;
pub mod http2_server;
pub mod load;
pub mod scene;
pub mod server;
pub mod tls;
pub mod typed;

pub use client::{Answer, Request, form};
pub use gateway::Gateway;
pub use http2::Http2;
pub use load::Load;
pub use scene::{Scene, Spot};
pub use server::{BlackHole, Place, Seen, Server, Wire};

use std::time::{Duration, Instant};

/// Asks again until `condition` holds; for what happens in its own time. Panics after 10 s.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "not in 10 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
