//! The address of a target: its URL, the credentials from that URL, and a redacted form for messages.

use crate::secret::{REDACTED, Secrets};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;
use std::fmt;
use url::Url;

/// The address that HTTP calls or sockets go to.
#[derive(Clone)]
pub struct Address {
    /// The URL without user, password and fragment.
    url: Url,
    /// The value `Basic …`, made from the URL's user and password.
    authorization: Option<HeaderValue>,
    secrets: Secrets,
}

impl Address {
    /// Creates an address from `url` and moves the credentials out of the URL.
    #[must_use]
    pub fn new(mut url: Url) -> Self {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (user, password) = (decoded(url.username()), decoded(url.password().unwrap_or_default()));
        let mut secrets = Secrets::default();
        let mut authorization = None;
        if !user.is_empty() || !password.is_empty() {
            let encoded = STANDARD.encode(format!("{user}:{password}"));
            authorization = HeaderValue::from_str(&format!("Basic {encoded}")).ok();
            for text in [&password, url.password().unwrap_or_default(), &encoded] {
                secrets.add(text);
            }
        }
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        for (_, value) in url.query_pairs() {
            secrets.add(&value);
        }
        url.query().into_iter().flat_map(query_values).for_each(|value| secrets.add(value));
        // Both calls fail only for URLs without a host; the schemes of our targets have one.
        let _ = (url.set_username(""), url.set_password(None));
        url.set_fragment(None);
        Self { url, authorization, secrets }
    }

    /// Returns the URL without credentials. Its query may hold a secret: print the address instead of this URL.
    #[must_use]
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// Returns the `Authorization` header made from the URL's user and password.
    #[must_use]
    pub const fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Returns the secrets of the URL, which no output may contain.
    #[must_use]
    pub const fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Returns the host, followed by the port if the URL names one.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Returns scheme, authority and path without a slash at the end, for messages.
    #[must_use]
    pub fn base(&self) -> String {
        format!("{}://{}{}", self.url.scheme(), self.authority(), self.prefix())
    }

    /// Returns the URL's path, which precedes the path of each call, without a slash at the end.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.url.path().trim_end_matches('/')
    }

    /// Returns the path and query of a call to `path` below this address. `path` may include a query.
    #[must_use]
    pub fn join(&self, path: &str) -> String {
        let mut joined = format!("{}{path}", self.prefix());
        if let Some(query) = self.url.query().filter(|query| !query.is_empty()) {
            joined.push(if path.contains('?') { '&' } else { '?' });
            joined.push_str(query);
        }
        joined
    }
}

/// Shows the URL with the credentials and all query values redacted.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credentials = if self.authorization.is_some() { format!("{REDACTED}@") } else { String::new() };
        write!(f, "{}://{credentials}{}{}", self.url.scheme(), self.authority(), self.url.path())?;
        match self.url.query() {
            Some(query) => write!(f, "?{}", redacted_query(query)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// Returns the values of a query as they are encoded in it.
fn query_values(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value))
}

/// Returns a query with every value redacted, except placeholders such as `{token}`.
pub fn redacted_query(query: &str) -> String {
    let pair = |pair: &str| match pair.split_once('=') {
        Some((_, value)) if is_placeholder(value) => pair.to_owned(),
        Some((name, _)) => format!("{name}={REDACTED}"),
        None if pair.is_empty() || is_placeholder(pair) => pair.to_owned(),
        None => REDACTED.to_owned(),
    };
    query.split('&').map(pair).collect::<Vec<_>>().join("&")
}

fn is_placeholder(text: &str) -> bool {
    text.starts_with('{') && text.ends_with('}')
}

/// Returns a text that should have been a URL, with every part redacted that may be a secret.
pub fn redacted_text(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
    let rest = match (rest.rsplit_once('@'), rest.rsplit_once(':')) {
        (Some((_, host)), _) => format!("{REDACTED}@{host}"),
        // Behind a colon that no port follows there may be a password that was cut off at a comma.
        (None, Some((host, port))) if !port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{host}:{REDACTED}")
        }
        _ => rest.to_owned(),
    };
    let separator = if text.contains("://") { "://" } else { "" };
    let query = if query.is_empty() { String::new() } else { format!("?{REDACTED}") };
    format!("{scheme}{separator}{rest}{query}")
}

