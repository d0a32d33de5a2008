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
-- gives. A slot numbers its entries itself, for offsets begin again when a topic is made anew. An account's entries are a chain:
-- each knows the number of the one before it. What is debited is known by its sender and request; what comes of that, by the
-- debit's own number: numbers rise, so this index grows at its end and stays small in memory, however many entries there are.
CREATE TABLE IF NOT EXISTS entry (
    slot          int    NOT NULL,
    batch         bigint NOT NULL,
    number        bigint NOT NULL,
    record_offset bigint NOT NULL,
    recorded_at   bigint NOT NULL,
    amount        bigint NOT NULL CHECK (amount > 0),
    balance       bigint,
    previous      bigint,
    epoch         bigint NOT NULL,
    debit_number  bigint,
    debit_slot    int,
    leg           text   COLLATE "C" NOT NULL,
    currency      text   COLLATE "C" NOT NULL,
    sender        text   COLLATE "C" NOT NULL,
    receiver      text   COLLATE "C" NOT NULL,
    request_id    text   COLLATE "C" NOT NULL,
    reason        text   COLLATE "C",
    PRIMARY KEY (slot, number)
);
CREATE UNIQUE INDEX IF NOT EXISTS entry_request ON entry (request_id, sender, leg) WHERE debit_number IS NULL;
CREATE UNIQUE INDEX IF NOT EXISTS entry_debit ON entry (debit_slot, debit_number, leg) WHERE debit_number IS NOT NULL;
CREATE INDEX IF NOT EXISTS entry_batch ON entry USING brin (batch) WITH (pages_per_range = 16, autosummarize = on);

-- Both sides of every entry that moved money; their sum is zero in each slot and currency. The other side of a deposit is
-- @deposits, which has no limit; that of everything else is @transit, the money that is on its way.
CREATE OR REPLACE VIEW posting AS
    SELECT e.slot, e.number, e.currency, side.account, side.amount
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
    request_id    text   COLLATE "C" NOT NULL
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

-- The last audit that each slot has taken part in, and the number of its last entry.
CREATE TABLE IF NOT EXISTS book (
    slot    int    PRIMARY KEY,
    batch   bigint NOT NULL,
    epoch   bigint NOT NULL,
    entries bigint NOT NULL
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
