//! Bounds on what clients may do.

use super::super::file;
use super::super::tree::at;
use super::super::{HeadLimits, Limits, PerAddress};
use super::{Resolver, keys};
use crate::unit::{Size, Span};

/// What the parser of HTTP/1 takes at most.
const MOST_FIELDS: u32 = 256;

impl Resolver<'_> {
    pub(super) fn limits(&mut self, written: &file::Limits) -> Limits {
        let of_address = written.connections_per_ip;
        Limits {
            connections: written.connections.unwrap_or(10_000) as usize,
            connections_per_ip: PerAddress {
                most: of_address.unwrap_or(256) as usize,
                loopback: of_address.is_some(),
            },
            header_timeout: written.header_timeout.unwrap_or(Span::secs(10)).limit(),
            body_timeout: written.body_timeout.unwrap_or(Span::secs(60)).limit(),
            min_rate: written.min_rate.map_or(100, |size| size.0),
            head: self.head_limits(written),
            per_ip: keys::quota(&written.per_ip),
        }
    }

    fn head_limits(&mut self, written: &file::Limits) -> HeadLimits {
        let here = at!["limits"];
        let fields = written.max_headers.unwrap_or(128);
        if !(1..=MOST_FIELDS).contains(&fields) {
            let message = format!("`max_headers` is 1 to {MOST_FIELDS}, not {fields}");
            self.error(here.clone().then("max_headers"), message);
        }
        let mut size = |key: &'static str, written: Option<Size>, usual: u64, least, most| {
            let size = written.map_or(usual, |size| size.0);
            if !(least..=most).contains(&size) {
                let (least, most) = (Size(least), Size(most));
                let message = format!("`{key}` is {least} to {most}, not {}", Size(size));
                self.error(here.clone().then(key), message);
            }
            size as usize
        };
        const KIB: u64 = 1024;
        HeadLimits {
            fields: fields as usize,
            bytes: size(
                "max_header_size",
                written.max_header_size,
                64 * KIB,
                KIB,
                512 * KIB,
            ),
            uri: size("max_uri", written.max_uri, 16 * KIB, KIB, 64 * KIB),
        }
    }
}
