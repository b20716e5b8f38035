//! Where a device's ID comes from: the device has it, it is scanned, or the station gives out the next number.
//!
//! Invariant: everything that fits a format is a device ID, and short enough for a certificate's CN.

use super::device::DeviceId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest ID that a format may describe, in characters: what a certificate's CN takes (RFC 5280, `ub-common-name`).
const FORMAT_MAX: usize = 64;
/// The most digits that a number may have.
const DIGITS_MAX: usize = 9;

/// Where the IDs of a product's devices come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Naming {
    /// Who gives a device its ID.
    pub source: IdSource,
    /// What an ID that is scanned or allocated looks like.
    pub format: Option<IdFormat>,
    /// Whether a label is scanned for a device that has its own ID.
    pub scan: Scan,
}

/// Who gives a device its ID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdSource {
    /// The device has it.
    #[default]
    Device,
    /// The label that is scanned for it; injected.
    Scanned,
    /// The station, which gives out the next number; injected.
    Allocated,
}

/// Whether a label is scanned for a device that has its own ID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scan {
    /// No.
    #[default]
    None,
    /// Yes, and it must be that ID.
    Required,
}

/// What an ID looks like: `#` is a digit, `@` a letter from A to Z, everything else is itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdFormat(String);

/// Why a text is not a valid format, or not a valid way to name devices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamingError {
    /// Too long, or what it describes are not device IDs.
    #[error("format {0:?} does not describe device IDs of at most {FORMAT_MAX} characters")]
    Format(String),
    /// Scanned or allocated IDs need a format.
    #[error("IDs that are scanned or allocated need a format, such as \"GW-######\"")]
    NoFormat,
    /// There is nothing for the format to describe.
    #[error("a format is for IDs that are scanned or allocated")]
    Unused,
    /// The station numbers, and a format for that has digits and no letters to choose.
    #[error("format {0} must have 1 to {DIGITS_MAX} `#` and no `@` for IDs that are allocated")]
    NotNumbered(IdFormat),
}

impl Naming {
    /// Whether the parts go together.
    pub fn check(&self) -> Result<(), NamingError> {
        match (self.source, &self.format) {
            (IdSource::Device, None) => Ok(()),
            (IdSource::Device, Some(_)) => Err(NamingError::Unused),
            (_, None) => Err(NamingError::NoFormat),
            (IdSource::Scanned, Some(_)) => Ok(()),
            (IdSource::Allocated, Some(format)) => match format.number_of_digits() {
                1..=DIGITS_MAX if !format.0.contains('@') => Ok(()),
                _ => Err(NamingError::NotNumbered(format.clone())),
            },
        }
    }

    /// Whether a label has to be scanned for each unit.
    pub fn wants_scan(&self) -> bool {
        self.source == IdSource::Scanned || self.scan == Scan::Required
    }

    /// Whether a unit is called what it calls itself, and nobody has to be asked.
    pub fn is_the_devices(&self) -> bool {
        !self.wants_scan() && !self.injects()
    }

    /// Whether the station injects the ID.
    pub fn injects(&self) -> bool {
        self.source != IdSource::Device
    }
}

impl IdFormat {
    /// Parses a format; see the type for the rule.
    pub fn parse(text: &str) -> Result<Self, NamingError> {
        let example = text.replace('#', "0").replace('@', "A");
        if example.len() > FORMAT_MAX || DeviceId::parse(&example).is_err() {
            return Err(NamingError::Format(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The ID that the text is, if it fits.
    pub fn device_id(&self, text: &str) -> Option<DeviceId> {
        let fits = text.len() == self.0.len()
            && self.0.chars().zip(text.chars()).all(|(f, c)| match f {
                '#' => c.is_ascii_digit(),
                '@' => c.is_ascii_uppercase(),
                _ => f == c,
            });
        fits.then(|| DeviceId::parse(text).ok()).flatten()
    }

    /// The ID with this number; none if it has too many digits, or is 0.
    pub fn numbered(&self, number: u32) -> Option<DeviceId> {
        let width = self.number_of_digits();
        let digits = format!("{number:0width$}");
        if number == 0 || digits.len() > width {
            return None;
        }
        let mut digits = digits.chars();
        let text: String = self
            .0
            .chars()
            .map(|c| {
                if c == '#' {
                    digits.next().unwrap_or(c)
                } else {
                    c
                }
            })
            .collect();
        self.device_id(&text)
    }

    /// The number in an ID; none if it does not fit.
    pub fn number_in(&self, device: &DeviceId) -> Option<u32> {
        let text = self.device_id(device.as_str())?.to_string();
        let places = self.0.chars().zip(text.chars());
        let digits: String = places.filter(|(f, _)| *f == '#').map(|(_, c)| c).collect();
        digits.parse().ok()
    }

    fn number_of_digits(&self) -> usize {
        self.0.matches('#').count()
    }
}

impl TryFrom<String> for IdFormat {
    type Error = NamingError;
    fn try_from(text: String) -> Result<Self, NamingError> {
        Self::parse(&text)
    }
}

impl From<IdFormat> for String {
    fn from(format: IdFormat) -> String {
        format.0
    }
}

impl fmt::Display for IdFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_format_takes_what_fits_and_nothing_else() {
        let format = IdFormat::parse("GW-@##").unwrap();
        assert_eq!(format.device_id("GW-A07").unwrap().as_str(), "GW-A07");
        for wrong in [
            "", "GW-A7", "GW-a07", "GW-A0x", "gw-A07", "GW-A077", "GW-Ä0", "XW-A07",
        ] {
            assert_eq!(format.device_id(wrong), None, "{wrong:?}");
        }
        for wrong in ["", "-#", "#-", "GW #", "ä#", &"#".repeat(65)] {
            assert!(IdFormat::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn numbers_go_into_the_digits_and_come_out_again() {
        let format = IdFormat::parse("G#-##").unwrap();
        for number in 1..=999 {
            let device = format.numbered(number).unwrap();
            assert_eq!(format.number_in(&device), Some(number));
        }
        assert_eq!(format.numbered(7).unwrap().as_str(), "G0-07");
        assert_eq!((format.numbered(0), format.numbered(1000)), (None, None));
    }

    #[test]
    fn source_and_format_go_together() {
        let naming = |text: &str| toml::from_str::<Naming>(text).unwrap().check();
        assert_eq!(naming(""), Ok(()));
        assert_eq!(naming("scan = \"required\""), Ok(()));
        assert_eq!(naming("source = \"scanned\"\nformat = \"@#\""), Ok(()));
        assert_eq!(naming("source = \"allocated\"\nformat = \"A#\""), Ok(()));
        assert_eq!(naming("format = \"A#\""), Err(NamingError::Unused));
        assert_eq!(naming("source = \"scanned\""), Err(NamingError::NoFormat));
        for format in ["A", "@#", "##########"] {
            let text = format!("source = \"allocated\"\nformat = \"{format}\"");
            assert!(matches!(naming(&text), Err(NamingError::NotNumbered(_))));
        }
    }
}
