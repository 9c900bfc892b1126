//! `trunkline standin`: a stand-in as a process of its own.

use std::time::Duration;

use crate::cli::{FAILED, OK, StandIn};
use crate::service::standin::{self, Knobs};

/// Serves until its time is over; says with which code to exit.
pub(crate) fn run(options: &StandIn) -> u8 {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("trunkline: {error}");
            return FAILED;
        }
    };
    runtime.block_on(async {
        let listener = match tokio::net::TcpListener::bind(options.listen).await {
            Ok(listener) => listener,
            Err(error) => {
                eprintln!(
                    "trunkline: {} cannot be listened on: {error}",
                    options.listen
                );
                return FAILED;
            }
        };
        let address = listener.local_addr().unwrap_or(options.listen);
        println!("{} listens on http://{address}", options.name);
        let stand_in = standin::StandIn {
            name: options.name.clone(),
            knobs: Knobs {
                delay: Duration::from_millis(options.delay),
                gap: Duration::from_millis(options.gap),
                status: options.status,
                chunks: options.chunks,
                cut: options.cut,
            },
        };
        let over = tokio::time::sleep(Duration::from_secs(options.for_seconds));
        standin::serve(listener, stand_in, over).await;
        OK
    })
}
