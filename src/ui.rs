//! The operator's screen: snapshots in, commands out.
