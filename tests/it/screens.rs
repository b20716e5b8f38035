//! The operator's screen: what can be seen at both sizes, and what keys can and cannot do.

#![allow(clippy::unwrap_used)]

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use dps_station::provision::bytes::{Blob, Digest};
use dps_station::provision::device::{DeviceId, Holding, Identification, RegistrationId};
use dps_station::provision::event::{Balance, EnrollmentRecord, Event, IdentityRef, Recorded};
use dps_station::provision::fault::{Blame, Fault, HeldValue, HsmError, Mismatch, Told};
use dps_station::provision::floor::{Activity, Command, Counts, Floor, LinkHealth, Outbox, Report};
use dps_station::ui::keymap;
use dps_station::ui::model::{Binding, Model, Panel};
use dps_station::ui::theme::bay_mark;
use dps_station::ui::update::{Msg, SCANNER_ECHO_MS, update};
use dps_station::ui::{picture, picture_of, view};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use std::sync::Arc;

const SIZES: [(u16, u16); 2] = [(120, 36), (80, 24)];
const NOON: i64 = 1_767_268_800_000; // 2026-01-01 12:00:00 UTC

fn floor() -> Floor {
    let mut floor = Floor::new("line-1", false, NOON);
    floor.fold(&Report::ShiftState {
        at_ms: NOON,
        name: "2026-01-01-early".to_owned(),
        open: true,
        balance: None,
        counts: Counts::default(),
    });
    floor
}

fn open_bays(floor: &mut Floor, count: usize) {
    for number in 1..=count {
        floor.fold(&Report::BayOpened {
            at_ms: NOON,
            bay: format!("BAY{number}"),
            port: format!("/dev/serial/by-path/pci-0000:00:14.0-usb-0:{number}:1.0"),
        });
    }
}

fn happen(floor: &mut Floor, bay: usize, at_ms: i64, event: Event) {
    let id = match &event {
        Event::Arrived { .. } => None,
        _ => Some(DeviceId::parse(&format!("GW-{bay:04}")).unwrap()),
    };
    count(floor, at_ms, &event);
    floor.fold(&Report::Event {
        bay: format!("BAY{bay}"),
        recorded: Box::new(Recorded {
            seq: 1,
            at_ms,
            station: "line-1".to_owned(),
            operator: None,
            attempt: None,
            device: id,
            product_digest: None,
            because: None,
            event,
        }),
    });
}

/// Counts an event as the ledger does for a unit that comes once.
fn count(floor: &mut Floor, at_ms: i64, event: &Event) {
    let mut counts = floor.counts;
    match event {
        Event::Identified { .. } => counts.open += 1,
        Event::Passed { .. } => counts.passed += 1,
        Event::Failed { .. } => counts.failed += 1,
        Event::Injected { .. } => counts.injected += 1,
        Event::Errored { .. } => counts.errors += 1,
        _ => return,
    }
    if !matches!(event, Event::Identified { .. } | Event::Errored { .. }) {
        counts.open = counts.open.saturating_sub(1);
    }
    let shift = floor.shift.clone().unwrap();
    floor.fold(&Report::ShiftState {
        at_ms,
        name: shift.name,
        open: shift.open,
        balance: shift.balance,
        counts,
    });
}

fn arrive(floor: &mut Floor, bay: usize) {
    let arrived = Event::Arrived {
        bay: format!("BAY{bay}"),
        port: "p".to_owned(),
    };
    happen(floor, bay, NOON, arrived);
    let identification = Identification {
        device_id: DeviceId::parse(&format!("GW-{bay:04}")).unwrap(),
        blank: false,
        model: "gateway".to_owned(),
        firmware: "1.0".to_owned(),
        uid: Blob::default(),
        boots: 1,
        sealed: false,
        tpm: false,
        holds: Digest::of(b""),
        stock: false,
    };
    let identified = Event::Identified {
        identification,
        assigned: None,
        scanned: None,
    };
    happen(floor, bay, NOON, identified);
}

fn restart(floor: &mut Floor, bay: usize) {
    let restarted = Event::Restarted {
        boots_before: 1,
        boots_after: 2,
    };
    happen(floor, bay, NOON + 1_000, restarted);
}

