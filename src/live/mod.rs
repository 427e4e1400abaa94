//! The lab in a running server (`--lab`): routes for experiments, and hooks for its streams.
//!
//! The library does not know this module: the program attaches it to its server.

mod event_loop;
mod load_clients;
mod memory;
mod routes;
pub(crate) mod slow;
mod state;
pub(crate) mod threads;
mod watch;

use std::sync::Arc;

use threadcast::{Config, Server, StartError};

pub(crate) use self::state::Live;
use crate::http::hooks::Attachments;

impl Live {
    /// Attaches what the lab needs, besides its [routes](Self::routes).
    pub(crate) fn attach(self: &Arc<Self>, attached: &mut Attachments) {
        attached.hooks.push(Arc::<Self>::clone(self));
        attached.switchable_delivery = true;
    }

    /// Binds a server with this lab.
    pub(crate) fn bind(self: &Arc<Self>, config: Config) -> Result<Server, StartError> {
        let mut attached = Attachments::default();
        self.attach(&mut attached);
        Ok(Server::bind_with(config, attached)?.with_routes(self.routes(true)))
    }
}
