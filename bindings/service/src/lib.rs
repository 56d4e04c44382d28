//! The control interface of a pool: one set of HTTP routes, used by everyone.
//!
//! - [`router`] builds the routes under `/v1` over an open [`cairn_engine::Pool`] ([`State`]).
//! - [`control`] serves them on the control socket beside the pool, for as long as a server holds it.
//! - [`Client`] calls them: over that socket, or, in a process that opened the pool itself, in place and without a network.
//! - [`api`] holds what travels: requests, answers, errors.
//!
//! Invariant: a command does the same through either way, because there is only one implementation, the routes.
//!
//! ```
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use cairn_engine::{OpenOptions, Pool};
//! use cairn_service::{Client, State};
//!
//! let pool = Pool::open("/var/lib/cairn/main.pool", OpenOptions::new()).await?;
//! let client = Client::in_process(State::new(pool.clone()));
//! for volume in client.volumes(false).await? {
//!     println!("{} {}", volume.name, volume.size);
//! }
//! pool.close().await?;
//! # Ok(())
//! # }
//! ```

pub mod api;
pub mod backup;
mod beside;
mod block;
mod catalog;
mod client;
pub mod control;
pub mod daemon;
mod domain;
mod error;
mod extract;
mod fault;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod identity;
mod image;
mod listeners;
mod locks;
mod native;
mod priority;
pub mod qos;
mod rest;
mod routes;
mod secrets;
mod shares;
mod state;
mod turns;
pub mod vhost_user;

pub use block::{Hook, STEPS, Settings};
pub use client::Client;
pub use error::Failure;
pub use listeners::NbdListener;
pub use routes::router;
pub use state::State;

/// Result of a call of the control interface.
pub type Result<T, E = Failure> = std::result::Result<T, E>;