fn pass(floor: &mut Floor, bay: usize) {
    let device_id = DeviceId::parse(&format!("GW-{bay:04}")).unwrap();
    let enrollment = EnrollmentRecord {
        dps: "main".to_owned(),
        registration_id: RegistrationId::of_device(&device_id),
        device_id,
        identity: IdentityRef::X509 {
            certificate_sha256: Digest::of(b""),
        },
        initial_desired: None,
        initial_tags: None,
        content: Default::default(),
    };
    happen(floor, bay, NOON + 2_000, Event::Passed { enrollment });
}

fn fail(floor: &mut Floor, bay: usize, at_ms: i64) {
    let fault = Fault::DoesNotHold {
        device: DeviceId::parse(&format!("GW-{bay:04}")).unwrap(),
        how: Mismatch::Values(vec![HeldValue::RegistrationId]),
    };
    let failed = Event::Failed {
        fault,
        disable: None,
    };
    happen(floor, bay, at_ms, failed);
}

fn error(floor: &mut Floor, bay: usize) {
    let fault = Fault::Hsm(HsmError::Hung {
        module: "/usr/lib/hsm.so".to_owned(),
    });
    happen(floor, bay, NOON + 3_000, Event::Errored { fault });
}

/// One bay working, one PASS, one FAIL, one ERROR.
pub fn four_bays() -> Floor {
    let mut floor = floor();
    open_bays(&mut floor, 4);
    for bay in 1..=4 {
        arrive(&mut floor, bay);
    }
    restart(&mut floor, 1);
    pass(&mut floor, 2);
    error(&mut floor, 4);
    fail(&mut floor, 3, NOON + 4_000);
    floor
}

fn many_bays(count: usize) -> Floor {
    let mut floor = floor();
    open_bays(&mut floor, count);
    for bay in 1..=count {
        match bay % 5 {
            0 => {}
            _ => arrive(&mut floor, bay),
        }
        match bay % 5 {
            2 => pass(&mut floor, bay),
            3 if bay < 30 => fail(&mut floor, bay, NOON + 4_000 + bay as i64),
            4 if bay < 20 => error(&mut floor, bay),
            _ => {}
        }
    }
    floor
}

fn model(floor: Floor) -> Model {
    Model::new(Arc::new(floor), NOON + 5_000)
}

fn press(model: &mut Model, code: KeyCode) -> Option<Command> {
    press_with(model, code, KeyModifiers::NONE)
}

fn press_with(model: &mut Model, code: KeyCode, modifiers: KeyModifiers) -> Option<Command> {
    let action = keymap::action(KeyEvent::new(code, modifiers))?;
    update(model, Msg::Action(action))
}

fn enter(model: &mut Model, text: &str) -> Option<Command> {
    for c in text.chars() {
        assert_eq!(press(model, KeyCode::Char(c)), None);
    }
    press(model, KeyCode::Enter)
}

fn wait(model: &mut Model, ms: i64) {
    let now_ms = model.now_ms + ms;
    update(model, Msg::Clock(now_ms));
}

/// The terminal's buffer after one frame, as text.
fn frame(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::view(frame, model)).unwrap();
    terminal.backend().to_string()
}

fn snapshots(name: &str, model: &Model) {
    for (width, height) in SIZES {
        insta::assert_snapshot!(
            format!("{name}_{width}x{height}"),
            frame(model, width, height)
        );
    }
}

#[test]
fn an_idle_line_is_quiet() {
    let mut floor = floor();
    open_bays(&mut floor, 2);
    snapshots("idle", &model(floor));
}

#[test]
fn a_weak_link_is_a_word_and_a_shape() {
    for bays in [2, 12] {
        let mut floor = floor();
        open_bays(&mut floor, bays);
        floor.fold(&Report::Link {
            at_ms: NOON,
            bay: "BAY2".to_owned(),
            health: LinkHealth::default(),
            weak: true,
        });
        for (width, height) in SIZES {
            let text = picture_of(&model(floor.clone()), width, height);
            assert!(text.contains("WEAK LINK"), "{text}");
            assert_eq!(text.matches('△').count(), 1, "{text}");
        }
    }
}

