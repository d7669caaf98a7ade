//! The tests start the real app and use it over HTTP. All of them are one crate, so that only one
//! program has to be linked.

#![allow(clippy::unwrap_used, clippy::panic)]

mod harness;
mod platform;

mod browser;
mod cookies;
mod demo_tenant;
mod documentation;
mod hostile_input;
mod id_token;
mod network;
mod outages;
mod pages;
mod redis;
mod sessions;
mod settings;
mod sign_in;
