//! Describes transport errors and responses of foreign servers in one sentence for people.
//! Also decides whether another attempt can help. Makes no calls.

use http::{HeaderMap, StatusCode, header};
use protocol::ErrorBody;
use rustls::CertificateError;
use std::{error::Error, io};

/// Upper limit in characters of the part of a server's text that is shown.
const SHOWN: usize = 200;

/// A call that failed before a response arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportError {
    /// The root cause, without the URL.
    pub text: String,
    /// Another attempt would fail as well, because TLS was refused.
    pub is_permanent: bool,
}

/// Returns the root cause of `error`, or an explanation with a remedy if it is a TLS error.
pub fn describe(error: &(dyn Error + 'static)) -> TransportError {
    let mut cause = error;
    loop {
        if let Some(tls) = tls_error(cause).and_then(explain_tls) {
            return TransportError { text: tls, is_permanent: true };
        }
        match cause.source() {
            Some(inner) => cause = inner,
            // Only the innermost cause is shown: the outer ones repeat the URL.
            None => return TransportError { text: cause.to_string(), is_permanent: false },
        }
    }
}

/// Finds a TLS error in `error`. `io::Error::source` skips the error it was made of, so that this looks into it.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref() {
        return Some(tls);
    }
    tls_error(error.downcast_ref::<io::Error>()?.get_ref()?)
}

fn explain_tls(error: &rustls::Error) -> Option<String> {
    let rustls::Error::InvalidCertificate(why) = error else {
        return matches!(error, rustls::Error::InvalidMessage(_)).then(|| {
            format!("the server does not speak TLS at this port ({error}): use http:// and ws:// there")
        });
    };
    let (what, remedy) = match why {
        CertificateError::UnknownIssuer => (
            "is not trusted, because its issuer is unknown".to_owned(),
            "name the certificate of the CA that issued it with --ca-file FILE",
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            ("has expired".to_owned(), "renew it, or check this machine's clock")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ("is not valid yet".to_owned(), "check this machine's clock")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            (format!("is not valid for this host ({why})"), "use a host name that the certificate lists")
        }
        _ => (
            format!("is not valid ({why})"),
            "if you issued it yourself, name the certificate of its CA with --ca-file FILE; the server's own certificate must not be a CA's",
        ),
    };
    Some(format!("the server's certificate {what}: {remedy}"))
}

/// Describes a response that is not a success: status, redirect target, requested delay, and the start of the body.
pub fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> String {
    let wait = headers.get(header::RETRY_AFTER).and_then(|wait| wait.to_str().ok());
    let wait = wait.map(|wait| format!(", Retry-After: {}", cut(wait))).unwrap_or_default();
    let location = headers.get(header::LOCATION).filter(|_| status.is_redirection());
    let location = location.map(|location| String::from_utf8_lossy(location.as_bytes()).into_owned());
    match location {
        Some(location) => {
            format!(
                "{status}, Location: {}: redirects are not followed; use that address as the target",
                cut(&location)
            )
        }
        None => format!("{status}{wait}{}", detail(body)),
    }
}

/// Returns `: ` and the start of a body's text, or nothing if the body has no text.
pub fn detail(body: &[u8]) -> String {
    let text = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(error) => error.detail,
        Err(_) => first_text(body),
    };
    let text = cut(text.trim());
    if text.is_empty() { text } else { format!(": {text}") }
}

/// Describes a body that is not the expected JSON.
pub fn unreadable(body: &[u8], error: &serde_json::Error) -> String {
    if body.trim_ascii().is_empty() {
        return "the response is empty".to_owned();
    }
    if is_html(body) {
        return format!("the response is an HTML page, not JSON{}", detail(body));
    }
    format!("cannot read the response ({error}){}", detail(body))
}

fn is_html(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"<")
}

