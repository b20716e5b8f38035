-- Version 4 of the ledger. `events` is the record; every other table is a projection of it and can be rebuilt.

CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    station TEXT NOT NULL,
    operator TEXT,
    attempt TEXT,
    device TEXT,
    product_digest BLOB,
    kind TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    prev BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;

CREATE INDEX events_of_device ON events (device, seq) WHERE device IS NOT NULL;

CREATE TRIGGER events_in_order BEFORE INSERT ON events
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM events)
BEGIN SELECT raise(ABORT, 'events are numbered without gaps'); END;

CREATE TRIGGER events_never_change BEFORE UPDATE ON events
BEGIN SELECT raise(ABORT, 'events are never changed'); END;

CREATE TRIGGER events_never_go BEFORE DELETE ON events
BEGIN SELECT raise(ABORT, 'events are never deleted'); END;

-- One stay of one device in one bay.
CREATE TABLE attempt (
    attempt TEXT PRIMARY KEY,
    bay TEXT NOT NULL,
    opened_ms INTEGER NOT NULL,
    device TEXT REFERENCES unit (device),
    fence INTEGER,
    ended_seq INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX attempts_open ON attempt (attempt) WHERE ended_seq IS NULL;
CREATE INDEX attempts_of_device ON attempt (device) WHERE device IS NOT NULL;

-- Each device that was ever identified, and what became of it. `judged_seq`: its first verdict, `verdict_seq`: its last.
-- `seen_seq`: when it was last in a bay as a unit of the shift; none where it had passed before and was only recognised.
CREATE TABLE unit (
    device TEXT PRIMARY KEY,
    bay TEXT NOT NULL,
    registration_id TEXT,
    verdict TEXT CHECK (verdict IN ('passed', 'failed', 'injected')),
    first_seq INTEGER NOT NULL,
    judged_seq INTEGER,
    verdict_seq INTEGER,
    seen_seq INTEGER,
    last_seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which attempt may act on a device; the fence grows by one each time the claim is taken.
CREATE TABLE claim (
    device TEXT PRIMARY KEY REFERENCES unit (device),
    attempt TEXT NOT NULL REFERENCES attempt (attempt),
    fence INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What may be seen on one live device only; one of a list need not have been in a bay.
CREATE TABLE identity (
    kind TEXT NOT NULL CHECK (kind IN ('public_key', 'endorsement_key', 'registration_id', 'uid')),
    value BLOB NOT NULL,
    device TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (kind, value)
) STRICT, WITHOUT ROWID;

CREATE INDEX identities_of_device ON identity (device);

-- What identifies a device, by its digest: what later events refer to.
CREATE TABLE credential (
    sha256 BLOB PRIMARY KEY NOT NULL,
    device TEXT NOT NULL REFERENCES unit (device),
    content TEXT NOT NULL
) STRICT;

CREATE INDEX credentials_of_device ON credential (device);

-- Each signature that was ever asked for.
CREATE TABLE reservation (
    serial TEXT PRIMARY KEY,
    purpose TEXT NOT NULL,
    ca TEXT NOT NULL,
    tbs_sha256 BLOB NOT NULL,
    device TEXT REFERENCES unit (device),
    state TEXT NOT NULL CHECK (state IN ('reserved', 'signed', 'abandoned'))
) STRICT, WITHOUT ROWID;

CREATE INDEX reservations_of_device ON reservation (device) WHERE device IS NOT NULL;

-- What DPS is to hold. `content_seq`: the event that says so. `charged_seq`: the unanswered charge, if any.
-- `disabled_here`: it was disabled because its unit had failed, and may be enabled when that passes.
-- `ordered`: what is still to be done to the record that DPS holds, as a person ordered, or because its unit passed after all. `listed_seq`: the event with which it came from a list; none where its device is a unit of this line.
CREATE TABLE outbox (
    registration_id TEXT PRIMARY KEY,
    dps TEXT NOT NULL,
    device TEXT NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('pending', 'enrolled', 'refused', 'disabled', 'disable_pending', 'covered', 'delete_pending', 'deleted')),
    tries INTEGER NOT NULL,
    next_try_ms INTEGER NOT NULL,
    etag TEXT,
    fault TEXT,
    enrollment TEXT NOT NULL,
    content_seq INTEGER NOT NULL,
    charged_seq INTEGER,
    listed_seq INTEGER,
    ordered TEXT,
    disabled_here INTEGER NOT NULL DEFAULT 0 CHECK (disabled_here IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE INDEX outbox_in_turn ON outbox (dps, state, next_try_ms, content_seq);
CREATE INDEX outbox_of_device ON outbox (device);
CREATE INDEX outbox_of_lists ON outbox (state, dps) WHERE listed_seq IS NOT NULL;

-- Calls charged to this station's share of the service's quota.
CREATE TABLE charge (
    seq INTEGER PRIMARY KEY,
    dps TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    operations INTEGER NOT NULL
) STRICT;

CREATE INDEX charges_in_order ON charge (dps, seq);

-- What holds up all calls to a service: how long it asked to be left alone, and who has paused the upload.
CREATE TABLE service (
    dps TEXT PRIMARY KEY,
    busy_ms INTEGER,
    busy_from_ms INTEGER,
    paused_ms INTEGER,
    paused_by TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE shift (
    shift TEXT PRIMARY KEY,
    opened_seq INTEGER NOT NULL,
    opened_ms INTEGER NOT NULL,
    closed_seq INTEGER,
    closed_ms INTEGER,
    from_seq INTEGER NOT NULL REFERENCES tally (from_seq)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX shifts_in_order ON shift (opened_seq);
CREATE UNIQUE INDEX shift_of_tally ON shift (from_seq);

-- What counts for each shift: what happened after `from_seq`, where the one before closed, until it closed itself.
-- The first ten are its balance: a unit counts where it was first identified (`scanned`), in each shift that found it
-- without a verdict (`open_before`), and, by its last verdict and by where its record stands, where it was first judged.
-- The others are what its bays saw: units by their last verdict there, and attempts that ended in ERROR.
CREATE TABLE tally (
    from_seq INTEGER PRIMARY KEY,
    open_before INTEGER NOT NULL DEFAULT 0,
    scanned INTEGER NOT NULL DEFAULT 0,
    passed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    injected INTEGER NOT NULL DEFAULT 0,
    enrolled INTEGER NOT NULL DEFAULT 0,
    covered INTEGER NOT NULL DEFAULT 0,
    pending INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0,
    disabled INTEGER NOT NULL DEFAULT 0,
    seen_passed INTEGER NOT NULL DEFAULT 0,
    seen_failed INTEGER NOT NULL DEFAULT 0,
    seen_injected INTEGER NOT NULL DEFAULT 0,
    seen_open INTEGER NOT NULL DEFAULT 0,
    errors INTEGER NOT NULL DEFAULT 0
) STRICT;

-- How many records of the outbox stand where. `tried`: of those that wait.
CREATE TABLE outbox_tally (
    dps TEXT PRIMARY KEY,
    waiting INTEGER NOT NULL DEFAULT 0,
    tried INTEGER NOT NULL DEFAULT 0,
    enrolled INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Each bay that was tested with a loopback plug; `out`: its last test failed, and it is out of service.
CREATE TABLE bay (
    bay TEXT PRIMARY KEY,
    out INTEGER NOT NULL CHECK (out IN (0, 1)),
    tested_seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Each device ID that the station gave out, and the microcontroller that it was given to last.
CREATE TABLE allocation (
    device TEXT PRIMARY KEY,
    format TEXT NOT NULL,
    number INTEGER NOT NULL,
    uid BLOB NOT NULL,
    since_ms INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('out', 'confirmed', 'returned'))
) STRICT, WITHOUT ROWID;

CREATE INDEX allocation_by_number ON allocation (format, number);
CREATE INDEX allocation_returned ON allocation (format, number) WHERE state = 'returned';
CREATE UNIQUE INDEX allocation_of_uid ON allocation (uid) WHERE state <> 'returned';