#[test]
fn four_bays_show_their_words_and_the_failure_that_waits() {
    let model = model(four_bays());
    snapshots("four_bays", &model);
    for (width, height) in SIZES {
        let text = picture_of(&model, width, height);
        for words in [
            "◐ BAY1  Read back  GW-0001",
            "● BAY2  PASS  GW-0002",
            "■!BAY3  FAIL  GW-0003",
            "▲!BAY4  ERROR  GW-0004",
            "the registration ID read back from GW-0003 is not the one written",
            "this unit is not provisioned",
            "Do next: set the unit aside and call the process engineer",
            "ENTER: acknowledge FAIL of BAY3",
            "failed 1",
            "errors 1",
        ] {
            assert!(text.contains(words), "{words} at {width}x{height}:\n{text}");
        }
        // The top rows of PASS and ERROR in block letters, at some scale.
        assert!(text.matches("██").count() > 20, "{text}");
        assert!(!text.contains("SIMULATED") && !text.contains("STALE"));
    }
}

#[test]
fn an_injected_unit_has_its_own_word_and_count() {
    let mut floor = floor();
    arrive(&mut floor, 1);
    let injected = Event::Injected {
        observed: Holding {
            id_scope: "0ne00112233".to_owned(),
            global_endpoint: "global.azure".to_owned(),
            registration_id: "gw-0001".to_owned(),
            certificate_sha256: None,
        },
        endpoint_prefix: Some(12),
    };
    happen(&mut floor, 1, NOON, injected);
    let mut model = model(floor);
    let seen = [
        ["▬ BAY1  INJECTED  GW-0001", "injected 1  open 0"],
        [
            "the first 12 bytes of the endpoint",
            "do next       remove the unit",
        ],
        [
            "units         1 = 0 passed + 0 failed + 1 injected + 0 open",
            "",
        ],
    ];
    for (words, key) in seen
        .into_iter()
        .zip([KeyCode::Esc, KeyCode::F(2), KeyCode::F(3)])
    {
        press(&mut model, key);
        let text = picture_of(&model, 120, 36);
        assert!(
            words.iter().all(|words| text.contains(words)),
            "{words:?}:\n{text}"
        );
    }
}

#[test]
fn every_bay_is_visible_with_its_word_at_both_sizes() {
    for count in 1..=32 {
        let floor = many_bays(count);
        for (width, height) in SIZES {
            let text = picture(&floor, NOON + 5_000, width, height);
            for bay in &floor.bays {
                let shown = if count > 6 {
                    word_below(&text, &format!("{}{} ", bay_mark(bay), bay.name))
                } else {
                    let title = format!("{}{}  {}", bay_mark(bay), bay.name, bay.word());
                    text.contains(&title).then(|| bay.short_word().to_owned())
                };
                let name = &bay.name;
                assert_eq!(shown.as_deref(), Some(bay.short_word()), "{name}:\n{text}");
            }
        }
    }
}

/// What stands in the tile whose first row is `title`.
fn word_below(text: &str, title: &str) -> Option<String> {
    let rows: Vec<String> = text.lines().map(|row| format!("{row:<120}")).collect();
    let (row, column) = (0..).zip(&rows).find_map(|(row, text)| {
        let before = &text[..text.find(title)?];
        Some((row, before.chars().count()))
    })?;
    let below: String = rows.get(row + 1)?.chars().skip(column).take(9).collect();
    Some(below.trim_end().to_owned())
}

#[test]
fn sixty_four_bays_are_tiles_with_a_banner() {
    let mut model = model(many_bays(64));
    snapshots("sixty_four_bays", &model);
    let large = picture_of(&model, 120, 36);
    for bay in &model.floor.bays {
        assert!(large.contains(&bay.name), "{}:\n{large}", bay.name);
    }
    let small = picture_of(&model, 80, 24);
    assert!(small.contains("bays 1 to 32 of 64: PgUp PgDn"), "{small}");
    press(&mut model, KeyCode::PageDown);
    let small = picture_of(&model, 80, 24);
    assert!(
        small.contains("bays 33 to 64 of 64") && small.contains("BAY64"),
        "{small}"
    );
}

#[test]
fn a_simulated_line_says_so_always_in_the_same_place() {
    let mut floor = Floor::new("line-1", true, NOON);
    open_bays(&mut floor, 2);
    let mut model = model(floor);
    snapshots("simulated", &model);
    let column = |text: &str| text.lines().next().unwrap().find("SIMULATED");
    let at = column(&picture_of(&model, 80, 24));
    assert!(at.is_some());
    for key in [KeyCode::F(1), KeyCode::F(2), KeyCode::F(3), KeyCode::F(10)] {
        press(&mut model, key);
        assert_eq!(column(&picture_of(&model, 80, 24)), at);
    }
    assert!(picture_of(&model, 60, 10).contains("SIMULATED"));
}

