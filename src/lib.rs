//! Trunkline: one address in front of many voice and LLM servers.
//!
//! # The way of a request
//!
//! | step | where | what happens | may end it |
//! | --- | --- | --- | --- |
//! | accept | `proxy::listen`, `tls`, `http1`, `http2` | a connection arrives, is counted and bounded; what it speaks is found out | too many; handshake or head too slow |
//! | admit | `proxy` (`admit`, `access`), `keyring`, `limit` | who asks, by key or token, for what path, in one normal form, and how much of it they may | ambiguous path, loop, preflight, no good key, limit reached |
//! | understand | `inspect` | model, voice and other fields, if some route asks for them | body can't be read |
//! | route | `route` | the first written route that matches | none does |
//! | agree | `state`, `proxy::taken` | where edges share their limits: what was taken here is taken of all | limit reached by all together |
//! | lead back | `affinity`, `proxy::bound` | ids that name something on one server say which, and pin the request to it | forged, or its maker is gone |
//! | remember | `cache`, `proxy::cached` | where the route keeps answers: is there one, or one on its way | it is there |
//! | recall | `session`, `proxy::memory` | where the route has a memory: what was said before in this session | its name is too long |
//! | plan | `plan`, `pool` | which server is next: pools in order, servers in turn, backups last | nobody available |
//! | wait | `proxy::line` | for a slot of a busy server, or for a model that is being loaded | line full or too slow |
//! | peer | `proxy::peer`, `idle` | the server becomes an address with TLS and limits, and perhaps a connection that was kept | |
//! | transform | `transform`, `proxy::request` | path, headers, key, fields of the body, voices | |
//! | translate | `dialect`, `proxy::words` | for servers with an API of their own: the request into their words, the answer out of them | no server has words for it |
//! | relay | `proxy::relay`, `leg`, `http1`, `hedge` | ask, perhaps two at once, judge, ask the next | plan exhausted |
//! | copy | `proxy::mirror` | where the route has a mirror: the same once more, for nobody | |
//! | account | `proxy::account`, `pool::eject` | what the outcome says about the server | |
//! | deliver | `proxy::deliver`, `tunnel` | pass the answer on, or a WebSocket's bytes both ways | the server breaks off |
//! | observe | `observe` | one record, to the access log and the metrics, once | |
//!
//! Whatever a connection waits for, it has one timer for all of it (`proxy::alarm`), and the end of the
//! program wakes it the same way.
//!
//! The plan never waits: it says "all slots are taken" or "it still loads", and the relay waits and
//! asks again. A slot is a `pool::Lease` that goes wherever its request goes and is free when it is
//! dropped, so no way for a request to end can forget it.
//!
//! `catalogue` is what `GET /v1/models` and `GET /v1/audio/voices` tell: the names of the file, and
//! those that servers report when `service::listing` asks them.
//!
//! `state` is the Redis that several edges share: asked in addition to what is known here, never
//! instead of it, so that an edge without it goes on alone. `service::sharing` keeps it in step.
//!
//! `gateway` is all of this built from one configuration; a request keeps the one it began with.
//! `reply` makes every answer that no server made. `service` runs beside the requests: probes,
//! admin endpoints, stand-ins. `command` is what can be typed.
//!
//! Imports point down the rows of `tests/it/layers.rs`. Pingora, tokio and the clock start at
//! `proxy` and `service`; below, only `pool` knows one Pingora crate, and with `cache` a channel of
//! tokio's, and `state` waits for its server.
//! Everything is private, so that code nobody calls is reported.

#![forbid(unsafe_code)]

mod affinity;
mod cache;
mod catalogue;
mod cli;
mod command;
mod config;
mod dialect;
#[cfg(test)]
mod fuzz;
mod gateway;
mod inspect;
mod keyring;
mod limit;
mod observe;
mod plan;
mod pool;
mod proxy;
mod reply;
mod route;
mod service;
mod session;
mod state;
mod transform;
mod unit;

/// Runs the program; the result is its exit code.
#[must_use]
pub fn main() -> std::process::ExitCode {
    cli::main()
}
