//! The real binary against fake servers on real sockets, one module a subject.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it stands"
)]
#![allow(unreachable_pub, reason = "`support` is a small library of its own")]

mod admin;
mod background;
mod bad_input;
mod balance;
mod budget;
mod cache;
mod cli;
mod credentials;
mod deploy;
mod embedded;
mod endpoints;
mod failover;
mod fallback;
mod faults;
mod hedging;
mod http2;
mod layers;
mod lifecycle;
mod listeners;
mod observe;
mod ollama;
#[cfg(feature = "otlp")]
mod otlp;
mod page;
mod regression;
mod reload;
mod routing;
mod samples;
mod sdk;
mod slots;
mod streaming;
mod support;
mod upgrade;
mod upstream_http2;
mod voices;
mod websockets;
mod zones;
