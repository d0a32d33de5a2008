//! Transfers, from the request to the receiver's account, beside a loop that makes both entries of each at once.

use anyhow::Result;
use shardlane_e2e::plain::PlainService;
use shardlane_runtime::intake::Keyspace;

use crate::Measure;
use crate::backlog::Backlog;
use crate::bank::{self, ACCOUNTS, Bank};
use crate::bare::Loop;
use crate::fill::{Transfers, fill};
use crate::kind::Kind;
use crate::report::{Row, Target, grouped};
use crate::stage::{Given, Stage};

/// Most runs of each size: what is compared is how both sides fare as it grows.
const RUNS: usize = 2;

/// What all runs of a size share.
struct Size<'a> {
    stage: &'a Stage,
    /// Also the name of the database that is copied for each run.
    name: String,
    /// In whose topic the transfers lie.
    source: PlainService,
}

/// All runs, as rows of the report.
pub async fn measure(stage: &Stage) -> Result<Vec<Row>> {
    let usual = Size::prepare(stage, "transfers", Bank { accounts: ACCOUNTS, entries: 0 }).await?;
    let how = usual.backlog().fastest(&[2_000, 4_000, 8_000, 16_000]).await?;
    let mut rows = Vec::new();
    if stage.options.wants(Measure::Transfers) {
        let mut row = usual.row("Transfers, settled", how, stage.options.runs()).await?;
        row.target = Some(Target::Ratio(0.4));
        row.notes.push("0.70 is aimed at: a transfer passes Kafka twice more, and its slots keep books".to_owned());
        rows.push(row);
    }
    usual.done().await?;
    if stage.options.wants(Measure::TransferSizes) {
        let [few, many] = if stage.options.quick { [1_000, 10_000] } else { [1_000, 1_000_000] };
        let accounts = [few, many].map(|accounts| (grown("accounts", accounts), Bank { accounts, entries: 0 }));
        rows.extend(growth(stage, how, accounts).await?);
        let [few, many] = if stage.options.quick { [10_000, 100_000] } else { [100_000, 10_000_000] };
        let bank = |entries| Bank { accounts: ACCOUNTS, entries };
        let entries = [few, many].map(|entries| (grown("entries before", entries), bank(entries)));
        rows.extend(growth(stage, how, entries).await?);
    }
    Ok(rows)
}

fn grown(what: &str, number: u32) -> String {
    format!("{} {what}", grouped(number.into()))
}

/// The same measure at a small size and at a large one. What counts is that the ratio does not fall.
async fn growth(stage: &Stage, how: Loop, sizes: [(String, Bank); 2]) -> Result<[Row; 2]> {
    let ([small, large], runs) = (sizes, stage.options.runs().min(RUNS));
    let measured = async |(size, bank): (String, Bank)| {
        let name = format!("transfers-{}", size.replace(' ', "-").replace(',', ""));
        let prepared = Size::prepare(stage, &name, bank).await?;
        let row = prepared.row(&format!("Transfers, {size}"), how, runs).await?;
        prepared.done().await?;
        anyhow::Ok((size, row))
    };
    let (small, mut least) = measured(small).await?;
    let (large, mut most) = measured(large).await?;
    let told = |row: &Row| row.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    let note = format!(
        "what counts is that the ratio does not fall: {} with {small}, {} with {large}; the target is the slowest run \
         of ours beside the fastest one of bare with {small}; runs of each side: {runs}",
        told(&least),
        told(&most)
    );
    most.target = least.least_ratio().map(Target::Ratio);
    for row in [&mut least, &mut most] {
        row.notes.push(note.clone());
    }
    Ok([least, most])
}

impl<'a> Size<'a> {
    async fn prepare(stage: &'a Stage, name: &str, bank: Bank) -> Result<Self> {
        stage.progress.doing(&format!("filling a topic and a database for {name}"));
        let (kind, transfers) = (Kind::Wallet, stage.options.transfers);
        let source = stage.service(kind, &format!("{name}-source"), Given::default()).await?;
        fill(&source, kind, Transfers::new(3, bank.accounts), transfers).await?;
        bank.found(name, Keyspace::of(&source.config), transfers).await?;
        Ok(Self { stage, name: name.to_owned(), source })
    }

    fn backlog(&self) -> Backlog<'_> {
        Backlog {
            stage: self.stage,
            kind: Kind::Wallet,
            source: &self.source,
            database: Some(&self.name),
            records: self.stage.options.transfers,
            name: &self.name,
            bare: &["bare-transfers"],
        }
    }

    async fn row(&self, title: &str, how: Loop, runs: usize) -> Result<Row> {
        let sides = self.backlog().compare(title, how, runs).await?;
        Ok(sides.row(title.to_owned(), format!("loop of one transaction, {how}"), None))
    }

    /// Gives the disk back.
    async fn done(self) -> Result<()> {
        bank::dissolve(&self.name).await
    }
}
