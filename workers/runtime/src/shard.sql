-- The runtime's tables in every shard, beside the service's own.

-- Who owns the shard, and how far it is. Its single row is the fence: every batch and every step of the mover locks it
-- first, so that two workers never both write.
CREATE TABLE IF NOT EXISTS shard (
    singleton     boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    service_id    text   NOT NULL,
    partition     int    NOT NULL,
    owner         text   NOT NULL DEFAULT '',
    batch         bigint NOT NULL DEFAULT 0,
    relayed_batch bigint NOT NULL DEFAULT 0,
    slots_version bigint NOT NULL DEFAULT 1
);
-- How often a worker took over. Two that fight for one shard make it rise without end.
ALTER TABLE shard ADD COLUMN IF NOT EXISTS take_overs bigint NOT NULL DEFAULT 0;
-- A digest of these very statements and the service's: what is there already need not be locked to be left as it is.
ALTER TABLE shard ADD COLUMN IF NOT EXISTS schema_digest text;

-- Where each slot stands; the truth about ownership and offsets.
CREATE TABLE IF NOT EXISTS slot (
    slot           int    PRIMARY KEY,
    state          text   NOT NULL CHECK (state IN ('incoming', 'active', 'leaving', 'fenced', 'moved')),
    epoch          bigint NOT NULL DEFAULT 1,
    attempt        text,
    next_offset    bigint NOT NULL,
    topic_id       text,
    last_timestamp bigint,
    last_digest    bigint,
    moved_to       int
);
-- Until when a fence may last; after that the shard's own worker undoes it, so that a lost mover holds nothing up.
ALTER TABLE slot ADD COLUMN IF NOT EXISTS fence_until timestamptz;
-- When the slot came from another shard: its rows of that time have batch 0, and are as old as this at least.
ALTER TABLE slot ADD COLUMN IF NOT EXISTS came_at timestamptz;

-- When the shard had come how far: by this, outcomes are removed that are older than the service keeps them.
CREATE TABLE IF NOT EXISTS batch_age (
    batch    bigint PRIMARY KEY,
    noted_at timestamptz NOT NULL DEFAULT now()
);

-- Records that could not be taken, as they were, and why.
CREATE TABLE IF NOT EXISTS dead_letter (
    slot             int    NOT NULL,
    batch            bigint NOT NULL,
    record_offset    bigint NOT NULL,
    record_timestamp bigint NOT NULL,
    kind             text   NOT NULL,
    reason           text   NOT NULL,
    key              bytea,
    value            bytea,
    PRIMARY KEY (slot, record_offset)
);
CREATE INDEX IF NOT EXISTS dead_letter_batch ON dead_letter USING brin (batch) WITH (pages_per_range = 16, autosummarize = on);
