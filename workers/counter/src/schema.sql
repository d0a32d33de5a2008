-- Counters. No index but the key's: one on value or batch would have to be changed with every flush, and so would be as much
-- work as the counters themselves. The room in each page lets a raised row stay in its page, where no index must follow it.
CREATE TABLE IF NOT EXISTS counter (
    slot  int    NOT NULL,
    batch bigint NOT NULL,
    key   uuid   PRIMARY KEY,
    value bigint NOT NULL
) WITH (fillfactor = 60);

-- Increments with an Idempotency-Key that have counted: a retry of one adds nothing.
CREATE TABLE IF NOT EXISTS used (
    slot     int    NOT NULL,
    batch    bigint NOT NULL,
    key      uuid   NOT NULL,
    id       text   COLLATE "C" NOT NULL,
    -- The time of the record that counted, in milliseconds since 1970.
    first_at bigint NOT NULL,
    PRIMARY KEY (key, id)
);
CREATE INDEX IF NOT EXISTS used_batch ON used USING brin (batch) WITH (pages_per_range = 16, autosummarize = on);
