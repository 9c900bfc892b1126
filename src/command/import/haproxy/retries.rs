//! Retries of a backend, which routes have here.

use super::words::Section;
use crate::command::import::draft::{Map, Yaml};

/// What a route to the backend says of retries.
pub(super) fn of(section: &Section) -> Map {
    let mut settings = Map::default();
    let count = section
        .last("retries")
        .and_then(|line| line.word(1).parse::<u64>().ok());
    if let Some(on) = section.last("retry-on") {
        let mut all: Vec<&str> = Vec::new();
        for word in &on.words[1..] {
            let own: &[&str] = match word.as_str() {
                "conn-failure" => &["connect"],
                "empty-response" | "junk-response" => &["reset"],
                "response-timeout" => &["timeout"],
                "all-retryable-errors" => {
                    &["connect", "reset", "timeout", "500", "502", "503", "504"]
                }
                status if status.parse::<u16>().is_ok() => &[status],
                _ => &[],
            };
            all.extend(
                own.iter()
                    .filter(|word| !all.contains(*word))
                    .copied()
                    .collect::<Vec<_>>(),
            );
        }
        if !all.is_empty() {
            let on = all.into_iter().map(Yaml::plain).collect();
            settings.set_in("retry", "on", Yaml::List(on));
        }
    }
    if let Some(count) = count {
        settings.set_in("retry", "attempts", Yaml::plain(count + 1));
    }
    settings
}