/// Returns the first visible line of an HTML page, which is its title if it has one. Other texts are returned unchanged.
fn first_text(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    if !is_html(body) {
        return text.into_owned();
    }
    let mut visible = String::new();
    let mut rest = &*text;
    while let Some(start) = rest.find('<') {
        visible.push_str(&rest[..start]);
        let tag = &rest[start..];
        let name: String = tag[1..].chars().take_while(char::is_ascii_alphanumeric).collect();
        let name = name.to_ascii_lowercase();
        // The contents of these elements are not visible.
        let end = match name.as_str() {
            "script" | "style" => find_ignoring_case(tag, &format!("</{name}")),
            _ => None,
        };
        let from = end.unwrap_or(0);
        let Some(close) = tag[from..].find('>') else {
            rest = "";
            break;
        };
        rest = &tag[from + close + 1..];
        if !is_inline(tag) {
            visible.push('\n');
        }
    }
    visible.push_str(rest);
    let line = visible.lines().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or_default().to_owned()
}

/// Returns whether the text after a tag continues the same line.
fn is_inline(tag: &str) -> bool {
    let name = tag.trim_start_matches(['<', '/']);
    let name: String = name.chars().take_while(char::is_ascii_alphanumeric).collect();
    ["a", "b", "code", "em", "i", "span", "strong"].contains(&name.to_ascii_lowercase().as_str())
}

fn find_ignoring_case(text: &str, what: &str) -> Option<usize> {
    text.to_ascii_lowercase().find(what)
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_redirect_names_where_to() {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, "https://host.test/login".parse().unwrap());
        let text = refusal(StatusCode::FOUND, &headers, b"<html>moved</html>");
        assert!(text.starts_with("302 Found, Location: https://host.test/login"), "{text}");
        let created = refusal(StatusCode::BAD_REQUEST, &headers, b"");
        assert_eq!(created, "400 Bad Request", "a location without a redirect is ignored");
    }

    #[test]
    fn a_page_is_described_by_its_first_line() {
        for (body, line) in [
            (r#"{"detail":"full"}"#, ": full"),
            ("plain text", ": plain text"),
            ("", ""),
            ("<html></html>", ""),
            (
                "<html><body><h1>503 Service Unavailable</h1>\nNo server is available.\n</body></html>\n",
                ": 503 Service Unavailable",
            ),
            (
                "<!DOCTYPE html>\n<html>\n<head><style>a < b {}</style><SCRIPT>x > 1</SCRIPT>\n<title>\n Sign <b>in</b> here\n</title></head>",
                ": Sign in here",
            ),
            ("<p>cut off in a <tag", ": cut off in a"),
        ] {
            assert_eq!(detail(body.as_bytes()), line, "{body}");
        }
    }

    #[test]
    fn a_response_that_is_not_json_is_described() {
        let error = || serde_json::from_slice::<u8>(b"<").unwrap_err();
        assert_eq!(unreadable(b" \n", &error()), "the response is empty");
        let page = unreadable(b"<html><title>Login</title>", &error());
        assert_eq!(page, "the response is an HTML page, not JSON: Login");
        assert!(unreadable(b"OK", &error()).ends_with("): OK"));
    }

    #[test]
    fn certificate_errors_are_found_at_any_depth() {
        let untrusted = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let inner = io::Error::new(io::ErrorKind::InvalidData, untrusted());
        for error in [inner, io::Error::other(io::Error::other(untrusted()))] {
            let trouble = describe(&error);
            assert!(trouble.is_permanent && trouble.text.contains("--ca-file"), "{trouble:?}");
            assert!(trouble.text.contains("certificate is not trusted"), "{trouble:?}");
        }
        let expired = rustls::Error::InvalidCertificate(CertificateError::Expired);
        assert!(describe(&expired).text.contains("certificate has expired"));
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(
            describe(&refused),
            TransportError { text: "connection refused".into(), is_permanent: false }
        );
    }

    proptest! {
        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200), page in "<[<>/a-z !é]{0,80}") {
            prop_assert!(detail(&body).chars().count() <= SHOWN + 2);
            prop_assert!(detail(page.as_bytes()).chars().count() <= SHOWN + 2);
        }
    }
}
