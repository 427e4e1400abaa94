//! The demo page and the live view.

mod break_it;
mod everybody;
mod live;
mod origins;
mod panels;
