//! The DPS service API as a client: token, bulk, read back, query.
