//! The statements of a blog's shard: one for each table and batch, never one for each record.

use std::collections::HashMap;

use shardlane_runtime::column::place;
use shardlane_runtime::service::BatchRange;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::fold::BlogPlan;
use crate::posts::{Before, Decision, Known, Outcome, Reason, Written, decide};
use crate::wire::{Post, Published, Text, What};

/// Statements that make the tables.
pub const DDL: &str = include_str!("schema.sql");
/// The tables.
pub const TABLES: [&str; 2] = ["post", "change"];
/// What [`published`] reads, in this order.
macro_rules! columns {
    () => {
        "slug, version, deleted, title, content, published_at, edited_at"
    };
}

/// Writes a batch. Gives what was written, and the posts that are to be told again as they are.
pub async fn apply(tx: &mut PgConnection, batch: i64, plan: &BlogPlan) -> sqlx::Result<(Vec<Written>, Vec<Published>)> {
    if plan.steps.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let before = Before { posts: known(tx, plan).await?, changes: changed(tx, plan).await? };
    let Decision { written, again, changes } = decide(plan, before);
    write(tx, batch, plan, &written).await?;
    let again = tell_again(tx, batch, plan, &again).await?;
    write_changes(tx, batch, plan, &changes).await?;
    Ok((written, again))
}

async fn known(tx: &mut PgConnection, plan: &BlogPlan) -> sqlx::Result<Vec<Option<Known>>> {
    let rows = sqlx::query(
        r#"SELECT k.place, p.version, p.request_id, p.published_at, p.deleted
           FROM UNNEST($1::text[]) WITH ORDINALITY AS k(slug, place) JOIN post p ON p.slug = k.slug COLLATE "C""#,
    )
    .bind(&plan.slugs)
    .fetch_all(tx)
    .await?;
    let mut posts = vec![None; plan.posts.len()];
    for row in &rows {
        let (version, request_id, published_at, deleted) = (row.get(1), row.get(2), row.get(3), row.get(4));
        posts[place(row)] = Some(Known { version, request_id, published_at, deleted });
    }
    Ok(posts)
}

