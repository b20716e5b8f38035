//! Drains the outbox into DPS: ten at a time, paced, resumable at any point.
