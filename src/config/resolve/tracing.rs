//! Where spans go. The file says that there are some; what it leaves open, the variables of
//! OpenTelemetry say, as whoever runs a collector expects.

use http::{HeaderName, HeaderValue};

use super::super::Tracing;
use super::super::file::{self, File};
use super::super::server_url::ServerUrl;
use super::super::tree::{self, at};
use super::Resolver;
use super::pools::header_name;
use crate::unit::Fraction;

/// Where a collector listens by default (OTLP specification, "Configuration options").
const COLLECTOR: &str = "http://localhost:4318";
/// The default port of OTLP over gRPC.
const GRPC: u16 = 4317;
/// Where it takes spans.
const PATH: &str = "/v1/traces";

impl Resolver<'_> {
    pub(super) fn tracing(&mut self, file: &File) -> Option<Tracing> {
        let tracing = file.tracing.as_ref()?;
        self.refuse_without_traces();
        let endpoint = self.collector(tracing);
        let headers = self.collector_headers(tracing);
        let sample = tracing.sample.or_else(|| {
            let ratio = (self.env)("OTEL_TRACES_SAMPLER_ARG")?;
            let fraction = ratio.trim().parse().ok().and_then(Fraction::from_ratio);
            if fraction.is_none() {
                let message = "$OTEL_TRACES_SAMPLER_ARG is not a number from 0 to 1";
                self.error(at!["tracing"], message);
            }
            fraction
        });
        let named = || (self.env)("OTEL_SERVICE_NAME").filter(|name| !name.is_empty());
        let service_name = tracing.service_name.clone().or_else(named);
        let attributes = (self.env)("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        Some(Tracing {
            endpoint: endpoint?,
            headers,
            sample: sample.unwrap_or(Fraction::percent(5)),
            service_name: service_name.unwrap_or_else(|| "trunkline".to_owned()),
            attributes: pairs(&attributes).collect(),
        })
    }

    #[cfg(feature = "otlp")]
    fn refuse_without_traces(&mut self) {}

    #[cfg(not(feature = "otlp"))]
    fn refuse_without_traces(&mut self) {
        let message = "this program was built without traces".to_owned();
        let help = "build it with `cargo build --release --features otlp`, or remove `tracing`";
        let severity = super::Severity::Error;
        self.report(severity, at!["tracing"], message, Some(help.to_owned()));
    }

    fn collector(&mut self, tracing: &file::Tracing) -> Option<ServerUrl> {
        let variable = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let (place, text) = match &tracing.otlp {
            Some(url) => (at!["tracing", "otlp"], url.clone()),
            None => {
                let set = (self.env)(variable).filter(|url| !url.is_empty());
                (at!["tracing"], set.unwrap_or_else(|| COLLECTOR.to_owned()))
            }
        };
        let parsed = ServerUrl::parse(&text).map_err(|why| match &tracing.otlp {
            Some(_) => why,
            None => format!("${variable}: {why}"),
        });
        let mut url = self.check(place.clone(), parsed)?;
        if url.port == GRPC {
            let message =
                "4317 is the port of OTLP over gRPC; this is OTLP over HTTP, whose port is 4318";
            self.warn(place, message);
        }
        if !url.path.ends_with(PATH) {
            url.path.push_str(PATH);
        }
        Some(url)
    }

    fn collector_headers(&mut self, tracing: &file::Tracing) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::new();
        for (name, value) in &tracing.headers {
            let place = at!["tracing", "headers"].then(name);
            headers.extend(self.collector_header(place, name, value));
        }
        if headers.is_empty() {
            let set = (self.env)("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default();
            for (name, value) in pairs(&set) {
                headers.extend(self.collector_header(at!["tracing"], &name, &value));
            }
        }
        headers
    }

    fn collector_header(
        &mut self,
        place: tree::Path,
        name: &str,
        value: &str,
    ) -> Option<(HeaderName, HeaderValue)> {
        let name = self.check(place.clone(), header_name(name))?;
        let parsed = HeaderValue::from_str(value).map_err(|_| {
            format!("the value of `{name}` holds characters that no header can carry")
        });
        let mut value = self.check(place, parsed)?;
        value.set_sensitive(true);
        Some((name, value))
    }
}

/// `key=value,key=value`, the values percent-encoded: how OpenTelemetry writes lists in variables.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    text.split(',').filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let key = key.trim();
        (!key.is_empty()).then(|| (key.to_owned(), decoded(value.trim())))
    })
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let code = (byte == b'%').then(|| behind.get(..2)).flatten();
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = &behind[2..];
            }
            None => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_variables_are_read_as_opentelemetry_writes_them() {
        let read: Vec<_> =
            pairs("authorization=Bearer%20x, a = 1 ,broken,=2,c=50%,d=a=b").collect();
        let expected = [
            ("authorization", "Bearer x"),
            ("a", "1"),
            ("c", "50%"),
            ("d", "a=b"),
        ];
        let expected = expected.map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(read, expected);
    }
}
