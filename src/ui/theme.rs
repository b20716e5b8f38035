//! What a state looks like: a word, a shape and a colour, always together.

use crate::provision::floor::{BayState, FloorBay};
use crate::provision::verdict::Verdict;
use ratatui::style::{Color, Modifier, Style};

/// How loud something is, by the colour code of IEC 60073; blue is for what a person must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Nothing needs a person.
    Quiet,
    /// Red: the unit is bad.
    Fault,
    /// Amber: look here.
    Attention,
    /// Green: complete.
    Complete,
    /// Blue: a person must act.
    Act,
}

impl Tone {
    /// Letters on the screen's own background.
    pub fn text(self) -> Style {
        match self {
            Self::Quiet => Style::new(),
            _ => Style::new().fg(self.color()).add_modifier(Modifier::BOLD),
        }
    }

    /// A filled bar. Readable without colours too: it is drawn as reversed text.
    pub fn bar(self) -> Style {
        match self {
            Self::Quiet => Style::new().add_modifier(Modifier::BOLD),
            _ => self.text().add_modifier(Modifier::REVERSED),
        }
    }

    fn color(self) -> Color {
        match self {
            Self::Quiet => Color::Reset,
            Self::Fault => Color::Red,
            Self::Attention => Color::Yellow,
            Self::Complete => Color::Green,
            Self::Act => Color::LightBlue,
        }
    }
}

/// For what is there but not meant to be noticed.
pub fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

/// The tone of a verdict.
pub fn verdict_tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Passed | Verdict::Injected => Tone::Complete,
        Verdict::Failed => Tone::Fault,
        Verdict::Errored | Verdict::Recognised | Verdict::Interrupted => Tone::Attention,
    }
}

/// The shape of a verdict.
pub fn verdict_shape(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "●",
        Verdict::Injected => "▬",
        Verdict::Failed => "■",
        Verdict::Errored => "▲",
        Verdict::Recognised => "◆",
        Verdict::Interrupted => "◇",
    }
}

/// The tone of a bay.
pub fn bay_tone(bay: &FloorBay) -> Tone {
    match &bay.state {
        BayState::Waiting { .. } | BayState::Working if bay.weak => Tone::Attention,
        BayState::Waiting { .. } | BayState::Working => Tone::Quiet,
        BayState::Finished(outcome) => verdict_tone(outcome.verdict),
        BayState::Out(_) => Tone::Attention,
    }
}

/// The shape of a bay, and `!` where a result waits to be acknowledged: two columns.
pub fn bay_mark(bay: &FloorBay) -> String {
    let owed = if bay.unacknowledged.is_some() {
        '!'
    } else {
        ' '
    };
    format!("{}{owed}", bay_shape(bay))
}

fn bay_shape(bay: &FloorBay) -> &'static str {
    match &bay.state {
        BayState::Waiting { .. } | BayState::Working if bay.weak => "△",
        BayState::Waiting { .. } => "○",
        BayState::Working => "◐",
        BayState::Finished(outcome) => verdict_shape(outcome.verdict),
        BayState::Out(_) => "▽",
    }
}
