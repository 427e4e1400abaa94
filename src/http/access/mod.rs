//! Who may do what.
//!
//! What a request may do is found once, by the token it brings: [`ReadAccess`] and
//! [`PublishAccess`] are the two roles, and every route asks one of them. Where it comes from is
//! found once as well: [`Locality`].

mod challenge;
mod credentials;
mod local;
mod permissions;

pub(super) use self::credentials::{Api, COOKIE};
pub(super) use self::local::Locality;
pub(super) use self::permissions::{PublishAccess, ReadAccess};
