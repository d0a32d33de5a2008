//! The statements of a wallet's shard: one for each table and batch, never one for each payment.

use std::collections::HashMap;

use shardlane_runtime::column::{Column, place};
use shardlane_runtime::shard;
use shardlane_runtime::trust::Trust;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::books;
use crate::fold::WalletPlan;
use crate::ledger::{Account, Before, Changed, Content, Decision, Entry, Rules, decide};
use crate::stored::{parsed, read_change, write_change};
use crate::wire::{Change, Instruction};

/// Statements that make the tables.
pub const DDL: &str = include_str!("schema.sql");
/// The tables.
pub const TABLES: [&str; 7] = ["account", "entry", "change", "conflict", "totals", "book", "cut"];

/// Writes a batch. Gives what was decided.
pub async fn apply(
    tx: &mut PgConnection,
    batch: i64,
    plan: &WalletPlan,
    rules: &Rules,
    trust: &Trust,
) -> sqlx::Result<Decision> {
    if plan.steps.is_empty() {
        return Ok(Decision::default());
    }
    let decision = match trust.holds() {
        true => insert_unasked(tx, batch, plan, rules).await?,
        false => None,
    };
    let decision = match decision {
        Some(decision) => decision,
        None => insert_asked(tx, batch, plan, rules, trust).await?,
    };
    write_rest(tx, batch, plan, &decision).await?;
    Ok(decision)
}

/// Decides as if no payment were known. `None`: one is, and nothing was written.
async fn insert_unasked(
    tx: &mut PgConnection,
    batch: i64,
    plan: &WalletPlan,
    rules: &Rules,
) -> sqlx::Result<Option<Decision>> {
    let decision = decide(rules, plan, before(tx, plan).await?);
    match insert_entries(tx, batch, plan, &decision).await {
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => shard::start_over(tx).await.map(|()| None),
        inserted => inserted.map(|()| Some(decision)),
    }
}

/// Asks first which payments are known.
async fn insert_asked(
    tx: &mut PgConnection,
    batch: i64,
    plan: &WalletPlan,
    rules: &Rules,
    trust: &Trust,
) -> sqlx::Result<Decision> {
    let before = Before { decided: decided(tx, plan).await?, ..before(tx, plan).await? };
    if before.decided.is_empty() {
        trust.kept();
    } else {
        trust.broken();
    }
    let decision = decide(rules, plan, before);
    insert_entries(tx, batch, plan, &decision).await?;
    Ok(decision)
}

/// What the shard holds, but for the payments that it knows.
async fn before(tx: &mut PgConnection, plan: &WalletPlan) -> sqlx::Result<Before> {
    Ok(Before {
        accounts: accounts(tx, plan).await?,
        books: books::read(tx, &plan.slots).await?,
        changed: changed(tx, plan).await?,
        ..Before::default()
    })
}

async fn write_rest(tx: &mut PgConnection, batch: i64, plan: &WalletPlan, decision: &Decision) -> sqlx::Result<()> {
    update_accounts(tx, batch, plan, decision).await?;
    open_accounts(tx, batch, plan, decision).await?;
    insert_changes(tx, batch, plan, &decision.changes).await?;
    insert_conflicts(tx, batch, plan, &decision.conflicts).await?;
    books::write(tx, batch, decision).await
}

async fn accounts(tx: &mut PgConnection, plan: &WalletPlan) -> sqlx::Result<Vec<Option<Account>>> {
    let mut accounts = vec![None; plan.accounts.len()];
    if accounts.is_empty() {
        return Ok(accounts);
    }
    let rows = sqlx::query(
        r#"SELECT k.place, a.currency, a.balance, a.lowest, a.closed, a.last_entry
           FROM UNNEST($1::text[]) WITH ORDINALITY AS k(id, place) JOIN account a ON a.id = k.id COLLATE "C""#,
    )
    .bind(&plan.account_ids)
    .fetch_all(tx)
    .await?;
    for row in &rows {
        accounts[place(row)] = Some(Account {
            currency: parsed(row.get(1))?,
            balance: row.get(2),
            limit: row.get(3),
            closed: row.get(4),
            last: row.get(5),
        });
    }
    Ok(accounts)
}

