//! WalletPartition: transfers between accounts on different shards, exactly once; money is conserved.
//!
//! A transfer goes from [`gateway`] to [`paymentd`], which instructs the account that pays. That account's slot debits or rejects and
//! sends the money on; the receiver's slot credits it or sends it back. What a slot decides is in [`ledger`], and whether any
//! money came or went, in [`audit`].

pub mod audit;
pub mod books;
pub mod fold;
pub mod gateway;
pub mod ledger;
pub mod messages;
pub mod money;
pub mod paymentd;
pub mod reads;
pub mod reason;
pub mod service;
pub mod stored;
pub mod tables;
pub mod wire;
