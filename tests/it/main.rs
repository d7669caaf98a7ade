//! Black box tests: each starts the real binary and drives it over HTTP, as
//! a browser does. They are one crate, because every crate is linked on its
//! own.

#![allow(clippy::unwrap_used, clippy::panic)]

mod harness;
mod platform;

mod authorities;
mod browser;
mod demo_tenant;
mod input;
mod log_story;
mod markers;
mod msal;
mod paste;
mod readme;
mod redis;
mod refusals;
mod sessions;
mod settings;
mod token_cache;
mod trouble;
