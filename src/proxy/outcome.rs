//! From what Pingora reports to how an attempt ended.

use pingora::{Error, ErrorType};

use crate::plan::{Outcome, Phase};

/// How an attempt ended that got no connection.
pub(super) fn of_connecting(error: &Error) -> Outcome {
    match error.etype() {
        ErrorType::ConnectTimedout => Outcome::TimedOut(Phase::Connect),
        ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::TLSWantX509Lookup
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError => Outcome::TlsFailed,
        _ => Outcome::ConnectFailed,
    }
}

/// How an attempt ended on a connection that was there.
pub(super) fn of_talking(error: &Error) -> Outcome {
    match error.etype() {
        ErrorType::WriteTimedout => Outcome::TimedOut(Phase::Send),
        ErrorType::ReadTimedout => Outcome::TimedOut(Phase::FirstByte),
        // "not this one, ask again": a connection that is about to end, a stream it did not take
        ErrorType::H2Error | ErrorType::InvalidH2 if error.retry() => Outcome::Reset,
        // the framing errors of Pingora's body reader are custom types
        ErrorType::InvalidHTTPHeader
        | ErrorType::H1Error
        | ErrorType::H2Error
        | ErrorType::InvalidH2
        | ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => Outcome::Invalid,
        _ => Outcome::Reset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_handshake_is_told_from_a_missing_server() {
        let of = |etype| of_connecting(&Error::new(etype));
        assert_eq!(of(ErrorType::ConnectRefused), Outcome::ConnectFailed);
        assert_eq!(of(ErrorType::InvalidCert), Outcome::TlsFailed);
        assert_eq!(
            of(ErrorType::ConnectTimedout),
            Outcome::TimedOut(Phase::Connect)
        );
        assert_eq!(
            of_talking(&Error::new(ErrorType::ConnectionClosed)),
            Outcome::Reset
        );
        assert_eq!(
            of_talking(&Error::new(ErrorType::InvalidHTTPHeader)),
            Outcome::Invalid
        );
    }
}
