//! Decides which requests may read and publish.
//!
//! For each request, [`ReadAccess`] and [`PublishAccess`] are computed once from its token, and
//! [`Locality`] is computed once from the connection and the headers. Every route checks one of
//! these three.

mod challenge;
mod credentials;
mod local;
mod permissions;

pub(super) use self::credentials::{Api, COOKIE};
pub(super) use self::local::Locality;
pub(super) use self::permissions::{PublishAccess, ReadAccess};