/// Which of the batch's payments the shard knows already.
async fn decided(tx: &mut PgConnection, plan: &WalletPlan) -> sqlx::Result<HashMap<usize, Content>> {
    let rows = sqlx::query(
        r#"WITH k AS (
               SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[], $4::int[], $5::bigint[]) WITH ORDINALITY
                   AS k(request_id, sender, leg, debit_slot, debit_number, place)
           )
           SELECT k.place, e.receiver, e.amount, e.currency
           FROM k JOIN entry e ON e.request_id = k.request_id COLLATE "C" AND e.sender = k.sender COLLATE "C"
                               AND e.leg = k.leg COLLATE "C"
           WHERE k.debit_number IS NULL AND e.debit_number IS NULL
           UNION ALL
           SELECT k.place, e.receiver, e.amount, e.currency
           FROM k JOIN entry e ON e.debit_slot = k.debit_slot AND e.debit_number = k.debit_number
                               AND e.leg = k.leg COLLATE "C"
           WHERE e.debit_number IS NOT NULL"#,
    )
    .bind(&plan.columns.request_ids)
    .bind(&plan.columns.senders)
    .bind(&plan.columns.legs)
    .bind(&plan.columns.debit_slots)
    .bind(&plan.columns.debit_numbers)
    .fetch_all(tx)
    .await?;
    let content = |row: &PgRow| -> sqlx::Result<_> {
        let content = Content { receiver: row.get(1), amount: row.get(2), currency: parsed(row.get(3))? };
        Ok((plan.payments[place(row)], content))
    };
    rows.iter().map(content).collect()
}

/// The changes of a batch, once each, as places in the plan, with accounts and requests.
fn changes(plan: &WalletPlan) -> Vec<(usize, &str, &str)> {
    let mut changes = Vec::new();
    for (at, step) in plan.steps.iter().enumerate().filter(|(at, step)| step.first == *at) {
        if let Instruction::Change { account, request_id, .. } = &step.instruction {
            changes.push((at, &**account, &**request_id));
        }
    }
    changes
}

