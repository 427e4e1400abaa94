//! Fuzzes what durable streams receive: see the check.

pub(super) use crate::durable::check;
