//! SignupShard: usernames unique across shards. A request claims a name; the first in the log of the name's slot has it.

pub mod fold;
pub mod gateway;
pub mod reads;
pub mod service;
pub mod tables;
pub mod username;
pub mod wire;
