//! What edges tell each other: who is there, who was ejected, what was spent.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use redis::AsyncCommands;

use super::{GONE, SCRIPTS, State, UNKNOWN};

/// What the others have to tell.
pub(crate) struct News {
    pub(crate) ejected: Vec<Told>,
    /// They have forgotten the answers that were kept.
    pub(crate) forget: bool,
}

/// A server that another edge has ejected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// As [`State::eject`] was told of it.
    pub(crate) server: String,
    pub(crate) left: Duration,
}

impl State {
    /// Says that this edge is there, and hears the news. `None` if the server is away.
    pub(crate) async fn beat(&self) -> Option<News> {
        let connected = self.connected.load_full()?;
        let mut call = SCRIPTS.beat.key(self.key(format_args!("edges")));
        call.key(self.key(format_args!("ejected")));
        call.key(self.key(format_args!("cache:generation")));
        call.arg(&*connected.edge).arg(GONE.as_millis() as u64);
        let asking = async |mut on| call.invoke_async::<Vec<String>>(&mut on).await;
        let answer = self.ask(&connected, "beat", asking).await?;
        self.found();
        let number = |text: &String| text.parse::<u64>().unwrap_or_default();
        let (edges, generation) = (answer.first().map(number), answer.get(1).map(number));
        self.metrics.edges.set(edges.unwrap_or_default() as i64);
        let generation = generation.unwrap_or_default();
        let before = self.generation.swap(generation, Relaxed);
        let told = answer.get(2..).unwrap_or_default().chunks_exact(3);
        let others = told.filter(|one| one[2] != *connected.edge);
        Some(News {
            ejected: others
                .map(|one| Told {
                    server: one[0].clone(),
                    left: Duration::from_millis(number(&one[1])),
                })
                .collect(),
            // the first one is only heard
            forget: before != UNKNOWN && generation > before,
        })
    }

    /// What all edges sign ids with: `own`, if nobody has told another one before.
    pub(crate) async fn secret(&self, own: &str) -> Option<String> {
        let connected = self.connected.load_full()?;
        let name = self.key(format_args!("affinity"));
        let asking = async |mut on: redis::aio::MultiplexedConnection| {
            let _: bool = on.set_nx(&name, own).await?;
            on.get(&name).await
        };
        self.ask(&connected, "secret", asking).await
    }

    /// Adds to what keys have spent in a month, once for each `delivery`, and hears what all edges
    /// have spent in it. `None` if the server is away, and nobody knows whether it heard.
    pub(crate) async fn spend(
        &self,
        month: &str,
        delivery: &str,
        units: &[(String, f64)],
    ) -> Option<HashMap<String, f64>> {
        let connected = self.connected.load_full()?;
        let mut call = SCRIPTS.spend.key(self.key(format_args!("spent:{month}")));
        call.key(self.key(format_args!("delivery:{delivery}:{month}")));
        for (key, units) in units {
            call.arg(key).arg(*units);
        }
        let asking = async |mut on| call.invoke_async(&mut on).await;
        self.ask(&connected, "spend", asking).await
    }
}
