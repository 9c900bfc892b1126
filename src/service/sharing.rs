//! Keeps an edge in step with the others, by the server that they share their state on.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::affinity::Affinity;
use crate::gateway::Gateway;
use crate::limit::{self, Spent};
use crate::pool::Evidence;
use crate::proxy::Edge;
use crate::state::{State, Told};
use crate::unit;

/// How often an edge says that it is there, and hears what others have to tell.
const BEAT: Duration = Duration::from_secs(1);
/// What comes within so long is told together.
const TOGETHER: Duration = Duration::from_millis(5);

/// Shares for as long as the program runs.
pub(crate) async fn keep_sharing(edge: Arc<Edge>) {
    let mut beaten: Option<Instant> = None;
    loop {
        let snapshot = edge.snapshot();
        let Some(state) = snapshot.gateway.state.clone() else {
            tokio::time::sleep(BEAT).await;
            continue;
        };
        if beaten.is_none_or(|at| at.elapsed() >= BEAT) {
            beaten = Some(Instant::now());
            state.connect().await;
            hear(&state, &snapshot.gateway).await;
            sign_alike(&state, &snapshot.gateway).await;
        }
        state.post().await;
        tokio::select! {
            () = tokio::time::sleep(BEAT) => {}
            () = state.wake.notified() => tokio::time::sleep(TOGETHER).await,
        }
    }
}

/// Hears what the others have to tell, and tells what was spent.
async fn hear(state: &State, gateway: &Gateway) {
    let Some(news) = state.beat().await else {
        return;
    };
    for told in &news.ejected {
        follow(gateway, told);
    }
    if let (true, Some(cache)) = (news.forget, gateway.cache.clone()) {
        let _ = tokio::task::spawn_blocking(move || cache.clear()).await;
    }
    if gateway.config.keys.iter().any(|key| key.budget.is_some()) {
        spend(state, gateway).await;
    }
}

/// Signs ids as the other edges do, where the file has no secret of its own.
async fn sign_alike(state: &State, gateway: &Gateway) {
    let Some(own) = gateway.affinity().to_hand_over() else {
        return;
    };
    let told = state.secret(&own).await.filter(|told| *told != own);
    if let Some(others) = told.and_then(|told| Affinity::of_before(&told)) {
        gateway.take_over_ids(&others);
    }
}

/// Ejects a server that another edge has ejected.
fn follow(gateway: &Gateway, told: &Told) {
    let Some((pool, address)) = told.server.rsplit_once('/') else {
        return;
    };
    let found = gateway.pools.iter().position(|one| one.config.name == pool);
    let (Some(n), Ok(address)) = (found, address.parse()) else {
        return;
    };
    let Some(server) = gateway.pools[n].follow(address, told.left, Instant::now()) else {
        return;
    };
    gateway.pool_metrics[n].servers[server].ejected(Evidence::Elsewhere);
    let name = &gateway.pools[n].config.servers[server].name;
    let left = humantime::format_duration(Duration::from_secs(told.left.as_secs()));
    log::warn!("pool {pool}: server {name} ({address}) is ejected for {left}: another edge did");
}

async fn spend(state: &State, gateway: &Gateway) {
    let ledger = &gateway.limits.ledger;
    let delivery = ledger.delivery(unit::new_request_id);
    let this_month = limit::month(SystemTime::now());
    let mut months = vec![this_month.clone()];
    if let Some(delivery) = &delivery {
        months.extend(delivery.spent.keys().filter(|m| **m != this_month).cloned());
    }
    let mut told = Spent::new();
    for month in months {
        let page = delivery.as_ref().and_then(|one| one.spent.get(&month));
        let units = page.into_iter().flatten();
        let units: Vec<_> = units.map(|(key, units)| (key.clone(), *units)).collect();
        let name = delivery.as_ref().map_or("none", |one| one.name.as_str());
        let Some(all) = state.spend(&month, name, &units).await else {
            return;
        };
        told.insert(month, all.into_iter().collect());
    }
    ledger.delivered(delivery.as_ref().map(|one| one.name.as_str()), told);
}
