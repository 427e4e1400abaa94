//! Decides which requests may read and publish.
//!
//! For each request, [`ReadAccess`] and [`PublishAccess`] are computed once from its token, and
//! [`local::Locality`] is computed once from the connection and the headers. Every route checks one of
//! these three.

pub(crate) mod credentials;
pub(super) mod local;
mod permissions;

pub(super) use self::credentials::{Api, COOKIE, SESSION};
pub(super) use self::permissions::{PublishAccess, ReadAccess, count_published, publisher};
