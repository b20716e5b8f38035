//! The ledger: append-only, hash-chained events in SQLite, with one writer thread.