async fn changed(tx: &mut PgConnection, plan: &BlogPlan) -> sqlx::Result<HashMap<usize, Outcome>> {
    if plan.changes.is_empty() {
        return Ok(HashMap::new());
    }
    let steps = || plan.changes.iter().map(|at| &plan.steps[*at]);
    let rows = sqlx::query(
        r#"SELECT k.place, c.version, c.refused FROM UNNEST($1::text[], $2::text[]) WITH ORDINALITY AS k(slug, request_id, place)
           JOIN change c ON c.slug = k.slug COLLATE "C" AND c.request_id = k.request_id COLLATE "C""#,
    )
    .bind(steps().map(|step| &*plan.posts[step.post].slug).collect::<Vec<_>>())
    .bind(steps().map(|step| &*step.request_id).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    let known =
        |row: &PgRow| Ok((plan.changes[place(row)], Outcome { version: row.get(1), refused: reason(row.get(2))? }));
    rows.iter().map(known).collect()
}

/// Reads why a change was refused.
pub fn reason(text: Option<&str>) -> sqlx::Result<Option<Reason>> {
    let Some(text) = text else { return Ok(None) };
    let found = Reason::ALL.into_iter().find(|reason| reason.as_str() == text);
    // Whatever it is, none of us has written it.
    found
        .map(Some)
        .ok_or_else(|| sqlx::Error::Decode(format!("the shard holds {text:?}, which is not expected there").into()))
}

async fn write(tx: &mut PgConnection, batch: i64, plan: &BlogPlan, written: &[Written]) -> sqlx::Result<()> {
    if written.is_empty() {
        return Ok(());
    }
    let nothing = Text::default();
    let text = |post: &Written| match post.text.map(|at| &plan.steps[at].what) {
        Some(What::Publish(text) | What::Edit { text, .. }) => text,
        _ => &nothing,
    };
    let texts: Vec<&Text> = written.iter().map(text).collect();
    sqlx::query(
        "INSERT INTO post (slot, batch, version, published_at, edited_at, deleted, slug, request_id, title, content)
         SELECT slot, $1, version, published_at, edited_at, deleted, slug, request_id, title, content
         FROM UNNEST($2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[], $7::text[], $8::text[], $9::text[],
                     $10::text[])
              AS p(slot, version, published_at, edited_at, deleted, slug, request_id, title, content)
         ON CONFLICT (slug) DO UPDATE
         SET batch = EXCLUDED.batch, version = EXCLUDED.version, edited_at = EXCLUDED.edited_at, deleted = EXCLUDED.deleted,
             title = EXCLUDED.title, content = EXCLUDED.content",
    )
    .bind(batch)
    .bind(written.iter().map(|post| plan.posts[post.post].slot.cast_signed()).collect::<Vec<_>>())
    .bind(written.iter().map(|post| post.version).collect::<Vec<_>>())
    .bind(written.iter().map(|post| post.published_at).collect::<Vec<_>>())
    .bind(written.iter().map(|post| post.edited_at).collect::<Vec<_>>())
    .bind(written.iter().map(|post| post.text.is_none()).collect::<Vec<_>>())
    .bind(written.iter().map(|post| &*plan.posts[post.post].slug).collect::<Vec<_>>())
    .bind(written.iter().map(|post| &*post.request_id).collect::<Vec<_>>())
    .bind(texts.iter().map(|text| &*text.title).collect::<Vec<_>>())
    .bind(texts.iter().map(|text| &*text.content).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// Has posts published once more, as they are.
async fn tell_again(
    tx: &mut PgConnection,
    batch: i64,
    plan: &BlogPlan,
    again: &[usize],
) -> sqlx::Result<Vec<Published>> {
    if again.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(concat!("UPDATE post SET batch = $1 WHERE slug = ANY($2) RETURNING ", columns!()))
        .bind(batch)
        .bind(again.iter().map(|post| &*plan.posts[*post].slug).collect::<Vec<_>>())
        .fetch_all(tx)
        .await?;
    Ok(rows.iter().map(published).collect())
}

/// Notes what became of changes; one that is known already is only kept for longer.
async fn write_changes(
    tx: &mut PgConnection,
    batch: i64,
    plan: &BlogPlan,
    changes: &[(usize, Outcome)],
) -> sqlx::Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let steps = || changes.iter().map(|(at, _)| &plan.steps[*at]);
    let posts = || steps().map(|step| &plan.posts[step.post]);
    sqlx::query(
        "INSERT INTO change (slot, batch, record_offset, version, asked, refused, slug, request_id)
         SELECT slot, $1, record_offset, version, asked, refused, slug, request_id
         FROM UNNEST($2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::text[])
              AS c(slot, record_offset, version, asked, refused, slug, request_id)
         ON CONFLICT (slug, request_id) DO UPDATE SET batch = EXCLUDED.batch",
    )
    .bind(batch)
    .bind(posts().map(|post| post.slot.cast_signed()).collect::<Vec<_>>())
    .bind(steps().map(|step| step.offset).collect::<Vec<_>>())
    .bind(changes.iter().map(|(_, outcome)| outcome.version).collect::<Vec<_>>())
    .bind(steps().map(|step| step.digest).collect::<Vec<_>>())
    .bind(changes.iter().map(|(_, outcome)| outcome.refused.map(Reason::as_str)).collect::<Vec<_>>())
    .bind(posts().map(|post| &*post.slug).collect::<Vec<_>>())
    .bind(steps().map(|step| &*step.request_id).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// A post, as a row has it.
pub fn published(row: &PgRow) -> Published {
    let deleted: bool = row.get(2);
    let post = || Post {
        text: Text { title: row.get(3), content: row.get(4) },
        published_at: row.get(5),
        edited_at: row.get(6),
    };
    Published { slug: row.get(0), version: row.get(1), post: (!deleted).then(post), deleted }
}

/// The posts of some batches, as they are now, in order.
pub async fn outcomes(shard: &mut PgConnection, range: BatchRange) -> sqlx::Result<Vec<Published>> {
    let statement =
        concat!("SELECT ", columns!(), " FROM post WHERE batch > $1 AND batch <= $2 ORDER BY batch, slot, slug");
    let rows = sqlx::query(statement).bind(range.after).bind(range.to).fetch_all(shard).await?;
    Ok(rows.iter().map(published).collect())
}
