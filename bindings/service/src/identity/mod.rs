//! Who asks, as Keystone v3 has it, as far as clients of block storage need it: tokens, users, projects, roles, and where the services are.
//!
//! Three ways: with people in the catalog ([`own`]), with those of a Keystone elsewhere ([`keystone`]), or without logins, to try things out
//! ([`dev`]).
//!
//! Invariants:
//! - A token's owner is settled anew for each request: what it stands on may have ended since the last one.
//! - Refusals of a login are the same, and take about as long, whatever was wrong with it.
//! - Secrets come in bodies and headers, which no log has, and go out once, in the answer to their making.

mod attempts;
mod bootstrap;
mod credentials;
mod dev;
mod directory;
mod documents;
pub(crate) mod keystone;
mod login;
mod own;
mod routes;
mod totp;

#[cfg(test)]
mod security;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), expect(dead_code, reason = "the fuzz target uses a part of what the tests do"))]
pub(crate) mod world;

pub(crate) use attempts::network;
pub(crate) use bootstrap::{bootstrap, is_bootstrapped};
pub(crate) use keystone::Keystone;
pub(crate) use own::Own;

use std::net::{IpAddr, Ipv4Addr};

use axum::Router;

use crate::{
    catalog::Catalog,
    domain::Role,
    fault::{Answer, Fault, FaultKind},
};

/// Who asks, by a token, for a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) user: String,
    pub(crate) project: String,
    pub(crate) role: Role,
}

/// The address that a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Where a request came from. Without a network, nowhere.
fn address(peer: Option<Peer>) -> IpAddr {
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0)
}

fn unauthorized() -> Fault {
    Fault::new(
        FaultKind::Unauthorized,
        "The request you have made requires authentication: send a token as X-Auth-Token.",
    )
}

/// The identity service. Clones are the same one.
#[derive(Clone)]
pub(crate) enum Identity {
    /// Nobody has to prove anything.
    Dev(dev::Dev),
    /// People in the catalog.
    Own(Own),
    /// People of a Keystone elsewhere.
    Keystone(Keystone),
}

impl Identity {
    /// Without logins. `url` is how clients reach this server.
    pub(crate) fn dev(url: String) -> Self {
        Self::Dev(dev::Dev::new(url))
    }

    /// With the people of a catalog.
    pub(crate) fn own(url: String, catalog: Catalog) -> Answer<Self> {
        Own::new(url, catalog).map(Self::Own)
    }

    /// Whether projects are those of the catalog: then there are no others.
    pub(crate) fn lists_projects(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// Who has a token. `project` is the one of the path, if it has one; `peer`, where the request came from.
    ///
    /// # Errors
    /// `Unauthorized`; `Unavailable` when that cannot be found out; `TooMany` when too much is to be found out for that address.
    pub(crate) async fn resolve(
        &self,
        token: Option<&str>,
        project: Option<&str>,
        peer: Option<Peer>,
    ) -> Answer<Session> {
        match self {
            Self::Dev(dev) => dev.resolve(token, project),
            Self::Own(own) => own.session(token),
            Self::Keystone(keystone) => keystone.session(token, address(peer)).await,
        }
    }
}

/// `/identity`: nothing, when people are elsewhere.
pub(crate) fn router(identity: Identity) -> Router {
    match identity {
        Identity::Dev(dev) => dev::router(dev),
        Identity::Own(own) => routes::router(own),
        Identity::Keystone(_) => Router::new(),
    }
}
