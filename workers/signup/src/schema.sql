-- Accounts and what became of requests. A request that makes an account keeps its outcome in the account's row;
-- only those that make none have a row of their own.

-- Bytes decide which names are one, and the order of ids: hence the collation. Ids rise with time, so rows lie in the
-- order of their batches and a small BRIN index finds a batch.
CREATE TABLE IF NOT EXISTS account (
    slot          int    NOT NULL,
    batch         bigint NOT NULL,
    record_offset bigint NOT NULL,
    username      text   COLLATE "C" PRIMARY KEY,
    id            char(27) COLLATE "C" NOT NULL,
    request_id    text   COLLATE "C" NOT NULL
);
CREATE INDEX IF NOT EXISTS account_batch ON account USING brin (batch) WITH (pages_per_range = 16, autosummarize = on);

-- Requests for a name that another request had won.
CREATE TABLE IF NOT EXISTS refusal (
    slot          int    NOT NULL,
    batch         bigint NOT NULL,
    record_offset bigint NOT NULL,
    username      text   COLLATE "C" NOT NULL,
    request_id    text   COLLATE "C" NOT NULL,
    PRIMARY KEY (username, request_id)
);
CREATE INDEX IF NOT EXISTS refusal_batch ON refusal USING brin (batch) WITH (pages_per_range = 16, autosummarize = on);
