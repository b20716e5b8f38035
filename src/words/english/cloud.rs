//! What is between the station and DPS, in English.

use crate::provision::fault::{
    ClockSkew, Complaint, Difference, DpsSetting, Fault, Malformed, NoAnswer, NoToken,
    ProxyRefused, ProxyUnreachable, RecordTrouble, TokenTrouble, TrustFlaw, UploadPaused, harmless,
};

/// The longest text that the details of differences are told in, in characters.
const DETAILS_MAX: usize = 300;

pub fn what(fault: &Fault) -> Option<String> {
    let at = |dps: &str, url: &str, rest: String| format!("DPS {dps:?} at {url} {rest}");
    Some(match fault {
        Fault::DpsUnreachable { dps, url, said } => {
            at(dps, url, format!("cannot be reached ({said})"))
        }
        Fault::DpsUnauthorized {
            dps,
            url,
            complaint: words,
            ..
        } => at(
            dps,
            url,
            format!("refuses the credential ({})", complaint(words)),
        ),
        Fault::DpsThrottled {
            dps,
            url,
            complaint: words,
        } => at(dps, url, format!("is too busy ({})", complaint(words))),
        Fault::DpsRefused {
            dps,
            url,
            complaint: words,
        } => at(dps, url, format!("refuses ({})", complaint(words))),
        Fault::DpsNoAnswer { dps, url, why } => at(
            dps,
            url,
            format!("gave no usable answer ({})", no_answer(why)),
        ),
        Fault::DpsMalformed { dps, url, why } => at(
            dps,
            url,
            format!(
                "answered what the protocol does not know ({})",
                malformed(why)
            ),
        ),
        Fault::DpsConfiguration {
            dps,
            setting: found,
        } => {
            format!("[[dps]] {dps:?}: {}", setting(found))
        }
        Fault::DpsShare { dps, share } => {
            format!("the share of DPS {dps:?}, {share} operations a minute, stays used up")
        }
        Fault::UploadElsewhere { dps, holder } => match holder.pid {
            0 => format!("another process already uploads to DPS {dps:?}"),
            pid => format!(
                "`{}` (process {pid}) already uploads to DPS {dps:?}",
                holder.command
            ),
        },
        Fault::UploadPaused(UploadPaused { dps, by }) => match by {
            Some(by) => format!("{by} has paused the upload to DPS {dps:?}"),
            None => format!("the upload to DPS {dps:?} is paused"),
        },
        Fault::ClockWrong { dps, skew: found } => {
            format!(
                "the station's clock is {} the clock of DPS {dps:?}",
                skew(*found)
            )
        }
        fault => return on_the_way(fault).or_else(|| enrollment(fault)),
    })
}

/// What happened between the station and the service.
fn on_the_way(fault: &Fault) -> Option<String> {
    Some(match fault {
        Fault::ProxyUnreachable(ProxyUnreachable { dps, proxy, said }) => {
            format!("nothing gets through the proxy {proxy} to DPS {dps:?} ({said})")
        }
        Fault::ProxyRefused(ProxyRefused { dps, proxy, known }) => {
            let what = match known {
                true => "refuses the user and the password",
                false => "wants a user and a password",
            };
            format!("the proxy {proxy} on the way to DPS {dps:?} {what}")
        }
        Fault::NoToken(NoToken { dps, program, why }) => {
            format!(
                "the token_command of [[dps]] {dps:?}, {program}, {}",
                token_trouble(why)
            )
        }
        Fault::DpsUntrusted(untrusted) => {
            let (dps, url) = (&untrusted.dps, &untrusted.url);
            let flaw = match &untrusted.flaw {
                TrustFlaw::AnotherName => "its certificate is for another host",
                TrustFlaw::UnknownIssuer => "nobody who is trusted issued its certificate",
                TrustFlaw::NotValidNow => "its certificate is not valid now",
                TrustFlaw::Other(said) => said,
            };
            format!("what answers at {url} does not prove to be DPS {dps:?} ({flaw})")
        }
        _ => return None,
    })
}

fn token_trouble(why: &TokenTrouble) -> String {
    match why {
        TokenTrouble::NotRun(said) => format!("cannot be run ({said})"),
        TokenTrouble::Failed { status, said } if said.is_empty() => format!("failed ({status})"),
        TokenTrouble::Failed { status, said } => format!("failed ({status}: {said})"),
        TokenTrouble::Timeout(seconds) => format!("did not end within {seconds} s"),
        TokenTrouble::Endless(max) => format!("said more than {max} bytes"),
        TokenTrouble::NotAToken => {
            "did not print what `az account get-access-token` prints".to_owned()
        }
        TokenTrouble::Expired => "gave a token that is not good any more".to_owned(),
    }
}

