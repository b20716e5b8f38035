//! Which proxy the calls go through, and who the station is to it. User and password are never shown.

use crate::provision::fault::{DpsSetting, harmless};
use data_encoding::BASE64;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

/// Longest proxy URL that is shown, in characters.
const SHOWN_MAX: usize = 300;

/// Whether calls go through a proxy.
pub enum ProxyChoice {
    /// As the system's variables say: `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, in capitals or not, as curl reads them.
    System,
    /// Never, whatever those say.
    Never,
    /// Through this one.
    At {
        /// `http://HOST:PORT` or `https://HOST:PORT`.
        url: String,
        /// `USER:PASSWORD`, where it wants to know.
        credential: Option<SecretString>,
    },
}

/// The proxy that is used.
pub(super) struct Route {
    /// Its URL, as it may be shown.
    pub(super) shown: String,
    /// What says who the station is to it; absent where it is not told.
    authorization: Option<HeaderValue>,
}

impl Route {
    /// The proxy to a service; none where calls go there straight.
    pub(super) fn to(service: &Url, choice: &ProxyChoice) -> Result<Option<Self>, DpsSetting> {
        match choice {
            ProxyChoice::Never => Ok(None),
            ProxyChoice::System => {
                let target = service.as_str().parse().ok();
                let Some(found) = target.and_then(|target| Matcher::from_env().intercept(&target))
                else {
                    return Ok(None);
                };
                Ok(Some(Self {
                    shown: shown(&found.uri().to_string())?,
                    authorization: found.basic_auth().cloned(),
                }))
            }
            ProxyChoice::At { url, credential } => Ok(Some(Self {
                shown: shown(url)?,
                authorization: credential.as_ref().map(authorization).transpose()?,
            })),
        }
    }

    /// Whether the proxy is told who the station is.
    pub(super) fn known(&self) -> bool {
        self.authorization.is_some()
    }

    /// The same for the HTTP client.
    pub(super) fn proxy(&self) -> reqwest::Result<reqwest::Proxy> {
        let proxy = reqwest::Proxy::all(&self.shown)?;
        Ok(match &self.authorization {
            Some(value) => proxy.custom_http_auth(value.clone()),
            None => proxy,
        })
    }
}

/// Scheme, host and port of a proxy's URL.
fn shown(text: &str) -> Result<String, DpsSetting> {
    let without_user = match text.rsplit_once('@') {
        Some((_, rest)) => rest,
        None => text,
    };
    let wrong = || DpsSetting::NotAProxy(harmless(without_user, SHOWN_MAX));
    let url = Url::parse(text).map_err(|_| wrong())?;
    let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    match (url.scheme(), url.host_str(), url.port_or_known_default()) {
        (scheme @ ("http" | "https"), Some(host), Some(port)) if plain => {
            Ok(format!("{scheme}://{host}:{port}"))
        }
        _ => Err(wrong()),
    }
}

fn authorization(credential: &SecretString) -> Result<HeaderValue, DpsSetting> {
    let text = credential.expose_secret().trim();
    if !text.contains(':') {
        return Err(DpsSetting::ProxyCredential);
    }
    let value = format!("Basic {}", BASE64.encode(text.as_bytes()));
    let mut value = HeaderValue::from_str(&value).map_err(|_| DpsSetting::ProxyCredential)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn at(url: &str, credential: Option<&str>) -> Result<Option<Route>, DpsSetting> {
        let choice = ProxyChoice::At {
            url: url.to_owned(),
            credential: credential.map(SecretString::from),
        };
        Route::to(&Url::parse("https://dps.example").unwrap(), &choice)
    }

    #[test]
    fn a_proxy_is_shown_by_scheme_host_and_port_alone() {
        for (url, wanted) in [
            ("http://proxy:3128", "http://proxy:3128"),
            ("http://proxy", "http://proxy:80"),
            ("https://user:secret@proxy:8443/", "https://proxy:8443"),
        ] {
            assert_eq!(at(url, None).unwrap().unwrap().shown, wanted);
        }
        for url in [
            "proxy:3128",
            "socks5://u:secret@proxy",
            "http://proxy/x",
            "http://u:secret@",
        ] {
            let why = at(url, None).map(|_| ()).unwrap_err();
            assert!(matches!(why, DpsSetting::NotAProxy(_)), "{url}: {why:?}");
            assert!(!format!("{why:?}").contains("secret"), "{why:?}");
        }
    }

    #[test]
    fn a_credential_is_user_and_password() {
        let route = at("http://proxy:3128", Some("aladdin:opensesame"))
            .unwrap()
            .unwrap();
        let value = route.authorization.unwrap();
        assert_eq!(value, "Basic YWxhZGRpbjpvcGVuc2VzYW1l");
        assert!(value.is_sensitive());
        let why = at("http://proxy:3128", Some("secret"))
            .map(|_| ())
            .unwrap_err();
        assert_eq!(why, DpsSetting::ProxyCredential);
    }
}
