//! The real binary against fake servers on real sockets, one module a subject.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it stands"
)]
#![allow(unreachable_pub, reason = "`support` is a small library of its own")]

mod admin;
mod affinity;
#[cfg(feature = "counted")]
mod allocations;
mod background;
mod bad_input;
mod balance;
mod bounds;
mod budget;
mod budgets;
mod cache;
mod check_endpoints;
mod cli;
mod credentials;
mod deploy;
mod discover;
mod embedded;
mod endpoints;
mod failover;
mod fallback;
mod faults;
mod hedging;
mod http2;
mod import;
mod jwt;
mod keys;
mod layers;
mod lifecycle;
mod limits;
mod listeners;
mod manual;
mod memory;
mod models;
mod observe;
mod ollama;
#[cfg(feature = "otlp")]
mod otlp;
mod page;
mod regression;
mod reliability;
mod reload;
mod routing;
mod samples;
mod sdk;
mod shaping;
mod slots;
mod smuggling;
mod soak;
mod split;
mod state;
mod streaming;
mod support;
mod top;
mod upgrade;
mod upstream_http2;
mod voices;
mod websockets;
mod zones;
