//! The thinking part: no I/O, no clock, no randomness. Time, random bytes and signatures enter as arguments.

pub mod batch;
pub mod bounds;
pub mod bytes;
pub mod certificate;
pub mod content;
pub mod device;
pub mod dialogue;
pub mod endorsement;
pub mod event;
pub mod fault;
pub mod floor;
pub mod health;
pub mod injected;
pub mod job;
pub mod list;
pub mod loopback;
pub mod naming;
pub mod person;
pub mod product;
pub mod registration;
pub mod upload;
pub mod verdict;
