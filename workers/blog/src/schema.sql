-- Posts as they are now, and what became of changes.

-- A post that was deleted keeps its row, without its text: its slug is never used again, and its version tells late messages from
-- new ones. Bytes decide which slugs are one, hence the collation. Posts are edited, so the rows of a batch lie anywhere, and the index
-- that finds them is a B-tree.
CREATE TABLE IF NOT EXISTS post (
    slot         int     NOT NULL,
    batch        bigint  NOT NULL,
    version      bigint  NOT NULL CHECK (version > 0),
    published_at bigint  NOT NULL,
    edited_at    bigint,
    deleted      boolean NOT NULL,
    slug         text    COLLATE "C" PRIMARY KEY,
    request_id   text    COLLATE "C" NOT NULL,
    title        text    NOT NULL,
    content      text    NOT NULL
);
CREATE INDEX IF NOT EXISTS post_batch ON post (batch);
-- The newest first, page by page.
CREATE INDEX IF NOT EXISTS post_newest ON post (published_at DESC, slug DESC) WHERE NOT deleted;

-- Edits and deletions, each decided once. `asked` is a digest of what was asked for: an id means what it was first used for.
CREATE TABLE IF NOT EXISTS change (
    slot          int    NOT NULL,
    batch         bigint NOT NULL,
    record_offset bigint NOT NULL,
    version       bigint NOT NULL,
    asked         bigint NOT NULL,
    refused       text,
    slug          text   COLLATE "C" NOT NULL,
    request_id    text   COLLATE "C" NOT NULL,
    PRIMARY KEY (slug, request_id)
);
CREATE INDEX IF NOT EXISTS change_batch ON change USING brin (batch) WITH (pages_per_range = 16, autosummarize = on);