/// Adds `theirs` to `headers`. Existing headers of the same names are removed first.
pub fn replace_headers(headers: &mut HeaderMap, theirs: &HeaderMap) {
    for name in theirs.keys() {
        headers.remove(name);
    }
    for (name, value) in theirs {
        headers.append(name.clone(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(url: &str) -> Address {
        Address::new(url.parse().unwrap())
    }

    #[test]
    fn credentials_become_basic_and_are_shown_nowhere() {
        let target = address("http://user:s%20ecret@host.test:8080/base/?key=hush-hush&v#fragment");
        assert_eq!(target.authorization().unwrap(), "Basic dXNlcjpzIGVjcmV0");
        assert!(target.authorization().unwrap().is_sensitive());
        assert_eq!(target.to_string(), "http://redacted@host.test:8080/base/?key=redacted&redacted");
        assert_eq!(target.base(), "http://host.test:8080/base");
        assert_eq!(target.join("/ready"), "/base/ready?key=hush-hush&v");
        assert_eq!(target.join("/ws?x=1"), "/base/ws?x=1&key=hush-hush&v");
        let echoed = "user:s ecret, s%20ecret, dXNlcjpzIGVjcmV0, hush-hush";
        assert_eq!(target.secrets().hide(echoed), "user:redacted, redacted, redacted, redacted");
        assert!(!format!("{target:?}").contains("ecret"));
    }

    #[test]
    fn a_plain_address_stays_as_it_is() {
        let target = address("ws://[::1]:8081");
        assert_eq!(target.to_string(), "ws://[::1]:8081/");
        assert_eq!((target.authority().as_str(), target.join("/x").as_str()), ("[::1]:8081", "/x"));
        assert!(target.authorization().is_none());
    }

    #[test]
    fn a_user_without_a_password_is_sent_and_hidden() {
        let target = address("https://api-key@host.test");
        assert_eq!(target.authorization().unwrap(), "Basic YXBpLWtleTo=");
        assert_eq!(target.to_string(), "https://redacted@host.test/");
    }

    #[test]
    fn an_invalid_url_is_redacted() {
        assert_eq!(redacted_text("ftp://me:hush@x/y?key=hush"), "ftp://redacted@x/y?redacted");
        assert_eq!(redacted_text("me:hush@x"), "redacted@x");
        assert_eq!(redacted_text("ws://me:hush"), "ws://me:redacted");
        assert_eq!(redacted_text("ftp://x:80"), "ftp://x:80");
        assert_eq!(redacted_text("not a url"), "not a url");
    }

    #[test]
    fn placeholders_of_a_query_are_not_secrets() {
        assert_eq!(
            redacted_query("token={token}&key=hush&{session}"),
            "token={token}&key=redacted&{session}"
        );
    }

    #[test]
    fn a_header_replaces_ours_and_repeats_itself() {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("ours"));
        headers.insert("accept", HeaderValue::from_static("kept"));
        let mut theirs = HeaderMap::new();
        theirs.append("host", HeaderValue::from_static("one"));
        theirs.append("host", HeaderValue::from_static("two"));
        replace_headers(&mut headers, &theirs);
        assert_eq!(headers.get_all("host").iter().collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(headers["accept"], "kept");
    }

    proptest! {
        #[test]
        fn no_password_is_ever_shown(password in "[!-$&-~]{4,20}", key in "[!-~]{4,20}") {
            let mut url: Url = "http://host.test/".parse().unwrap();
            url.set_password(Some(&password)).unwrap();
            url.query_pairs_mut().append_pair("k", &key);
            let target = Address::new(url);
            prop_assert_eq!(target.to_string(), "http://redacted@host.test/?k=redacted");
            let message = target.secrets().hide(&password);
            prop_assert!(!message.contains(&password) || REDACTED.contains(&password), "{}", message);
        }
    }
}
