//! `station`: the program on a production line that gives each device its cloud identity.
//!
//! Data goes one way, from the port to the ledger to the cloud, and each file knows its room:
//!
//! - [`provision`] thinks: what a device may be called, what comes next for it ([`provision::job`]), what may be
//!   signed, whether an endorsement key is genuine, what to enroll. No I/O, no clock, no randomness.
//! - [`words`] says what a person reads about a fault.
//! - [`config`] reads `station.toml`.
//! - [`link`], [`tpm`], [`hsm`], [`ledger`] and [`dps`] touch the world, and do not know one another; but what [`hsm`]
//!   signs is a [`ledger::Reserved`], which only the ledger gives.
//! - [`signing`] has the HSM sign what is the station's own: reserved first, checked after.
//! - [`bay`] brings them together for one place on the line: arrival, identification, then one effect after another,
//!   recorded before each signature and each write. [`enroller`] drains the outbox. [`station`] supervises them.
//! - [`ui`] is the operator's screen: it gets copies of the floor and gives commands from a closed list.
//! - [`trace`] collects what the rooms say they do, through the macros of `tracing`, and writes it where it is wanted.
//! - [`commands`] turns argv into one of them.
//! - `fixtures` is a factory made of software (feature `demo`).
//!
//! # The words
//!
//! Each word means one thing, in the code, in the ledger and on the screen. Words of DPS (*registration ID*,
//! *enrollment*, *attestation*, *ID scope*) are spelt and meant as DPS spells and means them.
//!
//! | word | what it means here |
//! |---|---|
//! | bay | one place for one device, tied to the path of a port and never to a number that can change |
//! | unit, device | what lies in a bay; a device has a *device ID*, a port a *path*, a certificate a *serial number* |
//! | product | what a device should become: its attestation, what is injected, its CA, its DPS instance, its policy |
//! | attempt | one stay of one device in one bay, numbered by a ULID from the moment of arrival |
//! | job | the provisioning of one device, over all its attempts, in whichever bays |
//! | effect, fact | what the job asks to have done; what was found when it was |
//! | event | something that happened, as the ledger keeps it; the only thing that moves a job |
//! | claim | the right of one attempt at a time to act on a device |
//! | reservation | the bytes to be signed and their serial number, on record before the HSM is asked |
//! | identity | what a device proves itself with: a key made on it, or its TPM's endorsement key (EK) |
//! | injected, read back | written to a device; read from it again after a restart, which alone counts |
//! | rehearsal | a TPM's part in DPS's challenge, played with the station in the service's place |
//! | seal | what locks a device's provisioning commands for good; only fresh firmware clears it |
//! | PASS, FAIL, ERROR | the unit is ready; the unit is bad; the station is, which never counts against a unit |
//! | fault | a code and its arguments; whose matter it is follows from the code |
//! | outbox | what is to be enrolled or disabled in DPS, and how far that is |
//! | share | how many operations a minute this station may take of a DPS instance's quota |
//! | shift | the time whose units are counted, closed and uploaded together |
//! | head | the newest end of the ledger's hash chain |
//! | floor | all that a screen or a report sees, folded from reports |
//! | rig, scenario | the simulated line as a process of its own; one named fault on it |
//!
//! # The promises
//!
//! Each is held by tests; one or two of them stand beside it, by their path in `tests/it/`.
//!
//! 1. **Nothing moves unless it is written.** An event is durable before a screen shows it, and before a signature or a
//!    write to the device that follows from it begins. (`ledger::sync::a_sync_comes_before_each_acknowledgement`)
//! 2. **Never sign twice.** The exact bytes and their serial number are on record before the HSM is asked. Whatever
//!    goes wrong from then on gives that number up, on record; a late signature is thrown away; the same device with
//!    the same key gets its first certificate again.
//!    (`model::whatever_happens_nothing_is_signed_twice_and_every_pass_is_earned`,
//!    `kill::killed_after_every_kind_of_event_the_line_ends_as_if_it_had_not_been`)
//! 3. **Observed, not intended.** The record has what was read back after a restart beside what was asked for, and only
//!    equal values pass. (`link::what_is_not_saved_is_gone_after_a_reset`,
//!    `injection::a_wrong_value_fails_the_unit_under_either_policy`)
//! 4. **One identity, one device.** An endorsement key, public key or registration ID that was seen on another device
//!    is a FAIL that names the other one. (`ledger::rules::one_identity_is_one_device`)
//! 5. **Genuine before enrolled.** An endorsement key is taken with its template, its certificate's chain to a vendor
//!    root, and a challenge that the TPM met live; taking less is the product's policy, and in every record.
//!    (`tpm::every_bad_certificate_has_its_own_reason`, `tpm_line::a_waiver_is_on_record_with_what_it_waived`)
//! 6. **Execute once, then reconcile.** After a kill, a pulled cable or a timeout the station finds out what is true
//!    before it acts again, and only one attempt at a time may act on a device.
//!    (`kill::boundaries::every_boundary_and_every_second_boundary_after_recovery`,
//!    `link::a_tpm_command_is_executed_once_whatever_is_lost`)
//! 7. **An upload is believed only after reading back.** No record is lost, none is sent twice, one bad record does not
//!    stop the others, and the service gets no more than this station's share of calls.
//!    (`enroll::an_answer_that_never_came_is_read_back_and_nothing_is_sent_twice`,
//!    `enroll::no_minute_has_more_operations_than_the_share`)
//! 8. **Nothing from a device is trusted.** Lengths are bounded, every wait has a deadline, and text is made harmless
//!    before it reaches a screen or a file. (`fuzz::nothing_from_outside_breaks_the_station`,
//!    `screens::escapes_and_direction_marks_from_outside_never_reach_the_screen`)
//! 9. **No secret leaves its place.** PINs, credentials and keys are never in the ledger, a trace, argv, an error or on
//!    the screen. (`cli::a_wrong_pin_is_tried_once_and_shown_nowhere`,
//!    `trace::everything_is_traced_and_nothing_secret`)
//! 10. **Tampering shows.** Whatever was changed in the ledger's events or in what follows from them is named. Kept in
//!     part: no key signs the head yet, so a ledger that was put back, or whose chain was made anew after a change, is
//!     not noticed.
//!     (`ledger::damage::any_byte_of_an_event_changed_names_the_event`)
//! 11. **Simulation is marked and is never a fallback.** A simulated line says so always, its CAs are named SIMULATED,
//!     and a build with the factory inside runs no other line.
//!     (`screens::a_simulated_line_says_so_always_in_the_same_place`)
//! 12. **The line does not stop for the cloud**, and one bay, device, record or reader does not stop the others.
//!     (`enroll::a_service_that_fails_every_time_ends_the_run_and_nothing_is_lost`,
//!     `headless::a_reader_that_takes_nothing_stops_neither_the_line_nor_its_end`)
//! 13. **What is owed is not forgotten.** A refused record and an open unit stand in every report until they are
//!     settled. Kept in part: that nobody has acknowledged a FAIL is forgotten when the station ends.
//!     (`cli::a_record_that_is_refused_is_named_with_the_reason`, `ledger::rules::a_shift_balances_in_units`)
//! 14. **A unit that did not pass cannot register.** A certificate that was issued to it is disabled in DPS.
//!     (`enroll::a_unit_that_did_not_pass_is_disabled_whether_it_was_enrolled_or_not`)

pub mod provision;
pub mod words;

pub mod config;

pub mod dps;
pub mod hsm;
pub mod ledger;
pub mod link;
pub mod tpm;

pub mod signing;

pub mod bay;
pub mod enroller;
pub mod station;

pub mod trace;
pub mod ui;

pub mod commands;

#[cfg(feature = "demo")]
#[path = "../fixtures/mod.rs"]
pub mod fixtures;
