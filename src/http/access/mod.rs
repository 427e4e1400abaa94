//! Access control: which requests may read and publish.
//!
//! [`ReadAccess`] and [`PublishAccess`] are computed once from the request's token, and
//! [`Locality`] once from the connection and the headers. Every route checks one of them.

mod challenge;
mod credentials;
mod local;
mod permissions;

pub(super) use self::credentials::{Api, COOKIE};
pub(super) use self::local::Locality;
pub(super) use self::permissions::{PublishAccess, ReadAccess};
