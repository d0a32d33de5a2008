//! The mover: prepares a service before its first record (`init`). It knows no service: tables are told to it.

pub mod first;
pub mod init;
mod patience;
pub mod retire;
pub mod shards;
pub mod topics;
