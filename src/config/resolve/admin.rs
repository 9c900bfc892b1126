//! Where operators and Prometheus ask, and what they must show.

use super::super::file::{self, File};
use super::super::tree::at;
use super::super::{Admin, Listener};
use super::Resolver;
use super::listeners::{parse_address, same_socket};

impl Resolver<'_> {
    pub(super) fn admin(&mut self, file: &File, listeners: &[Listener]) -> Option<Admin> {
        let default = file::Admin::default();
        let written = file.admin.as_ref().unwrap_or(&default);
        let here = at!["admin"];
        let place = match self.tree.span(&here.then("address")) == self.tree.span(&here) {
            true => here.clone(),
            false => here.then("address"),
        };
        let address = match written.address.as_deref() {
            Some("off" | "false") => return None,
            Some(address) => self.check(place.clone(), parse_address(address))?,
            None => Admin::USUAL,
        };
        if address.port() != 0 && listeners.iter().any(|l| same_socket(l.address, address)) {
            let message = format!(
                "`{address}` is a client listener; the admin endpoints need an address of their own"
            );
            self.error(place.clone(), message);
        }
        let files = ["token", "token_file"];
        let token = self.secret(
            &here,
            files,
            written.token.as_ref(),
            written.token_file.as_ref(),
        );
        let tls = written
            .tls
            .as_ref()
            .map(|tls| self.listener_tls(&here.then("tls"), tls));
        let admin = Admin {
            address,
            token: token.or_else(|| Admin::token_of(self.env)),
            hosts: written
                .hosts
                .0
                .iter()
                .map(|host| host.to_ascii_lowercase())
                .collect(),
            tls,
        };
        if let Err(why) = admin.may_listen() {
            self.error(place, why);
        }
        Some(admin)
    }
}