async fn changed(tx: &mut PgConnection, plan: &WalletPlan) -> sqlx::Result<HashMap<usize, Change>> {
    let changes = changes(plan);
    if changes.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(
        r#"SELECT k.place, c.change FROM UNNEST($1::text[], $2::text[]) WITH ORDINALITY AS k(account, request_id, place)
           JOIN change c ON c.account = k.account COLLATE "C" AND c.request_id = k.request_id COLLATE "C""#,
    )
    .bind(changes.iter().map(|(_, account, _)| *account).collect::<Vec<_>>())
    .bind(changes.iter().map(|(_, _, request_id)| *request_id).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    let known = |row: &PgRow| Ok((changes[place(row)].0, read_change(row.get(1))?));
    rows.iter().map(known).collect()
}

async fn insert_entries(tx: &mut PgConnection, batch: i64, plan: &WalletPlan, decision: &Decision) -> sqlx::Result<()> {
    if decision.entries.is_empty() {
        return Ok(());
    }
    let mut decided: Vec<Option<&Entry>> = vec![None; plan.steps.len()];
    for entry in &decision.entries {
        decided[entry.step] = Some(entry);
    }
    let keep: Vec<bool> = plan.payments.iter().map(|at| decided[*at].is_some()).collect();
    let entries: Vec<&Entry> = plan.payments.iter().filter_map(|at| decided[*at]).collect();
    let picked;
    let columns = if entries.len() == plan.payments.len() {
        &plan.columns
    } else {
        picked = plan.columns.pick(&keep);
        &picked
    };
    let column = |value: fn(&Entry) -> Option<i64>| Column::of(entries.iter().map(|entry| value(entry)).collect());
    sqlx::query(
        "INSERT INTO entry (slot, batch, number, record_offset, recorded_at, amount, balance, previous, epoch, debit_number,
                            debit_slot, leg, currency, sender, receiver, request_id, reason)
         SELECT slot, $1, number, record_offset, recorded_at, amount, balance, previous, epoch, debit_number, debit_slot, leg,
                currency, sender, receiver, request_id, reason
         FROM UNNEST($2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[],
                     $10::int[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::text[],
                     $17::text[])
              AS e(slot, record_offset, recorded_at, amount, leg, sender, receiver, request_id, debit_slot, debit_number,
                   number, balance, previous, epoch, currency, reason)",
    )
    .bind(batch)
    .bind(&columns.slots)
    .bind(&columns.offsets)
    .bind(&columns.timestamps)
    .bind(&columns.amounts)
    .bind(&columns.legs)
    .bind(&columns.senders)
    .bind(&columns.receivers)
    .bind(&columns.request_ids)
    .bind(&columns.debit_slots)
    .bind(&columns.debit_numbers)
    .bind(entries.iter().map(|entry| entry.number).collect::<Vec<_>>())
    .bind(column(|entry| entry.balance))
    .bind(column(|entry| entry.previous))
    .bind(entries.iter().map(|entry| entry.epoch).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.currency.as_str()).collect::<Vec<_>>())
    .bind(entries.iter().map(|entry| entry.reason.map(|reason| reason.as_str())).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

async fn update_accounts(
    tx: &mut PgConnection,
    batch: i64,
    plan: &WalletPlan,
    decision: &Decision,
) -> sqlx::Result<()> {
    let known: Vec<_> = decision.accounts.iter().filter(|(_, _, new)| !new).collect();
    if known.is_empty() {
        return Ok(());
    }
    sqlx::query(
        r#"UPDATE account SET batch = $1, balance = k.balance, lowest = k.lowest, last_entry = k.last_entry, closed = k.closed
           FROM UNNEST($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[])
                AS k(id, balance, lowest, last_entry, closed)
           WHERE account.id = k.id COLLATE "C""#,
    )
    .bind(batch)
    .bind(known.iter().map(|(at, _, _)| &*plan.accounts[*at].id).collect::<Vec<_>>())
    .bind(known.iter().map(|(_, account, _)| account.balance).collect::<Vec<_>>())
    .bind(known.iter().map(|(_, account, _)| account.limit).collect::<Vec<_>>())
    .bind(known.iter().map(|(_, account, _)| account.last).collect::<Vec<_>>())
    .bind(known.iter().map(|(_, account, _)| account.closed).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

async fn open_accounts(tx: &mut PgConnection, batch: i64, plan: &WalletPlan, decision: &Decision) -> sqlx::Result<()> {
    let new: Vec<_> = decision.accounts.iter().filter(|(_, _, new)| *new).collect();
    if new.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO account (slot, batch, id, currency, balance, lowest, last_entry, closed)
         SELECT slot, $1, id, currency, balance, lowest, last_entry, closed
         FROM UNNEST($2::int[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::boolean[])
              AS k(slot, id, currency, balance, lowest, last_entry, closed)",
    )
    .bind(batch)
    .bind(new.iter().map(|(at, _, _)| plan.accounts[*at].slot.cast_signed()).collect::<Vec<_>>())
    .bind(new.iter().map(|(at, _, _)| &*plan.accounts[*at].id).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, account, _)| account.currency.as_str()).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, account, _)| account.balance).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, account, _)| account.limit).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, account, _)| account.last).collect::<Vec<_>>())
    .bind(new.iter().map(|(_, account, _)| account.closed).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

async fn insert_changes(tx: &mut PgConnection, batch: i64, plan: &WalletPlan, changes: &[Changed]) -> sqlx::Result<()> {
    let mut rows = Vec::with_capacity(changes.len());
    for Changed { step, refused } in changes {
        let step = &plan.steps[*step];
        if let Instruction::Change { account, request_id, change } = &step.instruction {
            let change = write_change(change)?;
            rows.push((step, &**account, &**request_id, change, refused.map(|reason| reason.as_str())));
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO change (slot, batch, record_offset, account, request_id, change, refused)
         SELECT slot, $1, record_offset, account, request_id, change, refused
         FROM UNNEST($2::int[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[])
              AS c(slot, record_offset, account, request_id, change, refused)",
    )
    .bind(batch)
    .bind(rows.iter().map(|(step, ..)| step.slot.cast_signed()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(step, ..)| step.offset).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, account, ..)| *account).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, _, request_id, ..)| *request_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, _, _, change, _)| &**change).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, _, _, _, refused)| *refused).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

async fn insert_conflicts(
    tx: &mut PgConnection,
    batch: i64,
    plan: &WalletPlan,
    conflicts: &[usize],
) -> sqlx::Result<()> {
    let identity = |at: &usize| {
        let step = &plan.steps[*at];
        match &step.instruction {
            Instruction::Pay(pay) => Some((step, pay.leg.as_str(), &*pay.sender, &*pay.request_id)),
            Instruction::Change { account, request_id, .. } => Some((step, "change", &**account, &**request_id)),
            Instruction::Mark { .. } => None,
        }
    };
    let rows: Vec<_> = conflicts.iter().filter_map(identity).collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO conflict (slot, batch, record_offset, what, account, request_id)
         SELECT slot, $1, record_offset, what, account, request_id
         FROM UNNEST($2::int[], $3::bigint[], $4::text[], $5::text[], $6::text[])
              AS c(slot, record_offset, what, account, request_id)",
    )
    .bind(batch)
    .bind(rows.iter().map(|(step, ..)| step.slot.cast_signed()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(step, ..)| step.offset).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, what, ..)| *what).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, _, account, _)| *account).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, _, _, request_id)| *request_id).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}
