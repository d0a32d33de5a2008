//! `audit`: whether money is conserved, as the wallet's gateway proves it.

use std::process::ExitCode;

use serde::Deserialize;

use crate::access::{Access, Failure};
use crate::gateway::Gateway;
use crate::table::{Mood, colours, columns, paint};

/// The last audit, and the one that is on its way.
#[derive(Debug, Deserialize)]
struct Audit {
    holds: bool,
    /// The last that closed.
    audit: Option<u64>,
    age_seconds: Option<f64>,
    open: Option<Open>,
    #[serde(default)]
    currencies: Vec<Currency>,
    #[serde(default)]
    problems: Vec<String>,
}

/// An audit that has not closed.
#[derive(Debug, Deserialize)]
struct Open {
    audit: u64,
    waiting_for: Option<String>,
}

/// The money of one currency.
#[derive(Debug, Deserialize)]
struct Currency {
    currency: String,
    deposited: String,
    balances: String,
    in_transit: String,
    holds: bool,
}

/// Shows it. The exit code says whether it holds.
pub async fn show(access: &Access, name: &str, as_json: bool) -> Result<ExitCode, Failure> {
    let gateway = Gateway::of(access, name, "WalletPartition").await?;
    let answer = gateway.ask("/api/v1/audit", None).await?;
    let failure = |problem| Failure::Gateway { name: name.to_owned(), problem };
    if answer.code != 200 {
        return Err(failure(answer.problem()));
    }
    let audit: Audit = serde_json::from_str(&answer.text).map_err(|e| failure(format!("what is no audit: {e}")))?;
    if as_json {
        println!("{}", answer.text.trim_end());
    } else {
        print!("{}", text(name, &audit, colours()));
    }
    Ok(if state(&audit).1 == Mood::Good { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn state(audit: &Audit) -> (&'static str, Mood) {
    match (audit.audit, audit.holds) {
        (Some(_), true) => ("it holds", Mood::Good),
        // Before the first has closed nothing is proved, but for what is wrong already.
        (None, _) if audit.problems.is_empty() => ("no audit has closed yet", Mood::Busy),
        _ => ("IT DOES NOT HOLD", Mood::Bad),
    }
}

/// An audit, for a person.
fn text(name: &str, audit: &Audit, colours: bool) -> String {
    let (said, mood) = state(audit);
    let mut text = format!("WalletPartition {name}: {}", paint(said, mood, colours));
    if let Some(number) = audit.audit {
        text += &format!(", audit {number}");
    }
    if let Some(age) = audit.age_seconds {
        text += &format!(" of {age:.1} s ago");
    }
    text.push('\n');
    if let Some(Open { audit, waiting_for }) = &audit.open {
        let waiting = waiting_for.as_ref().map(|what| format!(" and waits for {what}")).unwrap_or_default();
        text += &format!("  audit {audit} is open{waiting}\n");
    }
    if !audit.currencies.is_empty() {
        let heads = ["CURRENCY", "DEPOSITED", "BALANCES", "IN TRANSIT", "HOLDS"];
        let mut rows = vec![heads.map(|head| (head.to_owned(), Mood::Plain)).to_vec()];
        rows.extend(audit.currencies.iter().map(row));
        text += &columns(&rows, "  ", colours);
    }
    for problem in &audit.problems {
        text += &format!("  {}\n", paint(problem, Mood::Bad, colours));
    }
    text
}

fn row(of: &Currency) -> Vec<(String, Mood)> {
    let (holds, mood) = if of.holds { ("yes", Mood::Good) } else { ("NO", Mood::Bad) };
    let plain = |text: &str| (text.to_owned(), Mood::Plain);
    let amounts = [&of.currency, &of.deposited, &of.balances, &of.in_transit];
    amounts.into_iter().map(|text| plain(text)).chain([(holds.to_owned(), mood)]).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn audit(value: Value) -> Audit {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_audit_is_shown_with_its_sums() {
        let holds = audit(json!({
            "holds": true, "audit": 12, "age_seconds": 3.21, "open": { "audit": 13, "waiting_for": "slot 4" },
            "currencies": [{
                "currency": "EUR", "deposited": "100.00", "balances": "99.50", "in_transit": "0.50", "holds": true,
            }],
            "problems": [],
        }));
        let expected = "\
WalletPartition bank: it holds, audit 12 of 3.2 s ago
  audit 13 is open and waits for slot 4
  CURRENCY  DEPOSITED  BALANCES  IN TRANSIT  HOLDS
  EUR       100.00     99.50     0.50        yes
";
        assert_eq!(text("bank", &holds, false), expected);
        assert_eq!(state(&holds).1, Mood::Good);
    }

    #[test]
    fn what_is_wrong_is_shown_and_nothing_is_proved_before_the_first_has_closed() {
        let broken = audit(json!({
            "holds": false, "audit": 2, "age_seconds": 1.0, "open": null,
            "currencies": [{
                "currency": "EUR", "deposited": "1.00", "balances": "2.00", "in_transit": "0.00", "holds": false,
            }],
            "problems": ["EUR: 1.00 too much"],
        }));
        let shown = text("bank", &broken, false);
        assert!(shown.contains("DOES NOT HOLD") && shown.contains("NO") && shown.contains("1.00 too much"), "{shown}");
        let young = json!({ "holds": true, "audit": null, "age_seconds": null, "open": null });
        assert_eq!(state(&audit(young)).1, Mood::Busy);
    }
}
