//! `paymentd`: makes of each transfer an instruction for the account that pays. It keeps nothing; a transfer that goes through
//! it twice is one all the same, because the account's slot knows it.

use shardlane_runtime::record::Record;
use shardlane_runtime::service::{Accepted, Message, Rejection};
use shardlane_runtime::stateless::Step;

use crate::service::{PAYMENT, REQUEST};
use crate::wire::{outgoing, parse_request};

/// The loop's step.
#[derive(Clone, Copy, Debug)]
pub struct Paymentd;

impl Step for Paymentd {
    type Item = Message;
    const INPUT: &'static str = REQUEST;

    fn parse(&self, record: &Record<'_>) -> Result<Message, Rejection> {
        let (request, amount) = parse_request(record)?;
        let value = serde_json::to_vec(&outgoing(&request, amount))
            .map_err(|error| Rejection::new("malformed", error.to_string()))?;
        Ok(Message { role: PAYMENT, key: request.from.as_bytes().to_vec(), value })
    }

    async fn feed(&self, items: Vec<Accepted<Message>>) -> Result<Vec<Message>, String> {
        Ok(items.into_iter().map(|item| item.request).collect())
    }
}
