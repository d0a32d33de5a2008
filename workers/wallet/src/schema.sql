-- Accounts, the payments that were decided, and the books by which audits prove that no money comes or goes.

-- What each account holds now: the sum of its entries, kept in step with them by the same transaction. Bytes decide which ids are
-- one, hence the collation. No index on what changes, and room in each page: a new balance then needs no new index entry.
CREATE TABLE IF NOT EXISTS account (
    slot       int     NOT NULL,
    batch      bigint  NOT NULL,
    balance    bigint  NOT NULL,
    lowest     bigint  NOT NULL,
    last_entry bigint,
    closed     boolean NOT NULL,
    currency   text    COLLATE "C" NOT NULL,
    id         text    COLLATE "C" PRIMARY KEY
) WITH (fillfactor = 80);

-- Payments, each decided once and for ever; a row is never changed. One without a balance moved nothing, for the reason that it
-- gives. An account's entries are a chain: each knows the offset of the one before it.
CREATE TABLE IF NOT EXISTS entry (
    slot          int    NOT NULL,
    batch         bigint NOT NULL,
    record_offset bigint NOT NULL,
    recorded_at   bigint NOT NULL,
    amount        bigint NOT NULL CHECK (amount > 0),
    balance       bigint,
    previous      bigint,
    epoch         bigint NOT NULL,
    leg           text   COLLATE "C" NOT NULL,
    currency      text   COLLATE "C" NOT NULL,
    sender        text   COLLATE "C" NOT NULL,
    receiver      text   COLLATE "C" NOT NULL,
    request_id    text   COLLATE "C" NOT NULL,
    reason        text   COLLATE "C",
    PRIMARY KEY (slot, record_offset),
    UNIQUE (request_id, sender, leg)
);
CREATE INDEX IF NOT EXISTS entry_batch ON entry USING brin (batch) WITH (pages_per_range = 16, autosummarize = on);

-- Both sides of every entry that moved money; their sum is zero in each slot and currency. The other side of a deposit is
-- @deposits, which has no limit; that of everything else is @transit, the money that is on its way.
CREATE OR REPLACE VIEW posting AS
    SELECT e.slot, e.record_offset, e.currency, side.account, side.amount
    FROM entry e CROSS JOIN LATERAL (VALUES
        (CASE e.leg WHEN 'incoming' THEN e.receiver ELSE e.sender END,
         CASE e.leg WHEN 'outgoing' THEN -e.amount ELSE e.amount END),
        (CASE e.leg WHEN 'deposit' THEN '@deposits' ELSE '@transit' END,
         CASE e.leg WHEN 'outgoing' THEN e.amount ELSE -e.amount END)
    ) AS side(account, amount)
    WHERE e.balance IS NOT NULL;

-- Changes of accounts, each decided once.
CREATE TABLE IF NOT EXISTS change (
    slot          int    NOT NULL,
    batch         bigint NOT NULL,
    record_offset bigint NOT NULL,
    account       text   COLLATE "C" NOT NULL,
    request_id    text   COLLATE "C" NOT NULL,
    change        text   NOT NULL,
    refused       text,
    PRIMARY KEY (account, request_id)
);

-- Instructions under an identity that was used before, with other content: they change nothing.
CREATE TABLE IF NOT EXISTS conflict (
    slot          int    NOT NULL,
    batch         bigint NOT NULL,
    record_offset bigint NOT NULL,
    what          text   COLLATE "C" NOT NULL,
    account       text   COLLATE "C" NOT NULL,
    request_id    text   COLLATE "C" NOT NULL,
    PRIMARY KEY (slot, record_offset)
);
CREATE INDEX IF NOT EXISTS conflict_request ON conflict (request_id, account);

-- What has gone through each slot: its accounts hold deposited + received - sent. The digests are sums over the messages, so that
-- one that is lost and another that is doubled do not make up for each other.
CREATE TABLE IF NOT EXISTS totals (
    slot            int     NOT NULL,
    batch           bigint  NOT NULL,
    currency        text    COLLATE "C" NOT NULL,
    deposited       numeric NOT NULL,
    sent            numeric NOT NULL,
    received        numeric NOT NULL,
    sent_digest     numeric NOT NULL,
    received_digest numeric NOT NULL,
    PRIMARY KEY (slot, currency)
);

-- The last audit that each slot has taken part in.
CREATE TABLE IF NOT EXISTS epoch (
    slot  int    PRIMARY KEY,
    batch bigint NOT NULL,
    epoch bigint NOT NULL
);

-- A slot's totals before the first message of an audit, and what came late for it. The currency of the row that says that the slot
-- has taken part is empty. Each audit takes the place of an older one, so nothing is ever deleted.
CREATE TABLE IF NOT EXISTS cut (
    slot            int     NOT NULL,
    batch           bigint  NOT NULL,
    place           int     NOT NULL,
    currency        text    COLLATE "C" NOT NULL,
    epoch           bigint  NOT NULL,
    recorded_at     bigint  NOT NULL,
    deposited       numeric NOT NULL,
    sent            numeric NOT NULL,
    received        numeric NOT NULL,
    sent_digest     numeric NOT NULL,
    received_digest numeric NOT NULL,
    late            numeric NOT NULL,
    late_digest     numeric NOT NULL,
    PRIMARY KEY (slot, place, currency)
);