#[test]
fn a_silent_station_is_marked_stale() {
    let mut floor = floor();
    open_bays(&mut floor, 2);
    let mut model = model(floor);
    assert!(!picture_of(&model, 80, 24).contains("STALE"));
    wait(&mut model, 7_000);
    snapshots("stale", &model);
    let text = picture_of(&model, 80, 24);
    assert!(text.contains("silent for 12 s"), "{text}");
}

#[test]
fn below_the_minimum_the_screen_says_so_and_no_size_panics() {
    let model = model(four_bays());
    insta::assert_snapshot!("too_small_60x16", frame(&model, 60, 16));
    assert!(picture_of(&model, 60, 16).contains("BAY3: FAIL"));
    for floor in [floor(), four_bays(), many_bays(64), many_bays(200)] {
        let mut model = Model::new(Arc::new(floor), NOON);
        for key in [KeyCode::Esc, KeyCode::F(1), KeyCode::F(2), KeyCode::F(3)] {
            press(&mut model, key);
            for width in [0, 1, 2, 10, 79, 80, 81, 97, 300] {
                for height in [0, 1, 2, 5, 23, 24, 25, 31, 100] {
                    picture_of(&model, width, height);
                }
            }
        }
    }
}

#[test]
fn help_detail_and_shift_are_one_key_away_and_keep_the_failure_in_sight() {
    let mut floor = four_bays();
    floor.fold(&Report::Link {
        at_ms: NOON,
        bay: "BAY3".to_owned(),
        health: LinkHealth {
            retries: 3,
            crc_errors: 2,
            dropped_lines: 1,
            bytes_out: 20_000,
            bytes_in: 28_211,
            latency_max_ms: 14,
            ..LinkHealth::default()
        },
        weak: true,
    });
    floor.fold(&Report::Enroller {
        at_ms: NOON,
        dps: "main".to_owned(),
        outbox: Outbox {
            pending: 1,
            enrolled: 9,
            refused: 1,
            deferred: 1,
            note: Some(Activity::Uploading),
            progress: None,
        },
    });
    floor.fold(&Report::ShiftState {
        at_ms: NOON,
        name: "2026-01-01-early".to_owned(),
        open: true,
        balance: Some(Balance {
            scanned: 4,
            passed: 1,
            failed: 1,
            open_after: 2,
            ..Balance::default()
        }),
        counts: floor.counts,
    });
    let mut model = model(floor);
    for (key, panel, name) in [
        (KeyCode::F(1), Panel::Help, "help"),
        (KeyCode::F(2), Panel::Detail, "fail_detail"),
        (KeyCode::F(3), Panel::Shift, "shift"),
    ] {
        assert_eq!(press(&mut model, key), None);
        assert_eq!(model.panel, panel);
        snapshots(name, &model);
        for (width, height) in SIZES {
            assert!(picture_of(&model, width, height).contains("acknowledge FAIL of BAY3"));
        }
    }
    assert!(picture_of(&model, 80, 24).contains("● balances"));
    press(&mut model, KeyCode::Esc);
    assert_eq!(model.panel, Panel::Line);
}

#[test]
fn the_result_of_a_first_boot_is_shown_until_it_is_read() {
    let mut floor = floor();
    open_bays(&mut floor, 4);
    floor.fold(&Report::Note {
        at_ms: NOON,
        title: "First boot".to_owned(),
        lines: vec![
            "12 enrolled".to_owned(),
            "12 assigned".to_owned(),
            "12 read their twin".to_owned(),
        ],
        fault: None,
    });
    let mut model = model(floor);
    snapshots("first_boot", &model);
    assert_eq!(press(&mut model, KeyCode::Enter), None);
    assert!(!picture_of(&model, 80, 24).contains("First boot"));
}