/// What to do about that.
fn next_on_the_way(fault: &Fault) -> Option<String> {
    Some(match fault {
        Fault::ProxyUnreachable(ProxyUnreachable { dps, .. }) => format!(
            "nothing is lost; check the proxy, and HTTPS_PROXY or the proxy of [[dps]] {dps:?}, then try again"
        ),
        Fault::ProxyRefused(ProxyRefused { dps, known, .. }) => {
            let what = match known {
                true => "put right",
                false => "give",
            };
            format!("{what} the proxy_credential of [[dps]] {dps:?}, then try again; nothing is lost")
        }
        Fault::NoToken(NoToken { why, .. }) => match why {
            TokenTrouble::NotRun(_) | TokenTrouble::NotAToken | TokenTrouble::Endless(_) => {
                "correct it in station.toml; nothing is lost".to_owned()
            }
            TokenTrouble::Expired => {
                "check the station's clock, and sign in anew; nothing is lost".to_owned()
            }
            TokenTrouble::Failed { .. } | TokenTrouble::Timeout(_) => {
                "run it by hand as the station's user, and sign in anew if it asks for that; nothing is lost"
                    .to_owned()
            }
        },
        Fault::DpsUntrusted(untrusted) => {
            let dps = &untrusted.dps;
            match untrusted.flaw {
                TrustFlaw::AnotherName => format!(
                    "correct the service_url of [[dps]] {dps:?}, or have the proxy let its calls through untouched"
                ),
                TrustFlaw::NotValidNow => {
                    "set the station's clock right if it is wrong, then try again".to_owned()
                }
                TrustFlaw::UnknownIssuer | TrustFlaw::Other(_) => format!(
                    "check the service_url of [[dps]] {dps:?}; where a proxy opens TLS, give that proxy's CA as ca_file"
                ),
            }
        }
        _ => return None,
    })
}

fn enrollment(fault: &Fault) -> Option<String> {
    match fault {
        Fault::EnrollmentRefused {
            dps,
            registration_id,
            why,
        }
        | Fault::EnrollmentDeferred {
            dps,
            registration_id,
            why,
        }
        | Fault::EnrollmentUnanswered {
            dps,
            registration_id,
            why,
        } => Some(format!("DPS {dps:?}, {registration_id}: {}", record(why))),
        _ => None,
    }
}

pub fn next(fault: &Fault) -> Option<String> {
    let fixed = match fault {
        Fault::DpsUnreachable { .. } => {
            "nothing is lost; check the network, the proxy and service_url, then try again"
        }
        Fault::DpsUnauthorized {
            dps, clock, sas, ..
        } => {
            return Some(match clock {
                None if *sas => format!(
                    "put the credential of [[dps]] {dps:?} right, or give a token_command if local authentication is switched off for this instance; nothing is lost"
                ),
                Some(clock) => format!(
                    "set the station's clock right, which is {} the service's, then try again",
                    skew(*clock)
                ),
                None => format!(
                    "put the credential of [[dps]] {dps:?} right, then try again; nothing is lost"
                ),
            });
        }
        Fault::DpsThrottled { .. } => {
            "nothing is lost; try again later, or lower share for all stations of this DPS"
        }
        Fault::DpsRefused { dps, .. } => {
            return Some(format!(
                "check service_url of [[dps]] {dps:?}, and the service's message"
            ));
        }
        Fault::DpsNoAnswer { .. } => {
            "nothing is lost; try again later: what was sent is read back first"
        }
        Fault::DpsMalformed {
            why: Malformed::EndlessQuery,
            ..
        } => "try again; if it stays so, ask the service's support",
        Fault::DpsMalformed { dps, .. } => {
            return Some(format!(
                "check that service_url of [[dps]] {dps:?} leads to a DPS"
            ));
        }
        Fault::DpsConfiguration { .. } => "put it right in station.toml",
        Fault::DpsShare { .. } => {
            "see what else calls this DPS from this station, such as `station enroll` or `station reconcile`, and whether the clock was set back; nothing is lost"
        }
        Fault::UploadElsewhere { .. } => {
            "nothing is lost; `station enroll --wait` follows it, and goes on where it ends"
        }
        Fault::UploadPaused { .. } => "nothing is lost; `station enroll --resume` lets it go on",
        Fault::ClockWrong { .. } => "set the station's clock right",
        Fault::EnrollmentRefused {
            registration_id, ..
        } => {
            return Some(format!(
                "a person must put right what it names, in DPS or in station.toml, then run `station enroll --retry {registration_id}`"
            ));
        }
        Fault::EnrollmentDeferred { .. } => "nothing; it is tried again",
        Fault::EnrollmentUnanswered { .. } => "nothing; it is read back, then tried again",
        fault => return next_on_the_way(fault),
    };
    Some(fixed.to_owned())
}

