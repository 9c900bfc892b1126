//! What ids are signed with.

use super::super::affinity::{Reached, taken_by};
use super::super::tree::at;
use super::super::{Pool, Route, file};
use super::Resolver;
use crate::config::problem::Severity;
use crate::unit::Secret;

/// Characters of a secret that nobody guesses.
const SHORTEST: usize = 16;

impl Resolver<'_> {
    pub(super) fn affinity(
        &mut self,
        file: &file::File,
        routes: &[Route],
        pools: &[Pool],
    ) -> Option<Secret> {
        let here = at!["affinity"];
        let written = &file.affinity;
        let names = ["secret", "secret_file"];
        let (text, path) = (written.secret.as_ref(), written.secret_file.as_ref());
        let secret = self.secret(&here, names, text, path);
        if let Some(secret) = &secret
            && secret.expose().len() < SHORTEST
        {
            let name = if path.is_some() { names[1] } else { names[0] };
            let message = format!("it is too short: at least {SHORTEST} characters");
            let help = "`openssl rand -hex 32` makes a good one".to_owned();
            self.report(Severity::Error, here.then(name), message, Some(help));
        }
        // edges that share a state sign by what is kept there
        if secret.is_none() && text.is_none() && path.is_none() && file.state.is_none() {
            self.die_with_a_restart(routes, pools);
        }
        secret
    }

    /// Says so where a route names such paths itself. One that takes whatever comes may never be
    /// asked for them.
    fn die_with_a_restart(&mut self, routes: &[Route], pools: &[Pool]) {
        let reached = Reached::new(routes, pools);
        let found = routes.iter().enumerate().find_map(|(n, route)| {
            let named = route.affinity && !route.conditions.paths.is_empty();
            // a pattern for everything names nothing
            let everything = || route.conditions.paths.iter().any(|p| p.matches("/v1/x"));
            let mut taken = taken_by(&route.conditions);
            let path = taken.next().filter(|_| named && !everything())?;
            let path = Some(path).filter(|_| reached.several(route))?;
            Some((n, route.name.clone(), path))
        });
        if let Some((n, name, path)) = found {
            let message = format!(
                "ids that route `{name}` hands out for {path} lead nowhere after a restart, as `affinity` has no secret"
            );
            let help = "give it one: `affinity: { secret: ${VARIABLE} }`".to_owned();
            self.report(Severity::Warning, at!["routes", n], message, Some(help));
        }
    }
}
