//! The exporter of traces: takes what requests have left, makes spans of it and posts them to a
//! collector, as OTLP over HTTP with JSON.
//!
//! It never holds up a request: what a collector does not take in time is dropped and counted. One
//! that is busy or away is asked again a few times, as the OTLP specification has it; meanwhile the
//! queue takes what fits.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue, header};
use pingora::http::RequestHeader;
use pingora::{ErrorType, OkOrErr, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::dial::dial;
use crate::config::Tracing;
use crate::inspect::answer::retry_after;
use crate::observe::record::Record;
use crate::observe::trace::{Batch, Lost};
use crate::proxy::Edge;

/// How long spans wait for company.
const TICK: Duration = Duration::from_secs(1);
/// Requests whose spans travel together.
const BATCH: usize = 256;
/// How long one post may take.
const POST_TIME: Duration = Duration::from_secs(10);
/// Pauses before a batch is posted again that a collector could not take.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// Longest pause a collector may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long the last spans may take at the end of the program.
const LAST_TIME: Duration = Duration::from_secs(3);
/// Bytes of an answer that are read.
const ANSWER: usize = 64 * 1024;

/// An exporter at work.
pub(crate) struct Exporting {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Begins to export, if the configuration says whereto.
pub(crate) fn start(edge: &Arc<Edge>) -> Option<Exporting> {
    let settings = edge.snapshot().gateway.config.tracing.clone()?;
    log::info!(
        "traces go to {}: {} of the requests that no caller has decided about",
        settings.endpoint,
        settings.sample
    );
    let (stop, stopping) = watch::channel(false);
    let exporter = Exporter {
        edge: edge.clone(),
        head: head(&settings),
        settings,
        stopping,
        works: true,
    };
    let task = tokio::spawn(exporter.run());
    Some(Exporting { stop, task })
}

impl Exporting {
    /// Exports what is left, in the time there is.
    pub(crate) async fn finish(self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(LAST_TIME, self.task).await.is_err() {
            log::warn!("the last traces could not be delivered in {LAST_TIME:?}");
        }
    }
}

struct Exporter {
    edge: Arc<Edge>,
    settings: Tracing,
    head: RequestHeader,
    stopping: watch::Receiver<bool>,
    /// The last batch was taken.
    works: bool,
}

/// What a collector says to a batch.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// It took it, but for so many spans.
    Taken { refused: usize, why: String },
    /// It will never take it.
    Refused(String),
    /// It may take it later.
    Later {
        why: String,
        pause: Option<Duration>,
    },
}

impl Exporter {
    async fn run(mut self) {
        loop {
            self.pause(TICK).await;
            let last = *self.stopping.borrow();
            loop {
                let records = self.edge.tracer.take(BATCH);
                if records.is_empty() {
                    break;
                }
                self.deliver(&records).await;
            }
            if last {
                return;
            }
        }
    }

    /// Waits, but not for the end of the program.
    async fn pause(&mut self, time: Duration) {
        let stopped = self.stopping.wait_for(|stopping| *stopping);
        let _ = tokio::time::timeout(time, stopped).await;
    }

    /// Posts until the collector has it, or never will, or was asked often enough.
    async fn deliver(&mut self, records: &[Record]) {
        let batch = Batch::of(records, &self.settings);
        let mut pauses = PAUSES.into_iter();
        loop {
            let (lost, why) = match self.post(&batch.json).await {
                Said::Taken { refused, why } => {
                    let refused = refused.min(batch.spans);
                    self.edge.tracer.exported(batch.spans - refused);
                    if refused == 0 {
                        return self.tell(None);
                    }
                    self.edge.tracer.lost(refused, Lost::Refused);
                    return self.tell(Some(why));
                }
                Said::Refused(why) => (Lost::Refused, why),
                Said::Later { why, pause } => match pauses.next() {
                    Some(own) if !*self.stopping.borrow() => {
                        let asked = pause.unwrap_or(own).min(LONGEST_PAUSE);
                        self.pause(asked.max(own)).await;
                        continue;
                    }
                    _ => (Lost::Unreachable, why),
                },
            };
            self.edge.tracer.lost(batch.spans, lost);
            return self.tell(Some(why));
        }
    }

    /// Logs when it begins or stops to work.
    fn tell(&mut self, trouble: Option<String>) {
        let endpoint = &self.settings.endpoint;
        match &trouble {
            Some(why) if self.works => {
                log::warn!("{endpoint} does not take traces, so they are dropped: {why}");
            }
            None if !self.works => log::info!("{endpoint} takes traces again"),
            _ => {}
        }
        self.works = trouble.is_none();
    }

    async fn post(&self, json: &str) -> Said {
        let later = |why: String| Said::Later { why, pause: None };
        match tokio::time::timeout(POST_TIME, self.exchange(json)).await {
            Ok(Ok(said)) => said,
            Ok(Err(error)) => later(error.to_string()),
            Err(_) => later(format!("no answer in {POST_TIME:?}")),
        }
    }

    async fn exchange(&self, json: &str) -> Result<Said> {
        // there is about one post a second, each with a connection of its own
        let (connector, url) = (&self.edge.connector, &self.settings.endpoint);
        let mut session = dial(connector, url, POST_TIME / 4).await?;
        let mut head = self.head.clone();
        head.insert_header(header::CONTENT_LENGTH, json.len())?;
        session.write_request_header(Box::new(head)).await?;
        let body = json.to_owned().into();
        session.write_request_body(body, true).await?;
        session.finish_request_body().await?;
        session.read_response_header().await?;
        let mut body = Vec::new();
        while body.len() < ANSWER
            && let Some(piece) = session.read_response_body().await?
        {
            body.extend_from_slice(&piece);
        }
        let head = session.response_header();
        let head = head.or_err(ErrorType::InvalidHTTPHeader, "an answer without a head")?;
        let pause = retry_after(&head.headers, SystemTime::now());
        Ok(said(head.status.as_u16(), pause, &body))
    }
}

fn head(settings: &Tracing) -> RequestHeader {
    let url = &settings.endpoint;
    let mut head = RequestHeader::build_no_case("POST", url.path.as_bytes(), Some(8))
        .expect("the path of a URL can be asked for");
    let agent = concat!("trunkline/", env!("CARGO_PKG_VERSION"), " (traces)");
    let authority = HeaderValue::from_str(&url.authority());
    let own: [(HeaderName, HeaderValue); 4] = [
        (
            header::HOST,
            authority.expect("a host can stand in a header"),
        ),
        (header::USER_AGENT, HeaderValue::from_static(agent)),
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (header::CONNECTION, HeaderValue::from_static("close")),
    ];
    for (name, value) in settings.headers.iter().cloned().chain(own) {
        let _ = head.insert_header(name, value);
    }
    head
}

/// What an answer means (OTLP specification, "OTLP/HTTP Response").
fn said(status: u16, pause: Option<Duration>, body: &[u8]) -> Said {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    match status {
        200..=299 => {
            let partial = &answer["partialSuccess"];
            let refused = &partial["rejectedSpans"];
            let refused = refused.as_u64().or_else(|| refused.as_str()?.parse().ok());
            let why = partial["errorMessage"].as_str().unwrap_or_default();
            Said::Taken {
                refused: refused.unwrap_or(0) as usize,
                why: why.to_owned(),
            }
        }
        429 | 502..=504 => Said::Later {
            why: format!("it answers {status}"),
            pause,
        },
        _ => {
            let why = answer["message"].as_str().unwrap_or_default();
            Said::Refused(format!(
                "it answers {status} {}",
                crate::unit::printable(why)
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood_as_the_specification_has_them() {
        let taken = |refused, why: &str| Said::Taken {
            refused,
            why: why.to_owned(),
        };
        let partial = br#"{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}"#;
        assert_eq!(said(200, None, b"{}"), taken(0, ""));
        assert_eq!(said(202, None, b""), taken(0, ""));
        assert_eq!(said(200, None, partial), taken(2, "too old"));
        let pause = Some(Duration::from_secs(7));
        for status in [429, 502, 503, 504] {
            let said = said(status, pause, b"");
            assert!(
                matches!(said, Said::Later { pause: p, .. } if p == pause),
                "{status}"
            );
        }
        for status in [301, 400, 401, 404, 500] {
            let said = said(status, None, br#"{"code":3,"message":"bad"}"#);
            assert!(matches!(said, Said::Refused(_)), "{status}");
        }
    }
}
