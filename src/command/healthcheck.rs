//! `trunkline healthcheck`: asks the running proxy whether it is ready, for images without a shell.

use std::time::Duration;

use super::admin_client::{AdminClient, Answer};
use crate::cli::{FAILED, HealthCheck, OK};

/// Asks; 0 if the answer is good, else 1, which is all that Docker knows.
pub(crate) fn run(options: &HealthCheck) -> u8 {
    let path = if options.live { "/healthz" } else { "/readyz" };
    let patience = Duration::from_secs(options.timeout.max(1));
    let asked = AdminClient::find(&options.remote).and_then(|client| {
        let address = client.address;
        Ok((address, client.ask("GET", path, patience)?))
    });
    match asked {
        Ok((_, Answer { status: 200, body })) => {
            print!("{body}");
            OK
        }
        Ok((address, Answer { status, body })) => {
            eprintln!("trunkline: {address}{path} says {status}: {}", body.trim());
            FAILED
        }
        Err(message) => {
            eprintln!("trunkline: {message}");
            FAILED
        }
    }
}
