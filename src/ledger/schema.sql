-- Version 2 of the ledger. `events` is the record; every other table is a projection of it and can be rebuilt.

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

-- Each device that was ever identified, and what became of it.
CREATE TABLE unit (
    device TEXT PRIMARY KEY,
    bay TEXT NOT NULL,
    registration_id TEXT,
    verdict TEXT CHECK (verdict IN ('passed', 'failed', 'injected')),
    first_seq INTEGER NOT NULL,
    judged_seq INTEGER,
    last_seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Which attempt may act on a device; the fence grows by one each time the claim is taken.
CREATE TABLE claim (
    device TEXT PRIMARY KEY REFERENCES unit (device),
    attempt TEXT NOT NULL REFERENCES attempt (attempt),
    fence INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What may be seen on one live device only.
CREATE TABLE identity (
    kind TEXT NOT NULL CHECK (kind IN ('public_key', 'endorsement_key', 'registration_id', 'uid')),
    value BLOB NOT NULL,
    device TEXT NOT NULL REFERENCES unit (device),
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (kind, value)
) STRICT, WITHOUT ROWID;

-- What identifies a device, by its digest: what later events refer to.
CREATE TABLE credential (
    sha256 BLOB PRIMARY KEY NOT NULL,
    device TEXT NOT NULL REFERENCES unit (device),
    content TEXT NOT NULL
) STRICT;

-- Each signature that was ever asked for.
CREATE TABLE reservation (
    serial TEXT PRIMARY KEY,
    purpose TEXT NOT NULL,
    ca TEXT NOT NULL,
    tbs_sha256 BLOB NOT NULL,
    device TEXT REFERENCES unit (device),
    state TEXT NOT NULL CHECK (state IN ('reserved', 'signed', 'abandoned'))
) STRICT, WITHOUT ROWID;

-- What DPS is to hold. `content_seq`: the event that says so. `charged_seq`: the unanswered charge, if any.
CREATE TABLE outbox (
    registration_id TEXT PRIMARY KEY,
    dps TEXT NOT NULL,
    device TEXT NOT NULL REFERENCES unit (device),
    state TEXT NOT NULL
        CHECK (state IN ('pending', 'enrolled', 'refused', 'disabled', 'disable_pending', 'covered')),
    tries INTEGER NOT NULL,
    next_try_ms INTEGER NOT NULL,
    etag TEXT,
    fault TEXT,
    enrollment TEXT NOT NULL,
    content_seq INTEGER NOT NULL,
    charged_seq INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX outbox_by_state ON outbox (state, next_try_ms);
CREATE INDEX outbox_of_device ON outbox (device);

-- Calls charged to this station's share of the service's quota.
CREATE TABLE charge (
    seq INTEGER PRIMARY KEY,
    dps TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    operations INTEGER NOT NULL
) STRICT;

CREATE INDEX charges_by_time ON charge (dps, at_ms);

CREATE TABLE shift (
    shift TEXT PRIMARY KEY,
    opened_seq INTEGER NOT NULL,
    opened_ms INTEGER NOT NULL,
    closed_seq INTEGER,
    closed_ms INTEGER
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
CREATE UNIQUE INDEX allocation_of_uid ON allocation (uid) WHERE state <> 'returned';
