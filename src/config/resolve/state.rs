//! What several edges share.

use super::super::State;
use std::time::Duration;

use super::super::file;
use super::super::tree::at;
use super::Resolver;

/// How long the server may take: on its own network it takes less than one.
const TIMEOUT: Duration = Duration::from_millis(100);
/// By then other edges take this one for gone.
const LONGEST: Duration = Duration::from_secs(5);

impl Resolver<'_> {
    pub(super) fn state(&mut self, state: &file::State) -> Option<State> {
        let here = at!["state"];
        let names = ["redis", "redis_file"];
        let (written, file) = (state.redis.as_ref(), state.redis_file.as_ref());
        let url = self.secret(&here, names, written, file);
        if written.is_none() && file.is_none() {
            self.error(
                here.clone(),
                "one of `redis` and `redis_file` is missing here",
            );
        }
        let timeout = state.timeout.map_or(TIMEOUT, |timeout| timeout.0);
        if timeout.is_zero() {
            let message =
                "a server that is away would be waited for without end; leave it out for 100ms";
            self.error(here.then("timeout"), message);
        }
        if timeout > LONGEST {
            let message = "requests would wait so long for a server that hangs; at most 5s";
            self.error(here.then("timeout"), message);
        }
        let prefix = state.prefix.as_deref().unwrap_or("trunkline");
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-:{}".contains(c);
        if prefix.is_empty() || !prefix.chars().all(plain) {
            let message = "a prefix is made of letters, digits and `._-:{}`";
            self.error(here.then("prefix"), message);
        }
        let url = url?;
        if url.expose().starts_with("rediss:") {
            let message = "`rediss` is not spoken: a server behind TLS needs a tunnel, such as stunnel, in between";
            self.error(here.then("redis"), message);
            return None;
        }
        // the message must not repeat it: it may hold a password
        if let Err(error) = redis::IntoConnectionInfo::into_connection_info(url.expose()) {
            let message = format!(
                "this is no address of a Redis server ({}); write `redis://HOST:PORT/0`",
                error.category()
            );
            self.error(here.then("redis"), message);
            return None;
        }
        Some(State {
            redis: url,
            prefix: prefix.to_owned(),
            timeout,
        })
    }
}
