//! What needs no app: the endpoints are as strict as Microsoft Entra ID, and the forms of the page
//! accept only what comes from the page.

#![allow(clippy::unwrap_used, clippy::panic)]

mod assertion;
mod authorize;
mod harness;
mod page;
mod token;