#[test]
fn no_single_key_asks_anything_of_the_station_but_an_acknowledgement() {
    let codes = (0..128u8)
        .map(|c| KeyCode::Char(char::from(c)))
        .chain((1..=24).map(KeyCode::F))
        .chain([
            KeyCode::Enter,
            KeyCode::Esc,
            KeyCode::Backspace,
            KeyCode::Delete,
            KeyCode::Tab,
            KeyCode::PageDown,
            KeyCode::PageUp,
            KeyCode::Up,
            KeyCode::Down,
            KeyCode::Home,
            KeyCode::End,
        ]);
    for code in codes {
        for panel in [Panel::Line, Panel::Help, Panel::Detail, Panel::Shift] {
            for modifiers in [KeyModifiers::NONE, KeyModifiers::CONTROL, KeyModifiers::ALT] {
                let mut model = model(four_bays());
                model.panel = panel;
                let command = press_with(&mut model, code, modifiers);
                let bay = "BAY3".to_owned();
                match code {
                    KeyCode::Enter if modifiers.is_empty() => {
                        assert_eq!(command, Some(Command::Acknowledge { bay }));
                    }
                    _ => assert_eq!(command, None, "{code:?} {modifiers:?}"),
                }
            }
        }
    }
}

#[test]
fn quitting_takes_two_keys_that_no_scanner_sends() {
    let mut model = model(four_bays());
    assert_eq!(press(&mut model, KeyCode::F(10)), None);
    assert!(picture_of(&model, 80, 24).contains("STOP THE STATION?"));
    assert_eq!(press(&mut model, KeyCode::Char('y')), None);
    assert_eq!(
        press_with(&mut model, KeyCode::Char('c'), KeyModifiers::CONTROL),
        None
    );
    assert_eq!(press(&mut model, KeyCode::F(10)), Some(Command::Quit));
}

#[test]
fn the_shift_closes_only_by_a_typed_word_in_the_shift_panel() {
    let mut floor = floor();
    open_bays(&mut floor, 1);
    let mut model = model(floor);
    let bay = || "BAY1".to_owned();
    let text = "CLOSE".to_owned();
    assert_eq!(
        enter(&mut model, "CLOSE"),
        Some(Command::Scan { text, bay: bay() })
    );
    press(&mut model, KeyCode::F(3));
    let text = "GW-0007".to_owned();
    assert_eq!(
        enter(&mut model, "GW-0007"),
        Some(Command::Scan { text, bay: bay() })
    );
    assert_eq!(enter(&mut model, "close"), Some(Command::CloseShift));
    assert_eq!(enter(&mut model, "upload"), Some(Command::Upload));
    let retry = "To send refused records again";
    assert_eq!(enter(&mut model, "retry"), None, "none is refused");
    assert!(!picture_of(&model, 80, 24).contains(retry));
    let mut refused = (*model.floor).clone();
    refused.fold(&Report::Enroller {
        at_ms: NOON,
        dps: "main".to_owned(),
        outbox: Outbox {
            refused: 2,
            ..Outbox::default()
        },
    });
    update(&mut model, Msg::Floor(Arc::new(refused)));
    assert_eq!(enter(&mut model, "retry"), Some(Command::Retry));
    assert!(picture_of(&model, 80, 24).contains(retry));
    let asked = "To close the shift";
    assert!(picture_of(&model, 80, 24).contains(asked));
    let mut closed = (*model.floor).clone();
    closed.fold(&Report::ShiftState {
        at_ms: NOON,
        name: "2026-01-01-early".to_owned(),
        open: false,
        balance: None,
        counts: Counts::default(),
    });
    update(&mut model, Msg::Floor(Arc::new(closed)));
    assert!(!picture_of(&model, 80, 24).contains(asked));
    assert_eq!(enter(&mut model, "CLOSE"), None);
    assert!(picture_of(&model, 80, 24).contains("no shift is open"));
}

#[test]
fn a_port_is_tested_only_by_a_typed_word_in_the_detail_of_its_bay() {
    let mut floor = floor();
    open_bays(&mut floor, 2);
    let mut model = model(floor);
    assert_eq!(enter(&mut model, "LOOPBACK"), None);
    press(&mut model, KeyCode::F(2));
    press(&mut model, KeyCode::Down);
    let bay = "BAY2".to_owned();
    assert_eq!(
        enter(&mut model, "loopback"),
        Some(Command::Loopback { bay })
    );
    assert!(picture_of(&model, 80, 24).contains("BAY2: loopback test asked for"));
}

