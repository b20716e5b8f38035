//! What kept a call from its answer: sorts the errors of the HTTP client.

use super::CALL_DEADLINE;
use super::error::{DpsError, NoConnection};
use super::proxy::Route;
use crate::provision::fault::{DpsSetting, NoAnswer, TrustFlaw, said};
use rustls::CertificateError;
use std::error::Error;

/// What an error of the HTTP client's means for a call that went by `route`.
pub(super) fn sorted(error: &reqwest::Error, route: Option<&Route>) -> DpsError {
    let why = cause(error);
    if let Some(flaw) = flaw(error) {
        return DpsError::Untrusted(flaw);
    }
    if let (Some(trouble), Some(route)) = (tunnel_trouble(error), route) {
        return match trouble.as_str() {
            WANTS_CREDENTIAL => DpsError::ProxyRefused {
                known: route.known(),
            },
            UNSUCCESSFUL => no_way("it makes no connection to the service".to_owned()),
            _ => no_way(why),
        };
    }
    if error.is_connect() {
        DpsError::Unreachable(NoConnection::Service(why))
    } else if error.is_builder() {
        DpsError::Configuration(DpsSetting::Client(why))
    } else if error.is_timeout() {
        DpsError::silence(NoAnswer::Timeout(CALL_DEADLINE.as_secs()))
    } else {
        DpsError::silence(NoAnswer::Network(why))
    }
}

/// The innermost error: the outer ones of an HTTP client say little and repeat the URL.
pub(super) fn cause(error: &reqwest::Error) -> String {
    let text = chain(error).last().map(ToString::to_string);
    // The TLS library adds where its manual explains that the other side just hung up.
    let text = text.unwrap_or_default();
    let text = text.split(": https://docs.rs/").next().unwrap_or_default();
    said(&text)
}

// hyper-util keeps the type of these errors to itself, so that there is only their text.
const TUNNEL: &str = "tunnel error: ";
const WANTS_CREDENTIAL: &str = "proxy authorization required";
const UNSUCCESSFUL: &str = "unsuccessful";

/// What went wrong between the station and its proxy, if that is it.
fn tunnel_trouble(error: &reqwest::Error) -> Option<String> {
    let texts = chain(error).map(ToString::to_string);
    let mut found = texts.filter_map(|text| text.strip_prefix(TUNNEL).map(str::to_owned));
    found.next()
}

fn no_way(said: String) -> DpsError {
    DpsError::Unreachable(NoConnection::Proxy(said))
}

/// What is wrong with the certificate of the server, if that is it.
fn flaw(error: &reqwest::Error) -> Option<TrustFlaw> {
    let tls = chain(error).find_map(|error| error.downcast_ref::<rustls::Error>())?;
    let rustls::Error::InvalidCertificate(flaw) = tls else {
        return None;
    };
    Some(match flaw {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TrustFlaw::AnotherName
        }
        CertificateError::UnknownIssuer => TrustFlaw::UnknownIssuer,
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => TrustFlaw::NotValidNow,
        other => TrustFlaw::Other(said(other)),
    })
}

/// An error and all that led to it, outermost first; also what is wrapped in an error of the system's.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    fn inner<'a>(error: &&'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
        let error: &'a (dyn Error + 'static) = *error;
        let wrapped = error.downcast_ref::<std::io::Error>();
        match wrapped.and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        }
    }
    std::iter::successors(Some(error), inner)
}