/// The service's words, after its code.
pub fn complaint(words: &Complaint) -> String {
    let mut text = match (words.code, words.status) {
        (Some(code), _) => code.to_string(),
        (None, Some(status)) => format!("HTTP {status}"),
        (None, None) => "no code".to_owned(),
    };
    if !words.message.is_empty() {
        text += &format!(" \"{}\"", words.message);
    }
    if !words.tracking_id.is_empty() {
        text += &format!(", tracking ID {}", words.tracking_id);
    }
    text
}

/// One field in which the service's record is not ours.
pub fn difference(difference: &Difference) -> String {
    let Difference {
        field,
        ours,
        theirs,
    } = difference;
    let ours = ours.as_deref().unwrap_or("the service's default");
    format!("{field} is {theirs} there and {ours} here")
}

fn skew(ClockSkew(seconds): ClockSkew) -> String {
    let side = if seconds > 0 { "ahead of" } else { "behind" };
    format!("{} s {side}", seconds.unsigned_abs())
}

fn no_answer(why: &NoAnswer) -> String {
    match why {
        NoAnswer::Complaint(words) => complaint(words),
        NoAnswer::Timeout(seconds) => format!("none within {seconds} s"),
        NoAnswer::Network(said) => said.clone(),
    }
}

fn malformed(why: &Malformed) -> String {
    let fixed = match why {
        Malformed::Complaint(words) => return complaint(words),
        Malformed::NotJson(said) => return format!("not JSON: {said}"),
        Malformed::Endless => "an endless answer",
        Malformed::EndlessQuery => "a query without end",
        Malformed::NoEtag => "a record without an etag",
        Malformed::OddEtag => "an etag that fits no header",
        Malformed::BulkAnswer => "a bulk answer without its result, or whose errors are not a list",
        Malformed::NotAList => "a query answer that is not a list",
        Malformed::Enrollment => "an enrollment that is not an object, or without a registrationId",
        Malformed::ProvisioningStatus => "an enrollment with an unknown provisioningStatus",
    };
    fixed.to_owned()
}

fn setting(setting: &DpsSetting) -> String {
    match setting {
        DpsSetting::NotAUrl(said) => format!("service_url is not a URL ({said})"),
        DpsSetting::NotHttps => {
            "service_url must be an https URL without user, query or fragment".to_owned()
        }
        DpsSetting::UnknownPart => {
            "credential has a part that is not one of HostName, SharedAccessKeyName, SharedAccessKey"
                .to_owned()
        }
        DpsSetting::NoPart(part) => format!("credential has no {part}"),
        DpsSetting::KeyNotBase64 => {
            "credential has a SharedAccessKey that is not base64".to_owned()
        }
        DpsSetting::CaFile { path, said } => format!("ca_file {path} cannot be read ({said})"),
        DpsSetting::CaFileTooLarge { path, max } => {
            format!("ca_file {path} is larger than {max} bytes")
        }
        DpsSetting::CaFileEmpty { path } => format!("ca_file {path} holds no PEM certificate"),
        DpsSetting::NotAProxy(proxy) => {
            format!("the proxy {proxy} is not of the form http://HOST:PORT or https://HOST:PORT")
        }
        DpsSetting::ProxyCredential => "proxy_credential is not of the form USER:PASSWORD".to_owned(),
        DpsSetting::Client(said) => format!("no TLS client can be made of it ({said})"),
    }
}

fn record(why: &RecordTrouble) -> String {
    match why {
        RecordTrouble::Complaint(words) => complaint(words),
        RecordTrouble::Foreign(found) => foreign(found),
        RecordTrouble::NotHeld => "it was sent, and the service does not hold it".to_owned(),
        RecordTrouble::NotDisabled => "it was not disabled after all".to_owned(),
        RecordTrouble::NotDeleted => "it was not deleted after all".to_owned(),
        RecordTrouble::Unrecorded(said) => {
            format!("the ledger does not take what came of it: {said}")
        }
        RecordTrouble::NoAnswer(why) => format!("no usable answer ({})", no_answer(why)),
        RecordTrouble::Malformed(why) => {
            format!(
                "an answer that the protocol does not know ({})",
                malformed(why)
            )
        }
    }
}

/// All fields by name first, so that none is lost where the text is cut.
fn foreign(found: &[Difference]) -> String {
    let fields: Vec<_> = found.iter().map(|one| one.field.as_str()).collect();
    let details: Vec<_> = found.iter().map(difference).collect();
    let details = harmless(&details.join("; "), DETAILS_MAX);
    format!(
        "another record is there, with another {}: {details}",
        fields.join(", ")
    )
}