#[test]
fn a_scan_is_for_the_bay_that_waits_or_the_one_whose_label_was_scanned() {
    let mut floor = floor();
    open_bays(&mut floor, 3);
    let mut model = model(floor.clone());
    assert_eq!(model.binding(), Binding::Ambiguous);
    assert_eq!(enter(&mut model, "GW-0001"), None);
    assert!(picture_of(&model, 80, 24).contains("which bay? scan its label first"));
    assert_eq!(enter(&mut model, "bay2"), None);
    assert!(picture_of(&model, 80, 24).contains("SCAN (for BAY2)"));
    let (text, bay) = ("GW-0001".to_owned(), "BAY2".to_owned());
    assert_eq!(
        enter(&mut model, "GW-0001"),
        Some(Command::Scan { text, bay })
    );
    floor.fold(&Report::BayWaiting {
        at_ms: NOON,
        bay: "BAY3".to_owned(),
        for_scan: true,
    });
    update(&mut model, Msg::Floor(Arc::new(floor.clone())));
    assert_eq!(model.binding(), Binding::Bay("BAY3"));
    for bay in 1..=3 {
        arrive(&mut floor, bay);
    }
    update(&mut model, Msg::Floor(Arc::new(floor)));
    assert_eq!(enter(&mut model, "GW-0001"), None);
    assert!(picture_of(&model, 80, 24).contains("for no bay: none waits"));
}

#[test]
fn an_enter_acknowledges_what_was_on_screen_and_a_scanners_second_enter_nothing() {
    let mut floor = four_bays();
    let mut model = model(floor.clone());
    arrive(&mut floor, 2);
    fail(&mut floor, 2, NOON + 4_900);
    update(&mut model, Msg::Floor(Arc::new(floor.clone())));
    assert_eq!(enter(&mut model, "GW-0009"), None);
    assert_eq!(press(&mut model, KeyCode::Enter), None);
    wait(&mut model, SCANNER_ECHO_MS);
    let bay = "BAY3".to_owned();
    assert_eq!(
        press(&mut model, KeyCode::Enter),
        Some(Command::Acknowledge { bay })
    );
    floor.fold(&Report::Acknowledged {
        at_ms: NOON + 5_000,
        bay: "BAY3".to_owned(),
    });
    update(&mut model, Msg::Floor(Arc::new(floor)));
    assert!(picture_of(&model, 80, 24).contains("acknowledge FAIL of BAY2"));
    let bay = "BAY4".to_owned();
    assert_eq!(
        enter(&mut model, "BAY4"),
        Some(Command::Acknowledge { bay })
    );
}

#[test]
fn a_full_queue_is_said_and_nothing_is_waited_for() {
    let mut model = model(four_bays());
    update(&mut model, Msg::Refused);
    assert!(picture_of(&model, 80, 24).contains("the station is busy"));
}

#[test]
fn escapes_and_direction_marks_from_outside_never_reach_the_screen() {
    let evil = "x\x1b[2J\u{202e}\r\n\u{200b}y";
    let mut floor = Floor::new(evil, true, NOON);
    let bay = evil.to_owned();
    floor.fold(&Report::BayOpened {
        at_ms: NOON,
        bay: bay.clone(),
        port: bay.clone(),
    });
    floor.fold(&Report::Scanned {
        at_ms: NOON,
        bay: bay.clone(),
        text: bay.clone(),
    });
    let fault = Fault::Told(Told {
        code: evil.to_owned(),
        blame: Blame::Station,
        what: evil.to_owned(),
        next: evil.to_owned(),
    });
    floor.fold(&Report::BayOut {
        at_ms: NOON,
        bay: bay.clone(),
        fault,
    });
    floor.fold(&Report::Note {
        at_ms: NOON,
        title: bay.clone(),
        lines: vec![bay; 100],
        fault: None,
    });
    assert_eq!(floor.bays.len(), 1);
    let mut model = model(floor);
    for c in evil.chars() {
        press(&mut model, KeyCode::Char(c));
    }
    for key in [KeyCode::Esc, KeyCode::F(2), KeyCode::F(3)] {
        press(&mut model, key);
        for (width, height) in SIZES {
            let text = picture_of(&model, width, height);
            let bad = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{200b}".contains(c);
            assert!(!text.contains(bad), "{text:?}");
        }
    }
}
