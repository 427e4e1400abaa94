//! Who may do what.
//!
//! What a request may do is found once, by the token it brings: [`Reader`] and
//! [`Publisher`] are the two roles, and every route asks one of them. Where it comes from is
//! found once as well: [`Locality`].

mod challenge;
mod grant;
mod local;
mod presented;

pub(super) use self::grant::{Publisher, Reader};
pub(super) use self::local::Locality;
pub(super) use self::presented::{COOKIE, Door};
