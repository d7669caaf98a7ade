//! The five routes, one file each. Every file can be read, and copied, on
//! its own.

pub mod admin;
pub mod auth_redirect;
pub mod graph;
pub mod index;
pub mod logout;
