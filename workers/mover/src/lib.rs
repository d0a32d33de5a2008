//! The mover: prepares a service before its first record (`init`) and moves slots between shards (`reshard`). It knows no service:
//! tables are told to it.

pub mod first;
pub mod init;
pub mod moves;
mod patience;
pub mod reshard;
pub mod retire;
pub mod shards;
pub mod topics;
pub mod verify;
