//! The demo page and the live view.

mod break_it;
mod durable;
mod everybody;
mod front;
mod live;
mod origins;
mod panels;
