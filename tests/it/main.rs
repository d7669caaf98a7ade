//! The tests start the real app and use it over HTTP. All of them are one crate, so that only one
//! program has to be linked.

#![allow(clippy::unwrap_used, clippy::panic)]
#![cfg_attr(not(feature = "demo-tenant"), allow(dead_code))]

mod harness;
mod platform;

#[cfg(feature = "demo-tenant")]
mod browser;
mod cookies;
#[cfg(feature = "demo-tenant")]
mod demo_tenant;
mod documentation;
mod hostile_input;
mod id_token;
mod network;
mod outages;
mod pages;
#[cfg(feature = "demo-tenant")]
mod recipes;
mod redis;
mod sessions;
mod settings;
mod sign_in;
