//! What is left of the limits of a request, told as OpenAI tells it.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::exchange::Exchange;
use crate::limit::Unit;

impl Exchange {
    /// `x-ratelimit-*`, as OpenAI writes them, of the limit that is nearest.
    pub(super) fn tell_what_is_left(&mut self) {
        const NAMES: [(Unit, [&str; 3]); 2] = [
            (
                Unit::Requests,
                [
                    "x-ratelimit-limit-requests",
                    "x-ratelimit-remaining-requests",
                    "x-ratelimit-reset-requests",
                ],
            ),
            (
                Unit::Tokens,
                [
                    "x-ratelimit-limit-tokens",
                    "x-ratelimit-remaining-tokens",
                    "x-ratelimit-reset-tokens",
                ],
            ),
        ];
        self.answer_headers
            .retain(|(name, _)| !name.as_str().starts_with("x-ratelimit-"));
        for (unit, names) in NAMES {
            let left = self.taken.meters.iter();
            let left = left.filter_map(|(_, meter)| meter.left(unit, self.started));
            let shared = self.taken.shared.iter().flat_map(|shared| &shared.left);
            let shared = shared.filter(|(of, _)| *of == unit).map(|(_, left)| *left);
            let left = left.chain(shared);
            let Some(least) = left.min_by_key(|left| left.remaining) else {
                continue;
            };
            let values = [
                least.limit.to_string(),
                least.remaining.to_string(),
                go_duration(least.reset),
            ];
            for (name, value) in names.into_iter().zip(values) {
                let value = HeaderValue::from_str(&value).expect("digits and letters are valid");
                self.answer_headers
                    .push((HeaderName::from_static(name), value));
            }
        }
    }
}

/// As Go prints a duration, which is what OpenAI sends and SDKs read: `20ms`, `1s`, `6m0s`.
fn go_duration(time: Duration) -> String {
    let milliseconds = time.as_millis();
    let (minutes, rest) = (milliseconds / 60_000, milliseconds % 60_000);
    match (minutes, rest) {
        (0, rest) if rest < 1000 => format!("{rest}ms"),
        (0, rest) if rest.is_multiple_of(1000) => format!("{}s", rest / 1000),
        (0, rest) => format!("{}.{:03}s", rest / 1000, rest % 1000),
        (minutes, rest) => format!("{minutes}m{}s", rest / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_openai_writes_them() {
        for (milliseconds, text) in [
            (0, "0ms"),
            (20, "20ms"),
            (1000, "1s"),
            (1500, "1.500s"),
            (60_000, "1m0s"),
            (366_000, "6m6s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(milliseconds)), text);
        }
    }
}
