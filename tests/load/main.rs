//! Many clients, misbehaving clients, and times that a busy machine would change.

mod attack;
#[path = "../common/mod.rs"]
mod common;
mod disconnects;
mod llm;
mod many_clients;
mod rude_clients;
mod standing;
mod storm;
