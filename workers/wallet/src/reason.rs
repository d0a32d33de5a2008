//! Why something was not done, for programs and for people.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why something was not done, or came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Sender and receiver are one.
    ToItself,
    /// There is no such account.
    NoAccount,
    /// The account is closed.
    Closed,
    /// The account has another currency.
    OtherCurrency,
    /// The account would fall under its limit.
    Limit,
    /// The receiver has no account, and none is opened by a credit.
    NoReceiver,
    /// The receiver's account is closed.
    ReceiverClosed,
    /// The receiver's account has another currency.
    ReceiverCurrency,
    /// The receiver's account cannot hold as much.
    ReceiverFull,
    /// The account cannot hold as much.
    Full,
    /// The account exists already.
    Exists,
    /// The account has a balance.
    NotEmpty,
    /// The limit is above the balance.
    LimitAboveBalance,
}

impl Reason {
    const ALL: [Self; 13] = [
        Self::ToItself,
        Self::NoAccount,
        Self::Closed,
        Self::OtherCurrency,
        Self::Limit,
        Self::NoReceiver,
        Self::ReceiverClosed,
        Self::ReceiverCurrency,
        Self::ReceiverFull,
        Self::Full,
        Self::Exists,
        Self::NotEmpty,
        Self::LimitAboveBalance,
    ];

    /// As it is in the shard and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ToItself => "to_itself",
            Self::NoAccount => "no_account",
            Self::Closed => "closed",
            Self::OtherCurrency => "other_currency",
            Self::Limit => "limit",
            Self::NoReceiver => "no_receiver",
            Self::ReceiverClosed => "receiver_closed",
            Self::ReceiverCurrency => "receiver_currency",
            Self::ReceiverFull => "receiver_full",
            Self::Full => "full",
            Self::Exists => "exists",
            Self::NotEmpty => "not_empty",
            Self::LimitAboveBalance => "limit_above_balance",
        }
    }

    /// For a person.
    pub fn text(self) -> &'static str {
        match self {
            Self::ToItself => "sender and receiver are one account",
            Self::NoAccount => "there is no such account",
            Self::Closed => "the account is closed",
            Self::OtherCurrency => "the account has another currency",
            Self::Limit => "the account would fall under its limit",
            Self::NoReceiver => "the receiver has no account",
            Self::ReceiverClosed => "the receiver's account is closed",
            Self::ReceiverCurrency => "the receiver's account has another currency",
            Self::ReceiverFull => "the receiver's account cannot hold as much",
            Self::Full => "the account cannot hold as much",
            Self::Exists => "the account exists already",
            Self::NotEmpty => "the account has a balance; only an account at zero can be closed",
            Self::LimitAboveBalance => "the limit is above the account's balance",
        }
    }
}

impl FromStr for Reason {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or_else(|| format!("{text:?} is no reason"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read_as_they_are_written() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
