//! The memory of conversations: whose, how much, how long.

use super::super::file;
use super::super::problem::Severity;
use super::super::tree;
use super::super::tree::at;
use super::super::{Match, Memory, Route, SessionBounds, Sessions};
use super::Resolver;
use crate::unit::{Size, Span};

/// The one endpoint whose messages are remembered.
const CHAT: &str = "/v1/chat/completions";
/// The most that may be remembered of one session: all of it goes out with each of its requests.
const MOST_BYTES: Size = Size::mib(4);

impl Resolver<'_> {
    pub(super) fn memory(
        &mut self,
        here: &tree::Path,
        route: &file::Route,
        conditions: &Match,
    ) -> Option<Memory> {
        let memory = route.memory.as_ref()?;
        let here = here.then("memory");
        let messages = memory.messages.unwrap_or(20);
        if !(2..=1000).contains(&messages) {
            let message = format!(
                "`messages` is 2 to 1000, a question and its answer at least, not {messages}"
            );
            self.error(here.then("messages"), message);
        }
        let bytes = memory.bytes.unwrap_or(Size(64 * 1024));
        if bytes.0 == 0 || bytes > MOST_BYTES {
            let message =
                format!("`bytes` is 1B to {MOST_BYTES}, as all of it goes out with each request");
            self.error(here.then("bytes"), message);
        }
        let ttl = memory.ttl.unwrap_or(Span::secs(3600)).0;
        if ttl.is_zero() {
            let message = "nothing is remembered for no time; leave `memory` out for no memory";
            self.error(here.then("ttl"), message);
        }
        if matches!(&route.cache, Some(file::Switch(Some(_)))) {
            let message = "`memory` and `cache` exclude each other on one route: the same words may mean something else in every session".to_owned();
            let help =
                "use two routes, told apart by a header or a model, or leave one of them out"
                    .to_owned();
            self.report(Severity::Error, here.clone(), message, Some(help));
        }
        if !conditions.paths.is_empty() && !conditions.paths.iter().any(|path| path.matches(CHAT)) {
            let message =
                format!("nothing is ever remembered on this route: only `{CHAT}` has messages");
            self.warn(here, message);
        }
        Some(Memory {
            by: memory.by.clone(),
            bounds: SessionBounds {
                messages: messages as usize,
                bytes: bytes.0,
                ttl,
            },
        })
    }

    /// Each session has to fit somewhere.
    pub(super) fn sessions(&mut self, file: &file::File, routes: &[Route]) -> Sessions {
        let all = file.sessions.memory.unwrap_or(Size::mib(64));
        for (n, route) in routes.iter().enumerate() {
            if let Some(memory) = &route.memory
                && memory.bounds.bytes > all.0
            {
                let message = format!(
                    "`bytes` of route `{}` is more than all of `sessions.memory`",
                    route.name
                );
                self.warn(at!["routes", n, "memory"], message);
            }
        }
        Sessions { memory: all.0 }
    }
}
