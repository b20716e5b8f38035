//! The job: one transition table for live running and for recovery.
